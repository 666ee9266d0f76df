"""What `submit` asks of the shards before run 1."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.data import hash_cache
from harness.data.fetch import FetchRequest, fetch
from harness.data.progress import ByteBar
from harness.errors import UnfitError
from harness.preflight import find_data, hash_data
from tests.data.shards import TRAIN_1, TRAIN_2, TRAIN_3, VAL, contents, lay_out, small_track


def test_every_shard_a_run_can_read_is_hashed(tmp_path: Path) -> None:
    track = small_track(train_shards=2)
    lay_out(tmp_path, contents())
    assert find_data(track, tmp_path, tmp_path, tmp_path) == tmp_path.resolve()
    assert list(hash_data(track, tmp_path)) == [VAL, TRAIN_1, TRAIN_2, TRAIN_3]


def test_data_path_is_obeyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(tmp_path / "there", contents())
    monkeypatch.setenv("DATA_PATH", str(tmp_path / "there"))
    found = find_data(small_track(), None, tmp_path, tmp_path)
    assert found == (tmp_path / "there").resolve()


def test_missing_shards_name_the_fetch(tmp_path: Path) -> None:
    files = contents()
    del files[VAL]
    lay_out(tmp_path, files)
    with pytest.raises(UnfitError) as caught:
        find_data(small_track(train_shards=4), tmp_path, tmp_path, tmp_path)
    assert "found 3 of at least 4 train shards, validation shard absent" in caught.value.why
    assert f"speedrun data fetch --track small --dir {tmp_path}" in caught.value.fix


def test_a_shard_edited_after_the_fetch_is_refused(
    tmp_path: Path, bar: ByteBar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hash_cache, "RACY_NS", 0)
    lay_out(tmp_path / "mirror", contents())
    track = small_track()
    fetch(FetchRequest(track, tmp_path / "here", 2, origin=str(tmp_path / "mirror")), bar)
    before = hash_data(track, tmp_path / "here")
    assert before == hash_data(track, tmp_path / "here")
    path = tmp_path / "here/data/fineweb10B" / TRAIN_2
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)
    with pytest.raises(UnfitError, match=f"{TRAIN_2} is not the manifest's shard") as caught:
        hash_data(track, tmp_path / "here")
    assert "manifest.json states" in caught.value.why


def test_the_rules_stand_above_the_manifest(tmp_path: Path) -> None:
    track = small_track()
    rule = track.data.model_copy(update={"sha256": {TRAIN_1: "0" * 64}})
    track = track.model_copy(update={"data": rule})
    lay_out(tmp_path, contents())
    with pytest.raises(UnfitError, match=f"{TRAIN_1} is not the track's shard"):
        hash_data(track, tmp_path)
