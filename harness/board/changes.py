"""Change points of a nightly series, by the statistics that `speedrun retime` alarms with."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from math import log

from harness.board.curves import Change
from harness.board.nightly_table import Night


def change_points(series: Sequence[Night]) -> tuple[Change, ...] | None:
    """Where the series moved, within each stretch of one source; None while every stretch is too
    short to be tested."""
    from harness.stats.changepoint import watch

    found: list[Change] = []
    tested = False
    for _, part in groupby(series, key=lambda night: night.source_sha256):
        stretch = tuple(part)
        watched = watch([log(night.train_ms) for night in stretch])
        tested = tested or not watched.learning
        found += [
            Change(
                day=stretch[change.first].day,
                raised=stretch[change.raised].day,
                shift=change.shift,
                low=change.low,
                high=change.high,
            )
            for change in watched.changes
        ]
    return tuple(found) if tested else None
