"""What is here, from headers and manifest alone: nothing is hashed, so it answers at once."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.data.manifest import Manifest, read_manifest
from harness.data.shard import header_faults, read_header
from harness.data.stream import data_folder, is_train_shard, shards_here
from harness.errors import EXIT_ACCEPTED, EXIT_UNFIT
from harness.tracks.track import Track


@dataclass(frozen=True, slots=True)
class Held:
    """One shard. `tokens` as its header states; hash and source as the manifest states."""

    name: str
    bytes: int
    tokens: int
    sha256: str | None
    source: str | None
    revision: str | None
    fault: str


@dataclass(frozen=True, slots=True)
class Inventory:
    """`lacks` says what one run of the track would miss; empty if there is enough."""

    folder: Path
    shards: tuple[Held, ...]
    lacks: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        return EXIT_UNFIT if self.lacks else EXIT_ACCEPTED

    @property
    def tokens(self) -> int:
        return sum(shard.tokens for shard in self.shards)

    def by_origin(self) -> dict[str, list[Held]]:
        """Shards grouped by where the manifest says they came from."""
        groups: dict[str, list[Held]] = {}
        for shard in self.shards:
            origin = shard.source or "not in the manifest"
            named = f"{origin} at {shard.revision[:12]}" if shard.revision else origin
            groups.setdefault(named, []).append(shard)
        return groups

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "folder": str(self.folder),
            "shards": [asdict(shard) for shard in self.shards],
            "tokens": self.tokens,
            "enough_for_a_run": not self.lacks,
            "lacks": list(self.lacks),
            "exit_code": self.exit_code,
        }


def take_inventory(track: Track, root: Path) -> Inventory:
    """The shards a run would find under `root`. Raises EvidenceError on a broken manifest."""
    folder = data_folder(track, root)
    manifest = read_manifest(folder) or Manifest()
    shards = tuple(_held(folder / name, manifest) for name in shards_here(track, folder))
    return Inventory(folder, shards, tuple(_lacks(track, shards)))


def _held(path: Path, manifest: Manifest) -> Held:
    entry = manifest.entry(path.name)
    size, tokens = 0, 0
    try:
        size = path.stat().st_size
        header = read_header(path)
        faults = header_faults(header, size)
        tokens = header.tokens if header is not None and not faults else 0
    except OSError as error:
        faults = [error.strerror or str(error)]
    if not faults and entry is not None and entry.bytes != size:
        faults = [f"{size:,} bytes, the manifest states {entry.bytes:,}"]
    return Held(
        name=path.name,
        bytes=size,
        tokens=tokens,
        sha256=entry.sha256 if entry else None,
        source=entry.source if entry else None,
        revision=entry.revision if entry else None,
        fault=faults[0] if faults else "",
    )


def _lacks(track: Track, shards: tuple[Held, ...]) -> list[str]:
    rule = track.data
    good = [shard for shard in shards if not shard.fault]
    train = sum(is_train_shard(track, shard.name) for shard in good)
    validation = next((s.tokens for s in good if s.name == rule.validation_file), None)
    lacks = [f"a sound {shard.name}" for shard in shards if shard.fault]
    if validation is None:
        lacks.append(f"the validation shard {rule.validation_file}")
    elif validation < rule.validation_tokens:
        lacks.append(f"{rule.validation_tokens - validation:,} validation tokens")
    if train < rule.minimum_train_shards:
        lacks.append(
            f"{rule.minimum_train_shards - train} of {rule.minimum_train_shards} train shards"
        )
    return lacks
