"""Where things are: the repository, the cache, the data."""

from __future__ import annotations

import os
from pathlib import Path


def repository() -> Path | None:
    """The folder that holds `candidates/` and `baseline/`: here, above, or where the package is."""
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).resolve().parent.parent):
        if (folder / "candidates").is_dir() and (folder / "baseline").is_dir():
            return folder
    return None


def cache_root() -> Path:
    """Made data and compile caches live here; XDG_CACHE_HOME is obeyed."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "speedrun"


def repository_of(folder: Path) -> Path | None:
    """The folder above `folder` that holds `candidates/` and `baseline/`; None if there is none."""
    for above in (folder.resolve(), *folder.resolve().parents):
        if (above / "candidates").is_dir() and (above / "baseline").is_dir():
            return above
    return None
