"""The board's drawings: the history of a track's record, and its nightly series.

Same figures, colours and roles as the report's plots (`report/svg.py`): blue is the record, orange
what it is held against, pink a change point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from itertools import groupby
from math import exp, expm1, log
from typing import Any

from harness.board.nightly_table import Night
from harness.history import RecordRow, dated_days, summary_line
from harness.history_plot import TICKS_MINUTES, labelled
from harness.report import formats as fmt
from harness.report import svg

EPOCH = date(1970, 1, 1).toordinal()
MARKED_NIGHTS = 90
"""With more nights than this a marker a night is a smear: the line alone is drawn."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change point of log time.

    day, raised    first night of the new level, and the night that raised the alarm (ordinals)
    shift          of log time; 0.004 is 0.4 % slower; low, high its 95 % interval
    """

    day: int
    raised: int
    shift: float
    low: float
    high: float

    @property
    def text(self) -> str:
        shift, low, high = (fmt.percent(expm1(x)) for x in (self.shift, self.low, self.high))
        return (
            f"{date.fromordinal(self.day)}: {shift} (95 % interval {low} to {high}), "
            f"seen on {date.fromordinal(self.raised)}"
        )


def draw_history(rows: Sequence[RecordRow], track: str) -> str:
    """Record time on a log axis against date, as an SVG file's text."""
    days = [day - EPOCH for day in dated_days(rows)]
    minutes = [row.minutes for row in rows]
    with svg.canvas(3.1) as figure:
        axes = figure.subplots()
        axes.step(days, minutes, where="post", color=svg.CANDIDATE, linewidth=1.6)
        axes.plot(days, minutes, "o", color=svg.CANDIDATE, markersize=3.2)
        _log_minutes(axes, minutes)
        _dates(axes, days)
        for i in labelled(minutes):
            axes.annotate(
                rows[i].time, (days[i], minutes[i]), xytext=(5, 5), textcoords="offset points",
                fontsize=10, color=svg.INK, annotation_clip=False,
            )  # fmt: skip
        axes.set_title("training time, log scale")
        title = f"Record times of track {track}"
        return svg.file_text(figure, title, f"{title}: {summary_line(rows)}.")


def draw_nightly(
    record: Sequence[Night], reference: Sequence[Night], changes: Sequence[Change], title: str
) -> str:
    """Each night's time against the first nights of the same source, in per cent, as SVG text.

    Per cent because record and reference differ in length; a move that both make is the machine's.
    """
    with svg.canvas(2.9) as figure:
        axes = figure.subplots()
        axes.axhline(0.0, color=svg.EDGE, linewidth=0.9)
        for series, colour, line, marker, label in (
            (reference, svg.BASELINE, "--", "s", "reference"),
            (record, svg.CANDIDATE, "-", "o", "standing record"),
        ):
            for i, part in enumerate(by_source(series)):
                level = starting_level(part)
                axes.plot(
                    [night.day - EPOCH for night in part],
                    [100 * (night.train_ms / level - 1) for night in part],
                    line, color=colour, label="" if i else label, linewidth=1.3, markersize=3.6,
                    marker=marker if len(series) <= MARKED_NIGHTS else "",
                )  # fmt: skip
        for i, change in enumerate(changes):
            axes.axvline(
                change.day - 0.5 - EPOCH, color=svg.TARGET, linewidth=1.4, dashes=(5, 2.5),
                label="" if i else "change",
            )  # fmt: skip
        _dates(axes, [night.day - EPOCH for night in (*record, *reference)])
        axes.set_title("time against the first nights [%]")
        axes.locator_params(axis="y", nbins=6, min_n_ticks=3)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=3)
        return svg.file_text(figure, title, describe_nightly(record, changes))


def describe_nightly(record: Sequence[Night], changes: Sequence[Change]) -> str:
    """The drawing in words, for readers who do not see it."""
    if not record:
        return "No night of the standing record."
    first, last = record[0], record[-1]
    text = (
        f"{fmt.many(len(record), 'night')} of the standing record from "
        f"{date.fromordinal(first.day)} to {date.fromordinal(last.day)}, the last "
        f"{fmt.seconds(last.train_ms, 3)} s."
    )
    if not changes:
        return f"{text} No change point."
    return f"{text} Change points: {'; '.join(change.text for change in changes)}."


def by_source(series: Sequence[Night]) -> tuple[tuple[Night, ...], ...]:
    """Stretches of one source: a new record is faster, and that is no drift of the old one."""
    return tuple(tuple(part) for _, part in groupby(series, key=lambda night: night.source_sha256))


def starting_level(series: Sequence[Night]) -> float:
    """Geometric mean of the first five nights, ms: the level the others are drawn against."""
    first = series[:5]
    return exp(sum(log(night.train_ms) for night in first) / len(first))


def _log_minutes(axes: Any, minutes: Sequence[float]) -> None:
    from matplotlib import ticker

    axes.set_yscale("log")
    low, high = min(minutes) / 1.3, max(minutes) * 1.5
    axes.set_ylim(low, high)
    ticks = [tick for tick in TICKS_MINUTES if low < tick < high]
    ticks = ticks if len(ticks) <= 6 else ticks[:: -(-len(ticks) // 6)]
    axes.yaxis.set_major_locator(ticker.FixedLocator(ticks or [minutes[-1]]))
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(_minutes_text))


def _minutes_text(minutes: float, _: int) -> str:
    if minutes >= 60:
        return f"{minutes / 60:.3g} h"
    return f"{minutes:.3g} min" if minutes >= 1 else f"{minutes * 60:.3g} s"


def _dates(axes: Any, days: Sequence[float]) -> None:
    from matplotlib import dates

    first, last = min(days), max(days)
    span = max(last - first, 6)
    axes.set_xlim(first - 0.03 * span, first + 1.12 * span if span > 60 else last + 0.05 * span)
    locate: Any = dates.AutoDateLocator
    write: Any = dates.DateFormatter
    axes.xaxis.set_major_locator(locate(minticks=2, maxticks=5))
    axes.xaxis.set_major_formatter(write("%b %Y" if span > 120 else "%d %b"))
