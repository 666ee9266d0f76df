"""Folders to work in and throw away, and those that a killed process could not.

A working copy is small, the scratch of an audit holds the weights (1 GB on track small). The name
says whose a folder is: speedrun-<what>-<pid>-<random>, in the temporary folder.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from pathlib import Path

NAME = re.compile(r"speedrun-(?:run|audit)-(\d+)-\w+")
ABANDONED_S = 6 * 3600.0
"""Another container may share the temporary folder and not the process ids: nothing younger goes.
The longest run that a track allows takes half an hour."""


def make_throwaway(what: str) -> Path:
    """A new folder, `what` being "run" or "audit"; clears abandoned ones first. Raises OSError."""
    clear_abandoned()
    return Path(tempfile.mkdtemp(prefix=f"speedrun-{what}-{os.getpid()}-"))


def clear_abandoned() -> None:
    """Removes this user's folders whose process is gone and that nothing was added to for hours."""
    import psutil

    here = Path(tempfile.gettempdir())
    try:
        named = [(path, NAME.fullmatch(path.name)) for path in here.iterdir()]
    except OSError:
        return
    for folder, found in named:
        if found is None:
            continue
        try:
            status = folder.lstat()
        except OSError:
            continue
        old = time.time() - status.st_mtime > ABANDONED_S
        mine = status.st_uid == os.getuid() and folder.is_dir() and not folder.is_symlink()
        if old and mine and not psutil.pid_exists(int(found[1])):
            shutil.rmtree(folder, ignore_errors=True)
