"""What can fail for free fails before run 1."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from harness.data.shard import shard_header
from harness.errors import UnfitError
from harness.preflight import (
    check_machine,
    contract_warnings,
    foreign_shards,
    hardware_reasons,
)
from harness.source import Source
from harness.tracks.track import load_track
from tests.support.series import fake_track, make_environment

TRACK = fake_track()
Usage = namedtuple("Usage", "total used free")


def test_a_folder_that_is_yet_to_be_made(tmp_path: Path) -> None:
    check_machine(TRACK, make_environment(), tmp_path / "a" / "b" / "c")


def test_a_folder_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UnfitError, match="needs a folder"):
            check_machine(TRACK, make_environment(), out)


def test_too_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2 << 30, 2 << 30, 5 << 20))
    with pytest.raises(UnfitError, match="too little free disk") as caught:
        check_machine(TRACK, make_environment(), tmp_path)
    assert "5 MiB free" in caught.value.why


def test_a_gpu_track_without_gpus(tmp_path: Path) -> None:
    with pytest.raises(UnfitError, match="needs NVIDIA GPUs"):
        check_machine(load_track("small"), make_environment(), tmp_path)


@pytest.mark.parametrize(
    ("gpus", "words"),
    [
        (["NVIDIA H100 80GB HBM3"] * 8, ""),
        (["NVIDIA H100 80GB HBM3"] * 2, "asks for 8 GPUs, this node has 2"),
        (["NVIDIA H200"] * 8, "hardware class H200"),
        (["NVIDIA A100"] * 8, "unknown GPUs (NVIDIA A100)"),
        (["NVIDIA H200", *["NVIDIA H100 80GB HBM3"] * 7], "unknown GPUs"),
    ],
)
def test_why_a_node_can_only_hold_an_exhibition(gpus: list[str], words: str) -> None:
    reasons = hardware_reasons(load_track("small"), make_environment(gpus))
    assert bool(reasons) == bool(words)
    assert all(words in reason for reason in reasons)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ([100_000_000] * 10, ""),
        ([100_000_000] * 10 + [53_000_000], ""),  # the last shard of a data set is short
        ([100_000_000, 42_839_109] + [100_000_000] * 8,
         "1 of 10 shards are not the track's, which hold 100,000,000 tokens each "
         "(fineweb_train_000001.bin: 42,839,109)"),
        ([10_486_627] + [42_839_109] * 9, "10 of 10 shards"),
    ],
)  # fmt: skip
def test_other_data_show_themselves_by_their_size(
    tokens: list[int], words: str, tmp_path: Path
) -> None:
    """The hashes of FineWeb's shards are not known to the track; how many tokens they hold is."""
    folder = tmp_path / "data" / "fineweb10B"
    folder.mkdir(parents=True)
    names = ["fineweb_val_000000.bin"]
    names += [f"fineweb_train_{i:06d}.bin" for i in range(1, len(tokens))]
    for name, count in zip(names, tokens, strict=True):
        (folder / name).write_bytes(shard_header(count))
    reason = foreign_shards(load_track("small"), tmp_path)
    assert (reason or "") == words if not words else words in (reason or "")
    assert foreign_shards(TRACK, tmp_path) is None


def test_hints_that_a_script_will_not_print_what_is_asked() -> None:
    good = 'f"val_loss:{x} train_time:{t}ms step_avg:{a}ms"; os.environ["RANK"]'
    assert contract_warnings(Source("a.py", {"a.py": good})) == []
    assert len(contract_warnings(Source("a.py", {"a.py": "pass"}))) == 2
    sibling = Source("a.py", {"a.py": "import b", "b.py": good})
    assert contract_warnings(sibling) == []
