"""Before run 1: can this machine carry the contest? What can fail for free fails here."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from harness.canonical import sha256_file
from harness.checks.hardware import unofficial_hardware
from harness.environment import Environment
from harness.errors import UnfitError
from harness.source import Source
from harness.tracks.track import Track

DISK_NEEDED_BYTES = 1 << 30
HEADER_BYTES = 1024


def find_data(track: Track, asked: Path | None, cache: Path, default: Path) -> Path:
    """Folder that DATA_PATH will name, with the track's data in it; makes synthetic data.

    Raises UnfitError when shards are missing.
    """
    if track.data.kind == "synthetic":
        from harness.synthetic import make_tiny_data

        root = asked or cache / "data"
        make_tiny_data(root)
        return root.resolve()
    root = (asked or default).resolve()
    folder = root / track.data.folder
    shards = sorted(folder.glob(track.data.train_glob)) if folder.is_dir() else []
    validation = folder / track.data.validation_file
    if not validation.is_file() or len(shards) < track.data.minimum_train_shards:
        raise UnfitError(
            f"the data of track {track.name} are not here",
            where=str(folder),
            why=f"found {len(shards)} of at least {track.data.minimum_train_shards} train shards, "
            f"validation shard {'present' if validation.is_file() else 'absent'}",
            fix="put the token shards there, or name their root with --data",
        )
    return root


def hash_data(track: Track, root: Path) -> dict[str, str]:
    """sha256 of the validation shard and of every train shard a track names a hash for.

    Raises UnfitError when a hash differs from the track's. Shards without a stated hash are
    hashed too where the track is official about none; several GB take about a second a GB.
    """
    folder = root / track.data.folder
    shards = sorted(path.name for path in folder.glob(track.data.train_glob))
    names = [track.data.validation_file, *shards[: track.data.minimum_train_shards]]
    found = {name: sha256_file(folder / name) for name in names}
    for name, expected in track.data.sha256.items():
        if found.get(name, expected) != expected:
            raise UnfitError(
                f"{name} is not the track's shard",
                where=str(folder / name),
                why=f"sha256 {found[name][:16]}…, the track states {expected[:16]}…",
                fix="fetch it again",
            )
    return found


def check_machine(track: Track, environment: Environment, out: Path) -> None:
    """Raises UnfitError when nothing could run here at all."""
    free = shutil.disk_usage(out if out.exists() else out.parent).free
    if free < DISK_NEEDED_BYTES:
        raise UnfitError(
            "too little free disk for a bundle",
            where=str(out),
            why=f"{free >> 20} MiB free, {DISK_NEEDED_BYTES >> 20} MiB wanted",
            fix="make room or choose another place with --out",
        )
    if track.hardware.kind == "gpu" and not environment.gpus:
        raise UnfitError(
            f"track {track.name} needs NVIDIA GPUs, this machine has none",
            why="no GPU answers through NVML",
            fix="run it on a GPU node, or see a whole contest here: speedrun submit --track tiny",
        )


def hardware_reasons(track: Track, environment: Environment) -> list[str]:
    """Why this could only be an exhibition, as far as hardware goes."""
    reason = unofficial_hardware(track, environment)
    return [reason] if reason else []


def contract_warnings(source: Source) -> list[str]:
    """Hints that a script will not print what the contract asks, before a run is paid for."""
    text = "\n".join(source.files.values())
    missing = [word for word in ("val_loss:", "train_time:", "step_avg:") if word not in text]
    warnings = []
    if missing:
        warnings.append(
            f"{source.script} never mentions {', '.join(missing)}: the result lines of the "
            "contract may be missing"
        )
    if not re.search(r"\b(LOCAL_)?RANK\b", text):
        warnings.append(f"{source.script} never reads RANK: every process may print")
    return warnings
