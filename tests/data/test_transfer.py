"""Downloads that stop half-way, servers with bad days, tokens that stay where they belong."""

from __future__ import annotations

import errno
import io
from pathlib import Path
from typing import Any

import pytest

from harness.data import retry, transfer
from harness.data.retry import ATTEMPTS, pause_s
from harness.data.transfer import Web, shown
from harness.errors import UnfitError
from tests.data.hub_server import HubServer
from tests.data.shards import TRAIN_1


class Bytes:
    """Adds up what the progress bar is told."""

    def __init__(self) -> None:
        self.total = 0

    def __call__(self, count: int) -> None:
        self.total += count


def bring(hub: HubServer, partial: Path, **fields: Any) -> tuple[Bytes, list[str]]:
    told, said = Bytes(), []
    size = fields.get("size", len(hub.files[TRAIN_1]))
    url = f"{hub.url}/mirror/{fields.get('name', TRAIN_1)}"
    Web({}).download(url, partial, size, told, said.append)
    return told, said


def test_truncated_transfer_goes_on_where_it_stopped(hub: HubServer, tmp_path: Path) -> None:
    hub.bad_days[TRAIN_1] = ["cut:10000", "cut:5000"]
    told, said = bring(hub, tmp_path / "part")
    content = hub.files[TRAIN_1]
    assert (tmp_path / "part").read_bytes() == content
    assert told.total == len(content)
    assert [seen.range for seen in hub.asked(TRAIN_1)] == [None, "bytes=10000-", "bytes=15000-"]
    assert f"ended after 10,000 of {len(content):,} bytes" in said[0]


def test_partial_file_of_an_earlier_process(hub: HubServer, tmp_path: Path) -> None:
    content = hub.files[TRAIN_1]
    (tmp_path / "part").write_bytes(content[:7777])
    told, _ = bring(hub, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == content
    assert told.total == len(content) - 7777
    bring(hub, tmp_path / "part")  # complete: nobody is asked
    assert len(hub.asked(TRAIN_1)) == 1


def test_server_without_ranges_starts_again(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(b"x" * 5000)
    hub.bad_days[TRAIN_1] = ["whole"]
    told, _ = bring(hub, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == hub.files[TRAIN_1]
    assert told.total == len(hub.files[TRAIN_1]) - 5000


@pytest.mark.parametrize("size", [None, 41_024])
def test_partial_file_longer_than_the_servers(
    hub: HubServer, tmp_path: Path, size: int | None
) -> None:
    assert len(hub.files[TRAIN_1]) == 41_024
    (tmp_path / "part").write_bytes(b"x" * 50_000)
    bring(hub, tmp_path / "part", size=size)
    assert (tmp_path / "part").read_bytes() == hub.files[TRAIN_1]


def test_busy_server_is_asked_again(hub: HubServer, tmp_path: Path) -> None:
    hub.bad_days[TRAIN_1] = ["503"] * (ATTEMPTS - 1)
    _, said = bring(hub, tmp_path / "part")
    assert len(said) == ATTEMPTS - 1
    assert "503 Service Unavailable; again in 0 s" in said[0]


def test_patience_ends(hub: HubServer, tmp_path: Path) -> None:
    hub.bad_days[TRAIN_1] = ["503"] * 4 + ["cut:1000"] + ["503"] * 50
    with pytest.raises(UnfitError, match="the source fails") as caught:
        bring(hub, tmp_path / "part")
    assert "503" in caught.value.why
    assert "resumes" in caught.value.fix
    # The fifth attempt brought bytes, so counting began anew with it.
    assert len(hub.asked(TRAIN_1)) == 4 + ATTEMPTS
    assert (tmp_path / "part").stat().st_size == 1000


def test_absent_file_is_not_asked_for_twice(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(UnfitError, match="does not have this file"):
        bring(hub, tmp_path / "part", name="nope.bin")
    assert len(hub.asked("nope.bin")) == 1


def test_size_that_contradicts_the_listing(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(UnfitError, match="41024 bytes, its listing says 40000"):
        bring(hub, tmp_path / "part", size=40_000)


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(UnfitError) as caught:
        Web({}).download("http://127.0.0.1:9/x", tmp_path / "part", 5, Bytes(), print)
    assert "refused" in caught.value.why


def test_full_disk_keeps_what_has_come(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.FileIO):
        def write(self, piece: Any) -> int:
            room = 8192 - self.tell()
            if room <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(bytes(piece)[:room])

    honest = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, mode, buffering=-1: Full(path, mode.replace("b", ""))
    )
    monkeypatch.setattr(transfer, "PIECE_BYTES", 4096)
    with pytest.raises(UnfitError, match="the disk is full") as caught:
        bring(hub, tmp_path / "part")
    assert "it resumes" in caught.value.fix
    assert (tmp_path / "part").stat().st_size == 8192
    monkeypatch.setattr(Path, "open", honest)
    bring(hub, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == hub.files[TRAIN_1]
    assert hub.asked(TRAIN_1)[-1].range == "bytes=8192-"


def test_token_stays_with_its_host(hub: HubServer, tmp_path: Path) -> None:
    from tests.data.hub_server import COMMIT, REPO

    url = f"{hub.url}/datasets/{REPO}/resolve/{COMMIT}/{TRAIN_1}"
    Web({"Authorization": "Bearer hf_secret"}).download(
        url, tmp_path / "part", None, Bytes(), print
    )
    first, second = hub.asked(TRAIN_1)
    assert first.authorization == "Bearer hf_secret"
    assert second.path.startswith("/storage/")
    assert second.authorization is None


def test_pauses_double_and_obey_the_server() -> None:
    class Asking(Exception):
        headers: dict[str, str] = {}  # noqa: RUF012

    Asking.headers = {"Retry-After": "7"}
    assert [pause_s(i, OSError()) for i in range(4)] == [
        retry.FIRST_PAUSE_S * factor for factor in (1, 2, 4, 8)
    ]
    assert pause_s(0, Asking()) == 7
    Asking.headers = {"Retry-After": "86400"}
    assert pause_s(0, Asking()) == retry.LONGEST_PAUSE_S


def test_urls_are_shown_without_secrets() -> None:
    assert shown("https://me:pw@host:8443/a/b?signature=1#x") == "https://host:8443/a/b"
    assert shown("http://[::1]:80/x") == "http://[::1]:80/x"
