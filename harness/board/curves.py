"""The board's drawings: the history of a track's record, and its nightly series.

Same figures, colours and roles as the report's plots (`report/svg.py`): blue is the record, orange
what it is held against, pink a change point.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from itertools import groupby
from math import exp, log
from typing import Any

from harness.history import RecordRow, dated_days, summary_line
from harness.history_plot import TICKS_MINUTES, labelled
from harness.nightly.nights import Night
from harness.report import svg

EPOCH = date(1970, 1, 1).toordinal()
MARKED_NIGHTS = 90
"""With more nights than this a marker a night is a smear: the line alone is drawn."""


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


def draw_nightly(nights: Sequence[Night], changes: Sequence[int], title: str, about: str) -> str:
    """Each night's time against the first nights of the same source, in per cent, as SVG text.

    Per cent because record and reference differ in length; a move that both make is the machine's.

    changes   ordinal days of the first night of each new level; about: the drawing in words
    """
    series = (
        ([(n.source, n.day, n.record_ms) for n in nights], "record"),
        ([(n.reference_source, n.day, n.reference_ms) for n in nights], "reference"),
    )
    looks: dict[str, tuple[str, str, str]] = {
        "record": (svg.CANDIDATE, "-", "o"),
        "reference": (svg.BASELINE, "--", "s"),
    }
    with svg.canvas(2.9) as figure:
        axes = figure.subplots()
        axes.axhline(0.0, color=svg.EDGE, linewidth=0.9)
        for values, name in reversed(series):
            colour, line, marker = looks[name]
            for i, (days, shares) in enumerate(stretches(values)):
                axes.plot(
                    days, shares, line, color=colour, linewidth=1.3, markersize=3.6,
                    marker=marker if len(nights) <= MARKED_NIGHTS else "",
                    label="" if i else name,
                )  # fmt: skip
        for i, day in enumerate(changes):
            axes.axvline(
                day - 0.5 - EPOCH, color=svg.TARGET, linewidth=1.4, dashes=(5, 2.5),
                label="" if i else "change",
            )  # fmt: skip
        _dates(axes, [ordinal(night.day) - EPOCH for night in nights])
        axes.set_title("time against the first nights [%]")
        axes.locator_params(axis="y", nbins=6, min_n_ticks=3)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=3)
        return svg.file_text(figure, title, about)


def stretches(
    values: Sequence[tuple[str, str, float | None]],
) -> list[tuple[list[int], list[float]]]:
    """(days since 1970, per cent against the first five nights) of each stretch of one source.

    A new record is faster, and that is no drift of the old one: the line breaks there.
    values   (source, ISO day, ms or None) of each night
    """
    known = [(source, day, ms) for source, day, ms in values if ms is not None]
    found = []
    for _, group in groupby(known, key=lambda value: value[0]):
        part = list(group)
        level = exp(sum(log(ms) for _, _, ms in part[:5]) / len(part[:5]))
        days = [ordinal(day) - EPOCH for _, day, _ in part]
        found.append((days, [100 * (ms / level - 1) for _, _, ms in part]))
    return found


def ordinal(day: str) -> int:
    """Number of an ISO day."""
    return date.fromisoformat(day).toordinal()


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
