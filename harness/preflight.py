"""Before run 1: can this machine carry the contest? What can fail for free fails here."""

from __future__ import annotations

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness.checks.hardware import unofficial_hardware
from harness.data.hash_cache import cached_sha256
from harness.data.manifest import Manifest, read_manifest
from harness.data.shard import read_header
from harness.data.stream import (
    data_folder,
    data_root,
    is_train_shard,
    shards_here,
    stated_hashes,
)
from harness.environment import Environment
from harness.errors import UnfitError
from harness.source import Source
from harness.tracks.track import Track

DISK_NEEDED_BYTES = 1 << 30
HASHERS = 4
SHARD_TOKENS = {"data/fineweb10B": 100_000_000}
"""Of every shard but the last, as FineWeb-10B was cut (kjj0/fineweb10B-gpt2)."""


def find_data(track: Track, asked: Path | None, cache: Path, default: Path) -> Path:
    """Folder that DATA_PATH will name, with the track's data in it; makes synthetic data.

    Shards are looked for under `asked`, else under the DATA_PATH of this process, else under
    `default`. Raises UnfitError when some are missing.
    """
    if track.data.kind == "synthetic":
        from harness.synthetic import make_tiny_data

        root = asked or cache / "data"
        make_tiny_data(root)
        return root.resolve()
    root = data_root(track, asked, default).resolve()
    folder = data_folder(track, root)
    names = shards_here(track, folder)
    train = sum(is_train_shard(track, name) for name in names)
    if track.data.validation_file not in names or train < track.data.minimum_train_shards:
        present = "present" if track.data.validation_file in names else "absent"
        raise UnfitError(
            f"the data of track {track.name} are not here",
            where=str(folder),
            why=f"found {train} of at least {track.data.minimum_train_shards} train shards, "
            f"validation shard {present}",
            fix=f"speedrun data fetch --track {track.name} --dir {root}, "
            "or name the root of the data with --data",
        )
    return root


def hash_data(track: Track, root: Path) -> dict[str, str]:
    """File name -> sha256 of every shard that a run can read: validation and all train shards.

    A file that is unchanged since it was last hashed on this machine is not read again
    (`data/hash_cache`: the first time takes half a second a GB and core). Raises UnfitError when
    a hash differs from the one the track's rules state, or from the one that was fetched.
    """
    folder = data_folder(track, root)
    names = shards_here(track, folder)
    manifest = read_manifest(folder) or Manifest()
    with ThreadPoolExecutor(HASHERS) as pool:
        try:
            hashes = pool.map(lambda name: cached_sha256(folder / name), names)
            found = dict(zip(names, hashes, strict=True))
        except OSError as error:
            raise UnfitError(
                "a shard cannot be read",
                where=str(folder),
                why=str(error),
                fix="speedrun data check",
            ) from error
    stated = stated_hashes(track)
    for name, sha256 in found.items():
        entry = manifest.entry(name)
        expected = stated.get(name) or (entry.sha256 if entry else sha256)
        if sha256 != expected:
            says = "the track states" if name in stated else "manifest.json states"
            raise UnfitError(
                f"{name} is not the {'track' if name in stated else 'manifest'}'s shard",
                where=str(folder / name),
                why=f"sha256 {sha256[:16]}…, {says} {expected[:16]}…",
                fix=f"speedrun data fetch --track {track.name} --dir {root} (keeps the old file)",
            )
    return found


def foreign_shards(track: Track, root: Path) -> str | None:
    """How the shards that a run needs show themselves as another data set's, where it is known how
    many tokens each of the track's own holds; None where they do not."""
    wanted = SHARD_TOKENS.get(track.data.folder)
    if wanted is None:
        return None
    folder = data_folder(track, root)
    train = sorted(name for name in shards_here(track, folder) if is_train_shard(track, name))
    names = [track.data.validation_file, *train[: track.data.minimum_train_shards]]
    held = {name: header.tokens for name in names if (header := read_header(folder / name))}
    other = {name: count for name, count in held.items() if count != wanted}
    if not other:
        return None
    name, count = next(iter(other.items()))
    return (
        f"data: {len(other)} of {len(names)} shards are not the track's, which hold {wanted:,} "
        f"tokens each ({name}: {count:,})"
    )


def check_machine(track: Track, environment: Environment, out: Path) -> None:
    """Raises UnfitError when nothing could run here at all."""
    there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise UnfitError(
            "a bundle needs a folder",
            where=str(out),
            why=f"{there} is a file",
            fix="name a folder with --out",
        )
    free = shutil.disk_usage(there).free
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
