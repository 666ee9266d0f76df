"""Fetching from a web server or a folder; two fetches at once; a fetch that is killed."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest

from harness.data.fetch import FetchRequest, FetchResult, fetch
from harness.data.manifest import MANIFEST, read_manifest
from harness.data.progress import ByteBar
from harness.errors import EvidenceError, UnfitError, UsageError
from tests.data.hub_server import COMMIT, HubServer
from tests.data.shards import (
    TRAIN_1,
    TRAIN_2,
    TRAIN_3,
    VAL,
    contents,
    lay_out,
    small_track,
    write_track,
)

ROOT = Path(__file__).resolve().parents[2]


def bring(root: Path, origin: str | Path, bar: ByteBar, shards: int = 2) -> FetchResult:
    return fetch(FetchRequest(small_track(), root, shards, origin=str(origin)), bar)


def sums(files: dict[str, bytes]) -> bytes:
    lines = [f"{hashlib.sha256(c).hexdigest()}  {name}\n" for name, c in files.items()]
    return "".join(lines).encode()


def same(root: Path, files: dict[str, bytes], names: tuple[str, ...]) -> bool:
    return all((root / "data/fineweb10B" / name).read_bytes() == files[name] for name in names)


def test_bare_web_server(hub: HubServer, tmp_path: Path, bar: ByteBar) -> None:
    result = bring(tmp_path, f"{hub.url}/mirror", bar)
    assert same(tmp_path, hub.files, (VAL, TRAIN_1, TRAIN_2))
    assert {shard.vouched_by for shard in result.shards} == {"this machine"}
    again = bring(tmp_path, f"{hub.url}/mirror/", bar)
    assert {shard.state for shard in again.shards} == {"here"}


def test_bare_web_server_without_head(hub: HubServer, tmp_path: Path, bar: ByteBar) -> None:
    hub.heads = False
    hub.bad_days[TRAIN_1] = ["cut:5000"]
    bring(tmp_path, f"{hub.url}/mirror", bar)
    assert same(tmp_path, hub.files, (VAL, TRAIN_1, TRAIN_2))


def test_bare_web_server_with_too_few(hub: HubServer, tmp_path: Path, bar: ByteBar) -> None:
    with pytest.raises(UnfitError, match="does not have this file") as caught:
        bring(tmp_path, f"{hub.url}/mirror", bar, shards=4)
    assert "fineweb_train_000004.bin" in caught.value.where


def test_sha256sums(hub: HubServer, tmp_path: Path, bar: ByteBar) -> None:
    made_elsewhere = sums(hub.files).replace(b"  fine", b" */mnt/a b/fine")
    hub.extras["SHA256SUMS"] = made_elsewhere + b"some comment\n"
    result = bring(tmp_path, f"{hub.url}/mirror", bar)
    assert {shard.vouched_by for shard in result.shards} == {"mirror SHA256SUMS"}
    wrong = bytearray(hub.files[TRAIN_3])
    wrong[-1] ^= 1
    hub.files[TRAIN_3] = bytes(wrong)
    with pytest.raises(EvidenceError, match=f"{TRAIN_3} is refused"):
        bring(tmp_path, f"{hub.url}/mirror", bar, shards=3)
    hub.extras["SHA256SUMS"] = sums(hub.files) + b"%s  %s" % (b"0" * 64, VAL.encode())
    with pytest.raises(UnfitError, match=f"two sums of {VAL}"):
        bring(tmp_path, f"{hub.url}/mirror", bar)
    hub.extras["SHA256SUMS"] = b"no sums here\n"
    with pytest.raises(UnfitError, match="holds no sums"):
        bring(tmp_path, f"{hub.url}/mirror", bar)


def test_mirror_with_our_manifest_keeps_the_hubs_commit(
    hub: HubServer, tmp_path: Path, bar: ByteBar
) -> None:
    pytest.importorskip("huggingface_hub", reason="the mirrored shards come from the hub")
    fetch(FetchRequest(small_track(), tmp_path / "first", 2), bar)
    hub.extras[MANIFEST] = (tmp_path / "first/data/fineweb10B" / MANIFEST).read_bytes()
    result = bring(tmp_path / "second", f"{hub.url}/mirror", bar)
    assert result.revision == COMMIT
    assert {shard.vouched_by for shard in result.shards} == {"mirror manifest"}
    hub.extras[MANIFEST] = b'{"schema_version": 1, "shards": [{"name": "../x"}]}'
    with pytest.raises(EvidenceError, match="manifest cannot be read"):
        bring(tmp_path / "third", f"{hub.url}/mirror", bar)


def test_folder_mirror(tmp_path: Path, bar: ByteBar) -> None:
    files = contents()
    place = lay_out(tmp_path / "mirror", files)
    os.mkfifo(place / "fineweb_train_000000.bin")  # never opened, never listed
    (place / "fineweb_train_[red]\x1b[31m.bin").write_bytes(files[VAL])  # no name for a manifest
    for target, origin in (("a", tmp_path / "mirror"), ("b", place)):
        bring(tmp_path / target, origin, bar, shards=3)
        assert same(tmp_path / target, files, (VAL, TRAIN_1, TRAIN_2, TRAIN_3))
        assert (tmp_path / target / "data/fineweb10B" / VAL).stat().st_ino != (
            place / VAL
        ).stat().st_ino


def test_folder_mirror_that_contradicts_its_own_sums(tmp_path: Path, bar: ByteBar) -> None:
    files = contents()
    place = lay_out(tmp_path / "mirror", files)
    (place / "SHA256SUMS").write_bytes(sums(files))
    (place / TRAIN_2).write_bytes(files[TRAIN_1])
    with pytest.raises(EvidenceError, match=f"{TRAIN_2} is refused"):
        bring(tmp_path / "here", place, bar)
    (place / TRAIN_2).unlink()
    with pytest.raises(UnfitError, match=f"{TRAIN_2} cannot be read"):
        bring(tmp_path / "here", place, bar)


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        ("ftp://host/x", "cannot fetch ftp"),
        ("file:///etc", "cannot fetch file"),
        ("https://me:secret@host/x", "plain address"),
        ("https://host/x?token=1", "plain address"),
        ("/no/such/folder", "no folder at"),
    ],
)
def test_origins_that_are_none(tmp_path: Path, bar: ByteBar, origin: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        bring(tmp_path, origin, bar)
    assert "secret" not in str(caught.value)


def test_revision_is_the_hubs_alone(tmp_path: Path, bar: ByteBar) -> None:
    request = FetchRequest(small_track(), tmp_path, 2, revision="main", origin=str(tmp_path))
    with pytest.raises(UsageError, match="--revision is the hub's"):
        fetch(request, bar)


def start(tmp_path: Path, origin: str) -> subprocess.Popen[str]:
    track = write_track(tmp_path / "mini.toml", train=2)
    command = [sys.executable, "-m", "harness.cli.main", "data", "fetch", "--from", origin]
    command += ["--track", str(track), "--dir", str(tmp_path / "here")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for_partial(tmp_path: Path, size: int) -> None:
    staging = tmp_path / "here/data/fineweb10B/.fetch"
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if any(part.stat().st_size == size for part in staging.glob(f"{TRAIN_1}.*.part")):
            return
        time.sleep(0.02)
    raise AssertionError("the transfer never began")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_fetch_resumes(hub: HubServer, tmp_path: Path, how: signal.Signals) -> None:
    hub.bad_days[TRAIN_1] = ["hold:30000"]
    first = start(tmp_path, f"{hub.url}/mirror")
    wait_for_partial(tmp_path, 30_000)
    folder = tmp_path / "here/data/fineweb10B"
    assert sorted(path.name for path in folder.glob("*.bin")) == [VAL]  # no half file
    first.send_signal(how)
    _, said = first.communicate(timeout=20)
    assert first.returncode == (130 if how == signal.SIGINT else -how)
    assert "Traceback" not in said
    hub.gate.set()
    second = start(tmp_path, f"{hub.url}/mirror")
    _, said = second.communicate(timeout=20)
    assert second.returncode == 0, said
    assert "going on after 30.0 kB" in said
    assert hub.asked(TRAIN_1)[-1].range == "bytes=30000-"
    assert same(tmp_path / "here", hub.files, (VAL, TRAIN_1, TRAIN_2))


def test_two_fetches_at_once(hub: HubServer, tmp_path: Path) -> None:
    hub.bad_days[TRAIN_1] = ["hold:30000"]
    first = start(tmp_path, f"{hub.url}/mirror")
    wait_for_partial(tmp_path, 30_000)
    second = start(tmp_path, f"{hub.url}/mirror")
    assert second.stderr is not None
    assert "waiting for it" in second.stderr.readline()
    hub.gate.set()
    ends = [process.communicate(timeout=20)[1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), ends
    assert "already here" in ends[1]
    assert same(tmp_path / "here", hub.files, (VAL, TRAIN_1, TRAIN_2))
    downloads = [s for s in hub.asked(TRAIN_2) if s.method == "GET"]
    assert len(downloads) == 1
    manifest = read_manifest(tmp_path / "here/data/fineweb10B")
    assert manifest is not None
    assert len(manifest.shards) == 3


def test_room_is_checked_where_only_sums_are_stated(
    hub: HubServer, tmp_path: Path, bar: ByteBar, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.extras["SHA256SUMS"] = sums(hub.files)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 64 << 20))
    with pytest.raises(UnfitError, match="too little free disk") as caught:
        bring(tmp_path, f"{hub.url}/mirror", bar)
    assert "123.1 kB to fetch" in caught.value.why
