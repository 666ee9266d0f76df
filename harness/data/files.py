"""Writing whole or not at all, and one writer a folder."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import UnfitError

STAGING = ".fetch"  # half-done files live here, inside the data folder: same file system


def write_atomically(path: Path, text: str) -> None:
    """Readers see the old file or the whole new one. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def put_in_place(finished: Path, final: Path) -> None:
    """Give a finished file its final name, after its bytes are on the disk. Raises OSError."""
    with finished.open("rb") as file:
        os.fsync(file.fileno())
    finished.replace(final)


@contextmanager
def only_writer(folder: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the folder's lock; `waiting` is called once if another process holds it.

    The lock goes with the process, however it ends. File systems without locks (some NFS mounts)
    get none: then two fetches at once waste a transfer, and still end in whole files.
    """
    staging = make_folder(folder / STAGING)
    descriptor = os.open(staging / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS):
                raise
        yield
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> Path:
    """The folder, made where absent; raises UnfitError where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return folder


def cannot_write(path: Path, error: OSError) -> UnfitError:
    """The error for a place that takes no data: full, read-only, over quota."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return UnfitError(
        "the disk is full" if full else "the data cannot be written",
        where=str(path),
        why=error.strerror or str(error),
        fix="make room and run the same command again: it resumes"
        if full
        else "choose a folder you may write to with --dir",
    )
