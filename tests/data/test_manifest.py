"""The manifest: what it keeps, and that a broken or hostile one is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.data.manifest import (
    MANIFEST,
    Manifest,
    ShardEntry,
    parse_manifest,
    read_manifest,
    write_manifest,
)
from harness.errors import EvidenceError


def entry(name: str = "a_train_000001.bin", **fields: Any) -> ShardEntry:
    values = {
        "bytes": 1034,
        "sha256": "ab" * 32,
        "tokens": 5,
        "source": "somewhere",
        "revision": None,
        "date_utc": "2026-11-20T00:00:00Z",
        "vouched_by": "hub",
    }
    return ShardEntry(name=name, **(values | fields))


def test_round_trip_and_order(tmp_path: Path) -> None:
    manifest = Manifest().with_entry(entry("b.bin")).with_entry(entry("a.bin"))
    manifest = manifest.with_entry(entry("b.bin", tokens=6))
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert [shard.name for shard in manifest.shards] == ["a.bin", "b.bin"]
    assert manifest.shards[1].tokens == 6
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST]
    assert read_manifest(tmp_path / "elsewhere") is None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "../../etc/passwd"}, "name"),
        ({"name": "a/b.bin"}, "name"),
        ({"name": ".hidden"}, "name"),
        ({"name": "x\x1b[31m.bin"}, "name"),
        ({"sha256": "abc"}, "sha256"),
        ({"tokens": -1}, "tokens"),
        ({"bytes": "12"}, "bytes"),
        ({"vouched_by": "me"}, "vouched_by"),
        ({"more": 1}, "more"),
    ],
)
def test_hostile_entries_are_refused(change: dict[str, Any], field: str) -> None:
    shard = json.loads(entry().model_dump_json()) | change
    raw = json.dumps({"schema_version": 1, "shards": [shard]}).encode()
    with pytest.raises(EvidenceError) as caught:
        parse_manifest(raw, "here")
    assert field in caught.value.why


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff\xfe", b'{"schema_version": 2}'])
def test_what_is_no_manifest(raw: bytes) -> None:
    with pytest.raises(EvidenceError, match="cannot be read"):
        parse_manifest(raw, "here")


def test_a_name_twice_and_a_file_too_large(tmp_path: Path) -> None:
    shard = json.loads(entry().model_dump_json())
    raw = json.dumps({"schema_version": 1, "shards": [shard, shard]}).encode()
    with pytest.raises(EvidenceError, match="cannot be read") as caught:
        parse_manifest(raw, "here")
    assert "twice" in caught.value.why
    (tmp_path / MANIFEST).write_bytes(b" " * (5 << 20))
    with pytest.raises(EvidenceError) as caught:
        read_manifest(tmp_path)
    assert "larger than 4 MiB" in caught.value.why
