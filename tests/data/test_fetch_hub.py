"""Fetching from a hub on loopback through huggingface_hub."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from harness.data.fetch import FetchRequest, FetchResult, fetch
from harness.data.manifest import read_manifest
from harness.data.progress import ByteBar
from harness.errors import EvidenceError, UnfitError, UsageError
from tests.data.hub_server import COMMIT, REPO, HubServer
from tests.data.shards import (
    TRAIN_1,
    TRAIN_2,
    TRAIN_3,
    VAL,
    contents,
    shard,
    small_track,
    tokens_of,
)

pytest.importorskip("huggingface_hub", reason="fetching from the hub needs the extra `data`")


def bring(root: Path, bar: ByteBar, shards: int = 2, revision: str | None = None) -> FetchResult:
    return fetch(FetchRequest(small_track(), root, shards, revision), bar)


def folder(root: Path) -> Path:
    return root / "data/fineweb10B"


def test_fetch_writes_shards_and_manifest(hub: HubServer, tmp_path: Path, bar: ByteBar) -> None:
    result = bring(tmp_path, bar)
    assert [(s.name, s.state) for s in result.shards] == [
        (name, "fetched") for name in (VAL, TRAIN_1, TRAIN_2)
    ]
    assert result.revision == COMMIT
    manifest = read_manifest(folder(tmp_path))
    assert manifest is not None
    assert len(manifest.shards) == 3
    for entry in manifest.shards:
        content = (folder(tmp_path) / entry.name).read_bytes()
        assert content == hub.files[entry.name]
        assert entry.sha256 == hashlib.sha256(content).hexdigest()
        assert (entry.bytes, entry.tokens) == (len(content), 20_000)
        assert entry.revision == COMMIT  # what `main` was, not its name
        assert entry.source == f"{hub.url}/datasets/{REPO}"
        assert entry.vouched_by == "hub"
    assert [path.name for path in (folder(tmp_path) / ".fetch").iterdir()] == ["lock"]
    assert all(COMMIT in seen.path for seen in hub.asked("/resolve/"))


def test_second_fetch_asks_nobody(hub: HubServer, tmp_path: Path, bar: ByteBar) -> None:
    bring(tmp_path, bar)
    asked = len(hub.seen)
    again = bring(tmp_path, bar)
    assert {shard.state for shard in again.shards} == {"here"}
    assert again.revision == COMMIT
    assert len(hub.seen) == asked


def test_more_shards_come_from_the_same_commit(
    hub: HubServer, tmp_path: Path, bar: ByteBar
) -> None:
    bring(tmp_path, bar)
    hub.revisions["main"] = "f" * 40  # the branch moved on
    result = bring(tmp_path, bar, shards=3)
    assert [shard.state for shard in result.shards] == ["here", "here", "here", "fetched"]
    assert result.revision == COMMIT
    assert bring(tmp_path, bar, revision="main").revision == "f" * 40


def test_truncated_and_busy(hub: HubServer, tmp_path: Path, bar: ByteBar) -> None:
    hub.bad_days = {TRAIN_1: ["cut:9000", "503", "cut:10"], "api": ["503", "500"]}
    bring(tmp_path, bar)
    assert (folder(tmp_path) / TRAIN_1).read_bytes() == hub.files[TRAIN_1]
    ranges = [seen.range for seen in hub.asked("/storage/" + TRAIN_1)]
    assert ranges == [None, "bytes=9000-", "bytes=9000-", "bytes=9010-"]


def test_wrong_hash_is_refused(hub: HubServer, tmp_path: Path, bar: ByteBar) -> None:
    hub.stated[TRAIN_1] = shard(tokens_of(20_000, seed=99))  # same size, other tokens
    with pytest.raises(EvidenceError, match=f"{TRAIN_1} is refused") as caught:
        bring(tmp_path, bar)
    assert caught.value.exit_code == 3
    assert "the source states" in caught.value.why
    assert not (folder(tmp_path) / TRAIN_1).exists()
    assert len(hub.asked("/storage/" + TRAIN_1)) == 2  # tried twice from the start
    manifest = read_manifest(folder(tmp_path))
    assert manifest is not None
    assert [entry.name for entry in manifest.shards] == [VAL]  # what was right is kept


def test_poisoned_partial_file_is_brought_anew(
    hub: HubServer, tmp_path: Path, bar: ByteBar
) -> None:
    key = hashlib.sha256(hub.files[TRAIN_1]).hexdigest()[:12]
    staging = folder(tmp_path) / ".fetch"
    staging.mkdir(parents=True)
    (staging / f"{TRAIN_1}.{key}.part").write_bytes(b"y" * 500)
    bring(tmp_path, bar)
    assert (folder(tmp_path) / TRAIN_1).read_bytes() == hub.files[TRAIN_1]


def test_the_hubs_file_is_no_shard(hub: HubServer, tmp_path: Path, bar: ByteBar) -> None:
    hub.files[TRAIN_1] = b"<html>" + b" " * 3000
    with pytest.raises(EvidenceError) as caught:
        bring(tmp_path, bar)
    assert "not a token shard" in caught.value.why


def test_a_wrong_file_here_is_kept_aside(hub: HubServer, tmp_path: Path, bar: ByteBar) -> None:
    bring(tmp_path, bar)
    for number, broken in enumerate((b"edited", hub.files[TRAIN_1][:-2]), 1):
        (folder(tmp_path) / TRAIN_1).write_bytes(broken)
        result = bring(tmp_path, bar)
        assert [shard.state for shard in result.shards] == ["here", "replaced", "here"]
        assert (folder(tmp_path) / TRAIN_1).read_bytes() == hub.files[TRAIN_1]
        suffix = "" if number == 1 else f"-{number}"
        kept = folder(tmp_path) / f"{TRAIN_1}.replaced{suffix}"
        assert kept.read_bytes() == broken


def test_right_files_without_a_manifest_are_entered(
    hub: HubServer, tmp_path: Path, bar: ByteBar
) -> None:
    folder(tmp_path).mkdir(parents=True)
    (folder(tmp_path) / TRAIN_2).write_bytes(hub.files[TRAIN_2])
    result = bring(tmp_path, bar)
    assert [shard.state for shard in result.shards] == ["fetched", "fetched", "here"]
    manifest = read_manifest(folder(tmp_path))
    assert manifest is not None
    entry = manifest.entry(TRAIN_2)
    assert entry is not None
    assert (entry.tokens, entry.revision) == (20_000, COMMIT)


def test_too_little_room_is_said_before_the_first_byte(
    hub: HubServer, tmp_path: Path, bar: ByteBar, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 64 << 20))
    with pytest.raises(UnfitError, match="too little free disk") as caught:
        bring(tmp_path, bar)
    assert "123.1 kB to fetch" in caught.value.why
    assert not hub.asked("/resolve/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, (64 << 20) + 123_072))
    bring(tmp_path, bar)


def test_what_the_hub_does_not_have(hub: HubServer, tmp_path: Path, bar: ByteBar) -> None:
    with pytest.raises(UsageError, match="no revision 'nope'"):
        bring(tmp_path, bar, revision="nope")
    with pytest.raises(UsageError, match="has 3 train shards, 9 are wanted"):
        bring(tmp_path, bar, shards=9)
    del hub.files[VAL]
    with pytest.raises(UnfitError, match="does not have the shards of track small"):
        bring(tmp_path, bar)


def test_a_file_that_vanished_between_listing_and_download(
    hub: HubServer, tmp_path: Path, bar: ByteBar
) -> None:
    hub.stated[TRAIN_1] = hub.files.pop(TRAIN_1)
    with pytest.raises(UnfitError, match="does not have this file"):
        bring(tmp_path, bar)


def test_hub_out_of_reach(
    tmp_path: Path, bar: ByteBar, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.bad_days["api"] = ["503"] * 20
    with pytest.raises(UnfitError, match="the source fails"):
        bring(tmp_path, bar)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UnfitError, match="the hub cannot be reached") as caught:
        bring(tmp_path, bar)
    assert "--from" in caught.value.fix


def test_rules_that_state_another_hash(hub: HubServer, tmp_path: Path, bar: ByteBar) -> None:
    track = small_track()
    rule = track.data.model_copy(update={"sha256": {VAL: "0" * 64}})
    track = track.model_copy(update={"data": rule})
    with pytest.raises(EvidenceError, match=f"the source's {VAL} is not the track's"):
        fetch(FetchRequest(track, tmp_path, 2), bar)
    assert not hub.asked("/resolve/")


def test_without_the_library(tmp_path: Path, bar: ByteBar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UnfitError, match="needs the package huggingface_hub") as caught:
        bring(tmp_path, bar)
    assert 'pip install "speedrun[data]"' in caught.value.fix


def test_hub_names_never_leave_the_folder(hub: HubServer, tmp_path: Path, bar: ByteBar) -> None:
    hub.files["../../fineweb_train_000000.bin"] = hub.files[TRAIN_1]
    hub.files["sub/fineweb_train_000000.bin"] = hub.files[TRAIN_1]
    result = bring(tmp_path, bar, shards=3)
    assert [shard.name for shard in result.shards] == [VAL, TRAIN_1, TRAIN_2, TRAIN_3]
    assert contents()[TRAIN_3] == (folder(tmp_path) / TRAIN_3).read_bytes()
