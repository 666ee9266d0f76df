"""Taking up a bundle: one writer at a time, and what a killed one left open is closed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from harness.bundle import BundlePaths
from harness.canonical import sha256_file
from harness.errors import UnfitError
from harness.ledger import Failed, Finished, Ledger, Lost, Started
from harness.plan import Plan
from harness.runner.processes import end_leftovers
from harness.watcher import Watcher


@contextmanager
def locked(paths: BundlePaths) -> Iterator[None]:
    """The bundle is this process's alone inside the block.

    Raises UnfitError when another process writes to it, or nobody can.
    """
    descriptor = _lock(paths)
    try:
        yield
    finally:
        paths.lock.unlink(missing_ok=True)
        os.close(descriptor)


def _lock(paths: BundlePaths) -> int:
    """A descriptor that keeps the lock while it is open."""
    import fcntl

    try:
        descriptor = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UnfitError(
            "the bundle cannot be written to",
            where=str(paths.root),
            why=str(error.strerror or error),
            fix="copy it to a place of your own, with room on its disk",
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise UnfitError(
            "another speedrun process is writing to this bundle",
            where=str(paths.root),
            fix="wait for it, or stop it with Ctrl-C",
        ) from None
    return descriptor


def mend_after_kill(paths: BundlePaths, plan: Plan, ledger: Ledger, watcher: Watcher) -> None:
    """Close what a killed harness left open: end its processes, call its run lost."""
    ended = end_leftovers(f"{plan.sha256()[:16]}/")
    if ended:
        watcher.note(f"ended {ended} process(es) that an earlier, killed start had left behind")
    open_runs: dict[str, Started] = {}
    for event in ledger.events:
        if isinstance(event, Started):
            open_runs[event.run_id] = event
        elif isinstance(event, Finished | Failed | Lost):
            open_runs.pop(event.run_id, None)
    for run_id in open_runs:
        ledger.append(
            Lost,
            run_id=run_id,
            why="no end recorded: the harness was killed",
            files=hash_run_files(paths, run_id),
        )
        watcher.note(f"{run_id} was lost when the harness was killed; it stays in the ledger")


def hash_run_files(paths: BundlePaths, run_id: str) -> dict[str, str]:
    """File name under runs/ -> sha256, of everything one run has written there."""
    return {
        path.name: sha256_file(path)
        for path in sorted(paths.runs.glob(f"{run_id}.*"))
        if path.is_file()
    }
