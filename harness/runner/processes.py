"""Finding and ending every process of a run, also those that tried to get away.

A run's processes are found four ways: its session, its descendants, a marker in their environment
(`SPEEDRUN_RUN`), which survives a double fork, a new session and the death of whoever started the
run, and by adoption: on Linux, who forks twice and clears its environment becomes our own child
(`adopt_orphans`). Only a process that does the latter and outlives a killed harness is not found.
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
    found: list[psutil.Process] = []
    if not marker:
        return found  # every process of the machine lacks a marker, and none is ours for that
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            value = process.environ().get(MARKER, "")
            if value == marker or (prefix and value.startswith(marker)):
                found.append(process)
    return [process for process in found if process.pid != os.getpid()]


def children() -> frozenset[int]:
    """Pids of our own children now; what joins them during a run was adopted from it."""
    with contextlib.suppress(psutil.Error):
        return frozenset(process.pid for process in psutil.Process().children())
    return frozenset()


def family(pid: int, marker: str, before: frozenset[int] | None = None) -> list[psutil.Process]:
    """All living processes of a run.

    pid      of its first process, which leads a session
    before   our own children when it was started; None: adopted ones cannot be told apart
    """
    found: dict[int, psutil.Process] = {process.pid: process for process in marked(marker)}
    for process in psutil.process_iter():
        with contextlib.suppress(OSError):
            if os.getsid(process.pid) == pid:
                found[process.pid] = process
    roots = list(found.values())
    if before is not None:
        roots += _adopted(before)
    for root in roots:
        with contextlib.suppress(psutil.Error):
            for process in [root, *root.children(recursive=True)]:
                found[process.pid] = process
    return [process for process in found.values() if _lives(process)]


def _adopted(before: frozenset[int]) -> list[psutil.Process]:
    """Children of ours that are new and lead or share another session: a process cannot leave its
    session for ours, so what we started ourselves meanwhile is told from what we adopted."""
    with contextlib.suppress(psutil.Error):
        ours = os.getsid(0)
        return [
            process
            for process in psutil.Process().children()
            if process.pid not in before
            and process.pid not in _watched()
            and _session(process.pid) not in (ours, None)
        ]
    return []


def _session(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        return os.getsid(pid)
    return None


def end(processes: Iterable[psutil.Process], grace_s: float) -> int:
    """SIGTERM, wait `grace_s`, SIGKILL what is left. Returns how many had to be killed."""
    targets = list(processes)
    for process in targets:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGTERM)
    alive = _wait(targets, grace_s)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    _wait(alive, 5)
    _reap()
    return len(alive)


def _wait(processes: list[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Those still alive after `timeout_s`. Not psutil.wait_procs: that collects the exit code of
    our own children, and whoever started them would read 0 afterwards."""
    deadline = time.monotonic() + timeout_s
    while True:
        processes = [process for process in processes if _lives(process)]
        if not processes or time.monotonic() >= deadline:
            return processes
        time.sleep(0.02)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def end_run(
    pid: int, marker: str, grace_s: float = 10.0, before: frozenset[int] | None = None
) -> int:
    """End a whole run; repeats until no process of it is left (a fork bomb needs a few rounds).

    Returns how many processes ignored SIGTERM.
    """
    killed = 0
    for round_ in range(20):
        living = family(pid, marker, before)
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
