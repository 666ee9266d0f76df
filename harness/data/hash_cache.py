"""sha256 of files that have not changed since they were last hashed here.

A run reads up to 20 GB of shards; hashing them takes half a second a GB at best. An entry counts
only while device, inode, size, mtime and ctime are what they were. mtime can be set back by hand,
ctime cannot short of setting the clock, so an edit with a forged mtime is hashed again. A file
touched less than two seconds before it was hashed is not remembered: on file systems with coarse
time stamps a later write could leave the same stamp (git's "racily clean" entries).

The cache is a convenience on a machine whose user is trusted with it. What must not depend on it
does not: `speedrun data check` always reads every byte.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from harness.canonical import sha256_file
from harness.data.files import write_atomically
from harness.places import cache_root

SCHEMA_VERSION = 1
RACY_NS = 2_000_000_000
LIMIT_BYTES = 16 << 20
Stamp = dict[str, int]
_WRITING = threading.Lock()


def cache_file() -> Path:
    return cache_root() / "shard-hashes.json"


def cached_sha256(path: Path) -> str:
    """sha256 of a file: remembered if the file is unchanged, else computed and remembered.

    Raises OSError where the file cannot be read. A cache that cannot be read or written costs
    time, never an error.
    """
    real = path.resolve()
    before = _stamp(real)
    entry = _read().get(str(real))
    if isinstance(entry, dict) and entry.get("stamp") == before:
        sha256 = entry.get("sha256")
        if isinstance(sha256, str) and len(sha256) == 64:
            return sha256
    sha256 = sha256_file(real)
    remember(real, sha256, before)
    return sha256


def remember(path: Path, sha256: str, before: Stamp) -> None:
    """Keep a hash, unless the file changed while it was read or just before."""
    after = _stamp(path)
    if after != before or time.time_ns() - max(after["ctime_ns"], after["mtime_ns"]) < RACY_NS:
        return
    with _WRITING:
        files = {name: value for name, value in _read().items() if Path(name).is_file()}
        files[str(path)] = {"sha256": sha256, "stamp": after}
        document = {"schema_version": SCHEMA_VERSION, "files": files}
        try:
            write_atomically(cache_file(), json.dumps(document, indent=1, sort_keys=True) + "\n")
        except OSError:
            return


def _stamp(path: Path) -> Stamp:
    state = os.stat(path)  # noqa: PTH116 - one call, all of its fields
    return {
        "device": state.st_dev,
        "inode": state.st_ino,
        "bytes": state.st_size,
        "mtime_ns": state.st_mtime_ns,
        "ctime_ns": state.st_ctime_ns,
    }


def _read() -> dict[str, Any]:
    try:
        path = cache_file()
        if path.stat().st_size > LIMIT_BYTES:
            return {}
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(document, dict) or document.get("schema_version") != SCHEMA_VERSION:
        return {}
    files = document.get("files")
    return files if isinstance(files, dict) else {}
