"""Watch a run's processes from outside, through /proc: what no script can talk out of.

The shim sees each call and lives in the candidate's process; this sees less (a sample every 50 ms)
and cannot be lied to: which data files processes hold open or mapped, which children there are,
what they burn after the clock has stopped. Only Linux has /proc; elsewhere `problem` says so.
"""

# ruff: noqa: PTH115, PTH208

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from harness.runner.processes import MARKER, children

INTERVAL_S = 0.05
MAPS_EVERY = 4
"""Maps are long (1,000 lines with torch) and change slowly: looked at every 0.2 s."""
SIGHTINGS_LIMIT = 400_000
HISTORY_LIMIT = 200_000
ADOPTED_S = 1.0
GPU_FILES = ("/dev/nvidia", "/dev/dxg")
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass(slots=True)
class Watched:
    """One process of the run; moments are seconds of the monotonic clock.

    inner   its id as it knows itself, where the run has ids of its own (runner/sandbox.py)
    gpu     whether it was ever seen with a GPU's device file open: without, it computes on no GPU
    """

    pid: int
    parent: int
    name: str
    first_s: float
    last_s: float
    cpu_s: float = 0.0
    inner: int | None = None
    gpu: bool = False
    history: list[tuple[float, float]] = field(default_factory=list)

    def cpu_between(self, start_s: float, end_s: float) -> float:
        """CPU seconds used from one moment to another, to the nearest sample inside."""
        inside = [cpu for at, cpu in self.history if start_s <= at <= end_s]
        return inside[-1] - inside[0] if inside else 0.0


@dataclass(slots=True)
class Observer:
    """A thread that samples until `stop`.

    marker   value of SPEEDRUN_RUN in the run's processes
    wanted   which files are worth noting (called with a path)
    caged    the run was started with process ids of its own
    sightings   path -> moments it was seen open or mapped
    binaries    mapped, executable files -> first moment
    """

    marker: str
    wanted: Callable[[str], bool]
    caged: bool = False
    processes: dict[int, Watched] = field(default_factory=dict)
    sightings: dict[str, list[float]] = field(default_factory=dict)
    binaries: dict[str, float] = field(default_factory=dict)
    problem: str = ""
    _seen: int = 0
    _before: frozenset[int] = frozenset()
    _new: dict[int, float] = field(default_factory=dict)
    _strangers: set[int] = field(default_factory=set)
    _halt: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        if not sys.platform.startswith("linux"):
            self.problem = f"not watched from outside: {sys.platform} has no /proc"
            return
        self._before = children()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._halt.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _sample(self) -> None:
        turn = 0
        while not self._halt.is_set():
            for process in self._family():
                self._look(process, with_maps=turn % MAPS_EVERY == 0)
            turn += 1
            self._halt.wait(INTERVAL_S)

    def _family(self) -> list[Watched]:
        """Processes that carry the marker, or whose parent is one; new ones are added."""
        found = []
        now = time.monotonic()
        for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
            if pid in self._strangers:
                continue
            known = self.processes.get(pid)
            stat = _stat(pid)
            if stat is None:
                continue
            name, parent, cpu_s = stat
            if known is None:
                # Who forks twice and clears its environment has become our own child.
                adopted = parent == os.getpid() and self._is_adopted(pid, now)
                known_parent = adopted or parent in self.processes
                if not known_parent and not _carries(pid, self.marker):
                    if parent != os.getpid():
                        self._strangers.add(pid)
                    continue
                known = self.processes[pid] = Watched(pid, parent, name, now, now)
                known.inner = _inner_pid(pid) if self.caged else None
            known.name, known.cpu_s, known.last_s = name, cpu_s, now
            if len(known.history) < HISTORY_LIMIT:
                known.history.append((now, cpu_s))
            found.append(known)
        return found

    def _is_adopted(self, pid: int, now: float) -> bool:
        """A new child of ours that has lasted: one that we are just starting still is ourselves,
        with our own open files, until it has become its program."""
        if pid in self._before:
            return False
        return now - self._new.setdefault(pid, now) > ADOPTED_S

    def _look(self, process: Watched, *, with_maps: bool) -> None:
        now, folder = time.monotonic(), f"/proc/{process.pid}"
        paths: set[str] = set()
        with contextlib.suppress(OSError):
            for name in os.listdir(f"{folder}/fd"):
                with contextlib.suppress(OSError):
                    paths.add(os.readlink(f"{folder}/fd/{name}"))
        process.gpu = process.gpu or any(path.startswith(GPU_FILES) for path in paths)
        if with_maps:
            with contextlib.suppress(OSError):
                for line in Path(f"{folder}/maps").read_text(errors="replace").splitlines():
                    fields = line.split(None, 5)
                    if len(fields) == 6 and fields[5].startswith("/"):
                        path = fields[5]
                        paths.add(path)
                        if "x" in fields[1] and len(self.binaries) < SIGHTINGS_LIMIT:
                            self.binaries.setdefault(path, now)
        for path in {path.removesuffix(" (deleted)") for path in paths}:
            if path.startswith("/") and self._seen < SIGHTINGS_LIMIT and self.wanted(path):
                self._seen += 1
                self.sightings.setdefault(path, []).append(now)


def _stat(pid: int) -> tuple[str, int, float] | None:
    """(name, parent, CPU seconds) of a living process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    name = text[text.find("(") + 1 : text.rfind(")")]
    fields = text[text.rfind(")") + 2 :].split()
    if len(fields) < 13 or fields[0] in "ZX":
        return None
    return name, int(fields[1]), (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND


def _inner_pid(pid: int) -> int | None:
    """Its id one namespace down; None for a process that has none there, or is deeper still."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return None
    ids = next((line.split()[1:] for line in text.splitlines() if line.startswith("NSpid:")), [])
    return int(ids[1]) if len(ids) == 2 else None


def _carries(pid: int, marker: str) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return f"{MARKER}={marker}".encode() in environment.split(b"\0")
