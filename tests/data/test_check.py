"""`data check`: each way a shard can be wrong is named, with what to do."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from harness.data.check import CheckResult, Finding, check_data
from harness.data.fetch import FetchRequest, fetch
from harness.data.manifest import MANIFEST
from harness.data.progress import ByteBar
from harness.tracks.track import Track
from tests.data.shards import (
    TRAIN_1,
    TRAIN_2,
    TRAIN_3,
    VAL,
    contents,
    lay_out,
    shard,
    small_track,
    tokens_of,
)

COMMAND = "speedrun data fetch --track small"


@pytest.fixture
def fetched(tmp_path: Path, bar: ByteBar) -> Path:
    """A data folder with a manifest, filled from a mirror that states hashes."""
    place = lay_out(tmp_path / "mirror", contents())
    fetch(FetchRequest(small_track(), tmp_path / "mirror", 3, origin=str(place)), bar)
    fetch(FetchRequest(small_track(), tmp_path, 3, origin=str(place)), bar)
    return tmp_path / "data/fineweb10B"


def run(folder: Path, track: Track | None = None) -> CheckResult:
    from harness.terminal import Terminal

    return check_data(track or small_track(), folder.parents[1], COMMAND, ByteBar(Terminal()))


def only(result: CheckResult) -> Finding:
    assert len(result.findings) == 1, result.findings
    return result.findings[0]


def flip(path: Path, at: int = 5000) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_all_right(fetched: Path) -> None:
    result = run(fetched)
    assert result.findings == ()
    assert result.exit_code == 0
    assert list(result.facts) == [VAL, TRAIN_1, TRAIN_2, TRAIN_3]


def test_edited(fetched: Path) -> None:
    flip(fetched / TRAIN_2)
    finding = only(run(fetched))
    assert (finding.name, finding.kind) == (TRAIN_2, "wrong")
    assert "edited or another file" in finding.what
    assert "the manifest states" in finding.what
    # The mirror it came from is part of the remedy, and so is the number of shards.
    assert finding.fix.startswith(f"{COMMAND} --shards 3 --from ")
    assert run(fetched).exit_code == 3


def test_truncated(fetched: Path) -> None:
    path = fetched / TRAIN_1
    path.write_bytes(path.read_bytes()[:-100])
    finding = only(run(fetched))
    assert finding.name == TRAIN_1
    assert finding.what == "truncated: the header states 20,000 tokens, the file holds 19,950"


def test_another_size_with_a_sound_header(fetched: Path) -> None:
    (fetched / TRAIN_1).write_bytes(shard(tokens_of(19_000, 3)))
    assert only(run(fetched)).what == "39,024 bytes, the manifest states 41,024"


def test_swapped(fetched: Path) -> None:
    aside = fetched / "aside"
    (fetched / TRAIN_1).rename(aside)
    (fetched / TRAIN_3).rename(fetched / TRAIN_1)
    aside.rename(fetched / TRAIN_3)
    result = run(fetched)
    assert [(f.name, f.what) for f in result.findings] == [
        (TRAIN_1, f"swapped with {TRAIN_3}: each holds the other's tokens"),
        (TRAIN_3, f"swapped with {TRAIN_1}: each holds the other's tokens"),
    ]


def test_renamed(fetched: Path) -> None:
    (fetched / TRAIN_2).rename(fetched / "fineweb_train_000009.bin")
    found = {finding.name: finding for finding in run(fetched).findings}
    assert f"holds the tokens of {TRAIN_2}" in found["fineweb_train_000009.bin"].what
    assert found[TRAIN_2].kind == "missing"
    assert "in the manifest, not in the folder" in found[TRAIN_2].what


def test_duplicated_with_a_manifest(fetched: Path) -> None:
    (fetched / "fineweb_train_000004.bin").write_bytes((fetched / TRAIN_1).read_bytes())
    finding = only(run(fetched))
    assert finding.name == "fineweb_train_000004.bin"
    assert f"holds the tokens of {TRAIN_1}" in finding.what


@pytest.mark.parametrize(
    ("copied", "harm"),
    [(TRAIN_1, "the run would read them twice"), (VAL, "train on its validation tokens")],
)
def test_duplicated_without_a_manifest(tmp_path: Path, copied: str, harm: str) -> None:
    files = contents()
    folder = lay_out(tmp_path, files | {TRAIN_3: files[copied]})
    wrong = [finding for finding in run(folder).findings if finding.kind == "wrong"]
    assert [finding.name for finding in wrong] == [TRAIN_3]
    assert f"the same bytes as {copied}" in wrong[0].what
    assert harm in wrong[0].what


def test_duplicated_by_links(tmp_path: Path) -> None:
    folder = lay_out(tmp_path, contents())
    (folder / "fineweb_train_000004.bin").symlink_to(folder / TRAIN_1)
    assert run(folder).exit_code == 3


def test_planted_before_the_others(fetched: Path) -> None:
    (fetched / "fineweb_train_000000.bin").write_bytes(shard(tokens_of(500, 77)))
    finding = only(run(fetched))
    assert finding.kind == "wrong"
    assert finding.what == f"not in the manifest, and would be read before {TRAIN_2}"
    assert "move it" in finding.fix


def test_added_behind_the_others_is_unproven(fetched: Path) -> None:
    (fetched / "fineweb_train_000004.bin").write_bytes(shard(tokens_of(500, 77)))
    result = run(fetched)
    assert only(result).kind == "unproven"
    assert result.exit_code == 0


def test_without_a_manifest_it_says_what_it_cannot_say(tmp_path: Path) -> None:
    result = run(lay_out(tmp_path, contents()))
    finding = only(result)
    assert (finding.name, finding.kind) == ("4 shards", "unproven")
    assert "no manifest.json and the rules state no hashes" in finding.what
    assert result.exit_code == 0


def test_hashes_of_the_rules(tmp_path: Path) -> None:
    from hashlib import sha256

    files = contents()
    folder = lay_out(tmp_path, files)
    track = small_track()
    stated = {name: sha256(content).hexdigest() for name, content in files.items()}
    rule = track.data.model_copy(update={"sha256": stated})
    assert run(folder, track.model_copy(update={"data": rule})).findings == ()
    rule = track.data.model_copy(update={"sha256": stated | {TRAIN_1: "0" * 64}})
    finding = only(run(folder, track.model_copy(update={"data": rule})))
    assert (finding.name, finding.kind) == (TRAIN_1, "wrong")
    assert "the track's rules state 0000" in finding.what


def test_tokens_of_another_vocabulary(tmp_path: Path) -> None:
    tokens = tokens_of(1000, 5)
    tokens[[7, 900]] = 50300
    folder = lay_out(tmp_path, contents() | {TRAIN_2: shard(tokens)})
    wrong = [finding for finding in run(folder).findings if finding.kind == "wrong"]
    assert [finding.name for finding in wrong] == [TRAIN_2]
    assert "2 token ids of 50257 or more, the first at token 7" in wrong[0].what


def test_validation_shard_too_short(tmp_path: Path) -> None:
    folder = lay_out(tmp_path, contents() | {VAL: shard(tokens_of(900, 8))})
    wrong = [finding for finding in run(folder).findings if finding.kind == "wrong"]
    assert wrong[0].what == "900 tokens, the track validates on the first 1,000"


def test_missing_shards(tmp_path: Path) -> None:
    files = contents()
    folder = lay_out(tmp_path, {TRAIN_1: files[TRAIN_1], TRAIN_3: files[TRAIN_3]})
    result = run(folder, small_track(train_shards=3))
    missing = {f.name: f.what for f in result.findings if f.kind == "missing"}
    assert missing[VAL] == "the validation shard is not here"
    assert "the numbers jump" in missing[TRAIN_2]
    assert missing["fineweb_train_*.bin"] == "2 train shards, a run reads 3"
    assert result.exit_code == 4


def test_first_number_is_one(tmp_path: Path) -> None:
    files = contents()
    folder = lay_out(tmp_path, {VAL: files[VAL], TRAIN_2: files[TRAIN_2], TRAIN_3: files[TRAIN_3]})
    missing = [finding.name for finding in run(folder).findings if finding.kind == "missing"]
    assert missing == [TRAIN_1]


def test_what_cannot_be_read(tmp_path: Path) -> None:
    folder = lay_out(tmp_path, contents())
    (folder / TRAIN_2).unlink()
    os.mkfifo(folder / TRAIN_2)
    (folder / TRAIN_3).unlink()
    (folder / TRAIN_3).symlink_to(folder / "nowhere")
    (folder / "fineweb_train_000004.bin").mkdir()
    result = run(folder)
    missing = {f.name: f.what for f in result.findings if f.kind == "missing"}
    assert "not a regular file" in missing[TRAIN_2]
    assert "No such file" in missing[TRAIN_3]
    assert "not a regular file" in missing["fineweb_train_000004.bin"]


def test_broken_manifest_is_a_finding(fetched: Path) -> None:
    (fetched / MANIFEST).write_text("{}}")
    result = run(fetched)
    assert result.exit_code == 3
    assert result.findings[0].name == MANIFEST
    assert len(result.facts) == 4  # the shards are read all the same


def test_no_folder_at_all(tmp_path: Path) -> None:
    assert run(tmp_path / "data/fineweb10B").exit_code == 4


def test_manifest_that_states_other_tracks_shards(fetched: Path) -> None:
    (fetched / "notes.bin").write_bytes(b"not read by any run")
    assert run(fetched).findings == ()


def test_numbers_far_away_do_not_list_a_million_names(tmp_path: Path) -> None:
    folder = lay_out(tmp_path, contents())
    tokens = np.full(10, 50256, "<u2")
    (folder / "fineweb_train_999999.bin").write_bytes(shard(tokens))
    missing = [finding for finding in run(folder).findings if finding.kind == "missing"]
    assert len(missing) == 20
