"""What the observer saw -> facts: the run's other processes, and the code it loaded."""

from __future__ import annotations

import math
from pathlib import Path

from harness.audit_phases import Timeline
from harness.audit_report import ProcessFacts
from harness.audit_zones import Zones
from harness.canonical import sha256_file
from harness.runner.observer import Observer

QUIET = frozenset({"python", "system", "cache", "scratch", "temporary", "data"})
"""Where code comes from that is the interpreter's, or was compiled by this very run."""


def process_facts(
    observer: Observer, when: Timeline, start_s: float, ranks: set[int]
) -> tuple[ProcessFacts, ...]:
    """Who was there while the clock ran or later, but for the ranks and their launcher (the first
    process, where it is no rank)."""
    if not observer.processes:
        return ()
    root = min(observer.processes.values(), key=lambda process: process.first_s)
    facts = []
    for process in sorted(observer.processes.values(), key=lambda p: (p.first_s, p.pid)):
        # In a sandbox its own init is 1 and the command is 2, as seen from inside.
        if process is root or process.inner in (1, 2) or (process.inner or process.pid) in ranks:
            continue
        if process.last_s - start_s < when.clock_s:
            continue  # compilers and the like, gone before the clock
        validation, end = when.last_validation
        facts.append(
            ProcessFacts(
                name=process.name[:60],
                first_phase=when.phase(process.first_s - start_s),
                cpu_s=round(process.cpu_s, 2),
                cpu_validation_s=round(process.cpu_between(start_s + validation, start_s + end), 2),
                cpu_after_end_s=round(process.cpu_between(start_s + end, math.inf), 2),
                outlived=process.last_s > root.last_s,
                gpu=process.gpu,
            )
        )
    return tuple(facts[:200])


def loaded_binaries(observer: Observer, zones: Zones) -> dict[str, str]:
    """Code that was mapped from outside interpreter and system, by hash."""
    found: dict[str, str] = {}
    for path in sorted(observer.binaries)[:2000]:
        zone, told = zones.place(path)
        if zone in QUIET or len(found) >= 200:
            continue
        try:
            found[f"{zone}: {told}"] = sha256_file(Path(path))
        except OSError as error:
            found[f"{zone}: {told}"] = f"gone when it was to be hashed ({error.strerror})"
    return found
