"""`manifest.json` beside the shards: what each file is and where it came from.

The manifest is written by `speedrun data fetch` and `pack`. It says what was fetched, not what
is official: a track's own stated hashes stand above it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.canonical import dumps
from harness.data.files import write_atomically
from harness.errors import EvidenceError

MANIFEST = "manifest.json"
MANIFEST_LIMIT_BYTES = 4 << 20
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$"

Voucher = Literal["hub", "mirror manifest", "mirror SHA256SUMS", "rules", "this machine"]


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class ShardEntry(_Record):
    """One shard. `revision` is the hub's commit; None where the source has none."""

    name: str = Field(pattern=NAME_PATTERN)
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    tokens: int = Field(ge=0)
    source: str
    revision: str | None = None
    date_utc: str
    vouched_by: Voucher = Field(
        description="who stated the sha256 before the bytes came; 'this machine': nobody did"
    )


class Manifest(_Record):
    """All shards that were put into the folder, in order of their names."""

    schema_version: Literal[1] = 1
    shards: tuple[ShardEntry, ...] = ()

    def entry(self, name: str) -> ShardEntry | None:
        return next((shard for shard in self.shards if shard.name == name), None)

    def with_entry(self, entry: ShardEntry) -> Manifest:
        """The same with this entry added, or put in the place of one of its name."""
        others = [shard for shard in self.shards if shard.name != entry.name]
        return Manifest(shards=tuple(sorted((*others, entry), key=lambda shard: shard.name)))


def parse_manifest(raw: bytes, where: str) -> Manifest:
    """Manifest from its bytes; raises EvidenceError naming the field at fault."""
    try:
        manifest = Manifest.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise _unreadable(where, f"{field}: {first['msg']}" if field else first["msg"]) from None
    names = [shard.name for shard in manifest.shards]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise _unreadable(where, f"{twice} is in it twice")
    return manifest


def read_manifest(folder: Path) -> Manifest | None:
    """The folder's manifest, None where there is none; raises EvidenceError if it is broken."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            raw = file.read(MANIFEST_LIMIT_BYTES + 1)
    except OSError as error:
        raise _unreadable(str(path), error.strerror or str(error)) from error
    if len(raw) > MANIFEST_LIMIT_BYTES:
        raise _unreadable(str(path), f"larger than {MANIFEST_LIMIT_BYTES >> 20} MiB")
    return parse_manifest(raw, str(path))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it beside the shards, whole or not at all. Raises OSError."""
    write_atomically(folder / MANIFEST, dumps(manifest.model_dump(mode="json")))


def today_utc() -> str:
    """Now, to the second: 2026-11-20T05:43:10Z."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _unreadable(where: str, why: str) -> EvidenceError:
    return EvidenceError(
        "the shards' manifest cannot be read",
        where=where,
        why=why,
        fix="move it away, then `speedrun data fetch` writes it anew from the source",
    )
