"""The files of a record folder somebody sent: walked in a fixed order, never leaving the folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from harness.errors import LogError
from harness.record_screen import SkippedRun

MAX_FILES: Final = 20_000
MAX_DEPTH: Final = 16


def record_files(root: Path) -> Iterator[Path | SkippedRun]:
    """Regular files below the folder in a fixed order; links and closed folders as skipped."""
    count = 0
    closed: list[OSError] = []
    for folder, folders, names in os.walk(root, onerror=closed.append):
        here = Path(folder)
        depth = len(here.relative_to(root).parts)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if depth >= MAX_DEPTH and folders:
            relative = here.relative_to(root).as_posix()
            yield SkippedRun(relative, "unreadable", f"folders nested deeper than {MAX_DEPTH}")
            folders.clear()
        for name in sorted([*names, *(name for name in folders if (here / name).is_symlink())]):
            if name.startswith("."):
                continue
            count += 1
            if count > MAX_FILES:
                raise LogError(
                    f"the folder holds more than {MAX_FILES:,} files",
                    where=str(root),
                    fix="give the folder of one record",
                )
            file = here / name
            yield _link(root, file) if file.is_symlink() else file
    for error in closed:
        where = Path(str(error.filename))
        if where == root:
            raise LogError("the folder cannot be read", where=str(root), why=str(error.strerror))
        relative = where.relative_to(root).as_posix()
        yield SkippedRun(relative, "unreadable", f"the folder cannot be read ({error.strerror})")


def _link(root: Path, file: Path) -> SkippedRun:
    try:
        inside = file.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):
        inside = False
    reason = (
        "symbolic link within the folder: its target is read itself"
        if inside
        else "symbolic link that leaves the folder: not followed"
    )
    return SkippedRun(file.relative_to(root).as_posix(), "link", reason)
