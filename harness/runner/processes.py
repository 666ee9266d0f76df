"""Finding and ending every process of a run, also those that tried to get away.

A run's processes are found three ways: its process group, its descendants, and a marker in their
environment (`SPEEDRUN_RUN`), which survives a double fork, a new session and the death of whoever
started the run.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterable

import psutil

MARKER = "SPEEDRUN_RUN"
PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Make orphaned grandchildren ours (Linux), so that none escapes by a double fork."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def marked(marker: str, *, prefix: bool = False) -> list[psutil.Process]:
    """Processes whose environment carries this run's marker (or one that begins so)."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            value = process.environ().get(MARKER, "")
            if value == marker or (prefix and value.startswith(marker)):
                found.append(process)
    return [process for process in found if process.pid != os.getpid()]


def family(pid: int, marker: str) -> list[psutil.Process]:
    """All living processes of a run: descendants of `pid`, its group, and marked ones."""
    found: dict[int, psutil.Process] = {process.pid: process for process in marked(marker)}
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            found[process.pid] = process
    living = []
    for process in found.values():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                living.append(process)
    return living


def end(processes: Iterable[psutil.Process], grace_s: float) -> int:
    """SIGTERM, wait `grace_s`, SIGKILL what is left. Returns how many had to be killed."""
    targets = list(processes)
    for process in targets:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(targets, timeout=grace_s)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=5)
    _reap()
    return len(alive)


def end_run(pid: int, marker: str, grace_s: float = 10.0) -> int:
    """End a whole run; repeats until no marked process is left (a fork bomb needs a few rounds).

    Returns how many processes ignored SIGTERM.
    """
    killed = 0
    for round_ in range(20):
        living = family(pid, marker)
        if not living:
            break
        killed += end(living, grace_s if round_ == 0 else 0.2)
        time.sleep(0.02)
    return killed


def end_leftovers(prefix: str) -> int:
    """End processes of earlier runs of this bundle whose harness was killed. Returns how many."""
    living = marked(prefix, prefix=True)
    end(living, 2.0)
    return len(living)


def _reap() -> None:
    """Collect adopted orphans that have ended, so that they do not stay zombies.

    Only pids that subprocess does not watch: Popen objects of ours are waited for by their owners,
    and `waitpid` on a specific adopted pid cannot steal those.
    """
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.Error, ChildProcessError):
                if child.status() == psutil.STATUS_ZOMBIE and child.pid not in _watched():
                    os.waitpid(child.pid, os.WNOHANG)


_WATCHED: set[int] = set()


def watch(pid: int) -> None:
    """Register a pid that a Popen object will wait for."""
    _WATCHED.add(pid)


def unwatch(pid: int) -> None:
    _WATCHED.discard(pid)


def _watched() -> set[int]:
    return _WATCHED
