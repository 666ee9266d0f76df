"""Who is to blame for a change: the record's code, the data, the software, or the hardware?

The reference workload is the witness for the hardware: it runs beside the record and never
changes. It is not infallible: a new driver may move it too, and what it does not exercise (disks,
a kernel's own registers) it does not see.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from harness.nightly.nights import Night
from harness.stats.changepoint import SD_FLOOR, find_spikes
from harness.stats.moments import mean, t_cdf, t_quantile

Suspect = Literal["record", "data", "software", "hardware"]
MOVED_ALPHA = 0.01
"""Level of the reference's test, over all its parts together."""
CLOCK_DROP = 0.01
"""A relative change of the SM clock worth a word."""


@dataclass(frozen=True, slots=True)
class Cause:
    """One suspect. `found` is None where nothing is known either way."""

    suspect: Suspect
    found: bool | None
    evidence: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Moved:
    """Shift of one reference figure between two levels, as a log ratio (0.01 is one per cent).

    low, high   two-sided interval at MOVED_ALPHA, shared out over the parts
    p           two-sided, of no shift
    """

    name: str
    shift: float
    low: float
    high: float
    p: float


def find_causes(before: Sequence[Night], after: Sequence[Night], shift: float) -> tuple[Cause, ...]:
    """Suspects for the step of `shift` (log time) between two levels of the record.

    before, after   the nights of both levels, oldest first, none of them empty
    """
    # The place of a change is known to a night or so: what differs from night to night around it.
    around = [*before[-3:], *after[:2]]
    moved = compare_reference(before, after)
    return (
        _differing("record", "source", around, "the record's code"),
        _differing("data", "data", around, "the data shards"),
        _software(around),
        _hardware(before, after, around, moved, shift),
    )


def blame(causes: Sequence[Cause]) -> tuple[Suspect, ...]:
    """Suspects with evidence against them."""
    return tuple(cause.suspect for cause in causes if cause.found)


def _differing(suspect: Suspect, field: str, around: Sequence[Night], what: str) -> Cause:
    steps = [
        f"{what} changed on {b.day}: {getattr(a, field)[:12]} → {getattr(b, field)[:12]}"
        for a, b in pairwise(around)
        if getattr(a, field) != getattr(b, field)
    ]
    return Cause(suspect, bool(steps), tuple(steps) or (f"{what}: the same before and after",))


def _software(around: Sequence[Night]) -> Cause:
    steps = _changes(around, "software")
    return Cause("software", bool(steps), tuple(steps) or ("no version changed",))


def _changes(around: Sequence[Night], field: str) -> list[str]:
    found = []
    for a, b in pairwise(around):
        one, two = getattr(a, field), getattr(b, field)
        found += [
            f"{name} {one.get(name) or 'none'} → {two.get(name) or 'none'} on {b.day}"
            for name in sorted({*one, *two})
            if one.get(name) != two.get(name)
        ]
    return found


def _hardware(
    before: Sequence[Night],
    after: Sequence[Night],
    around: Sequence[Night],
    moved: Sequence[Moved] | None,
    shift: float,
) -> Cause:
    evidence: list[str] = []
    found: bool | None = None
    if moved is not None:
        same_way = [m for m in moved if m.p < MOVED_ALPHA / len(moved) and m.shift * shift > 0]
        found = bool(same_way)
        for m in same_way or moved[:1]:
            did = "moved too" if same_way else "did not move with it"
            evidence.append(
                f"reference {m.name} {did}: {percent(m.shift)} "
                f"({percent(m.low)} to {percent(m.high)})"
            )
    else:
        evidence.append(
            "the reference says nothing: it did not run on both sides, or was itself changed"
        )
    settings = _changes(around, "settings")
    if settings:
        found, evidence = True, [*evidence, *settings]
    nodes, now = {night.node for night in before}, {night.node for night in after}
    if not nodes & now:
        steady = len(nodes) == 1
        found = True if moved is None and steady else found
        evidence.append(
            f"another node: {before[-1].node[:8]} → {after[0].node[:8]}"
            if steady
            else "the node differs from night to night"
        )
    return Cause("hardware", found, (*evidence, *_clocks(before, after)))


def _clocks(before: Sequence[Night], after: Sequence[Night]) -> list[str]:
    """What telemetry adds. It convicts nobody: code that draws more power lowers the clock too."""
    found = []
    old = [night.clock_mhz for night in before if night.clock_mhz is not None]
    new = [night.clock_mhz for night in after if night.clock_mhz is not None]
    if old and new and abs(mean(new) / mean(old) - 1) >= CLOCK_DROP:
        found.append(f"mean SM clock {mean(old):.0f} → {mean(new):.0f} MHz in the record's runs")
    fresh = {word for night in after for word in night.throttle} - {
        word for night in before for word in night.throttle
    }
    if fresh:
        found.append(f"clocks lowered for reasons not seen before: {', '.join(sorted(fresh))}")
    return found


def compare_reference(before: Sequence[Night], after: Sequence[Night]) -> tuple[Moved, ...] | None:
    """Shift of the reference, as a whole and by part; None where it cannot be compared.

    Student's two-sample t on log times, spikes left out. Only nights with the reference's present
    source are comparable.
    """
    source = after[0].reference_source
    sides = [
        [night for night in side if source and night.reference_source == source]
        for side in (before, after)
    ]
    if len(sides[0]) < 2 or not sides[1] or len(sides[0]) + len(sides[1]) < 4:
        return None
    figures = {"as a whole": [[math.log(n.reference_ms or 1.0) for n in side] for side in sides]}
    parts = set.intersection(*(set(night.parts_ms) for side in sides for night in side))
    for name in sorted(parts):
        figures[name] = [[math.log(night.parts_ms[name]) for night in side] for side in sides]
    alpha = MOVED_ALPHA / len(figures)
    return tuple(_moved(name, one, two, alpha) for name, (one, two) in figures.items())


def _moved(name: str, before: list[float], after: list[float], alpha: float) -> Moved:
    spikes = set(find_spikes([*before, *after]))
    one = [x for i, x in enumerate(before) if i not in spikes]
    two = [x for i, x in enumerate(after, start=len(before)) if i not in spikes]
    shift, df = mean(two) - mean(one), len(one) + len(two) - 2
    squares = math.fsum((x - mean(part)) ** 2 for part in (one, two) for x in part)
    sd = max(math.sqrt(squares / df), SD_FLOOR)
    error = sd * math.sqrt(1 / len(one) + 1 / len(two))
    half = t_quantile(1 - alpha / 2, df) * error
    return Moved(name, shift, shift - half, shift + half, 2 * t_cdf(-abs(shift) / error, df))


def percent(shift: float) -> str:
    """A log ratio as a signed percentage: "+0.40 %"."""
    return f"{100 * math.expm1(shift):+.2f} %".replace("-", "−")
