"""The record histories drawn: log time against date, as SVG or PNG, and as text in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from math import log10
from pathlib import Path
from typing import Any, cast

from harness.errors import UsageError
from harness.history import RecordRow, dated_days, summary_line

TICKS_MINUTES = (0.5, 1, 2, 3, 5, 10, 20, 30, 45, 60, 120, 240, 360, 600)
INK, GRID, LINE = "#1f2328", "#d8dee4", "#0b62c4"
KIND_COLOURS = {"ML": "#0b62c4", "SYS": "#b8590a", "ML+SYS": "#7a3fb5", "ENV": "#7d8590"}
KIND_WORDS = {
    "ML": "learning",
    "SYS": "speed of the same mathematics",
    "ML+SYS": "both",
    "ENV": "software or re-timing",
}


def save_plot(rows: Sequence[RecordRow], title: str, path: Path) -> None:
    """Write the plot; the ending (.svg, .png) chooses the form. Raises UsageError.

    The SVG is the same bytes each time: no date, fixed ids, text kept as text.
    """
    form = path.suffix.lower().lstrip(".")
    if form not in ("svg", "png"):
        raise UsageError(
            f"no plot in the form {path.suffix or 'without ending'!r}",
            where=str(path),
            fix="end the file's name in .svg or .png",
        )
    import matplotlib

    matplotlib.use("Agg")
    settings: dict[str, Any] = {
        "svg.hashsalt": "speedrun",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
    }
    settings |= {"font.size": 10, "axes.edgecolor": INK}
    with matplotlib.rc_context(cast(Any, settings)):
        figure = _draw(rows, title, summary_line(rows))
        try:
            metadata = {"Date": None} if form == "svg" else {}
            figure.savefig(path, format=form, dpi=160, metadata=metadata)
        except OSError as error:
            raise UsageError(
                "the plot cannot be written", where=str(path), why=error.strerror or str(error)
            ) from None


def _draw(rows: Sequence[RecordRow], title: str, summary: str) -> Any:
    from matplotlib import dates, ticker
    from matplotlib.figure import Figure

    epoch = date(1970, 1, 1).toordinal()
    days = [day - epoch for day in dated_days(rows)]
    minutes = [row.minutes for row in rows]
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    axes.step(days, minutes, where="post", color=INK, linewidth=1.1, zorder=2)
    for kind in dict.fromkeys(row.kind for row in rows):
        chosen = [i for i, row in enumerate(rows) if row.kind == kind]
        axes.scatter(
            [days[i] for i in chosen],
            [minutes[i] for i in chosen],
            s=22,
            color=KIND_COLOURS.get(kind.split(" ")[0], LINE),
            label=kind,
            zorder=3,
        )
    axes.set_yscale("log")
    low, high = min(minutes) / 1.25, max(minutes) * 1.35
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(ticker.FixedLocator([t for t in TICKS_MINUTES if low < t < high]))
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: _tick(value)))
    span = max(days[-1] - days[0], 30)
    axes.set_xlim(days[0] - 0.03 * span, days[-1] + 0.09 * span)
    locate: Any = dates.AutoDateLocator
    write: Any = dates.DateFormatter
    axes.xaxis.set_major_locator(locate(minticks=4, maxticks=9))
    axes.xaxis.set_major_formatter(write("%b %Y" if span > 120 else "%d %b %Y"))
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylabel("training time, log scale")
    axes.set_title(summary, loc="left", fontsize=10, color=INK)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
    for i in labelled(minutes):
        last = i == len(rows) - 1
        axes.annotate(
            f"#{rows[i].record}  {rows[i].time}",
            (days[i], minutes[i]),
            xytext=(7, 7),
            textcoords="offset points",
            fontsize=9,
            color=INK,
            fontweight="bold" if last else "normal",
        )
    groups = {row.kind for row in rows if row.kind not in ("", "-")}
    if len(groups) > 1:
        handles, labels = _merged_legend(axes, groups)
        axes.legend(handles, labels, frameon=False, title="what changed", loc="upper right")
    return figure


def _merged_legend(axes: Any, groups: set[str]) -> tuple[list[Any], list[str]]:
    """One entry a colour, in the order of KIND_COLOURS."""
    handles, labels = axes.get_legend_handles_labels()
    shown = {label: handle for handle, label in zip(handles, labels, strict=True)}
    kinds = [kind for kind in KIND_COLOURS if kind in groups]
    return [shown[kind] for kind in kinds], [KIND_WORDS[kind] for kind in kinds]


def labelled(minutes: Sequence[float]) -> list[int]:
    """Points that get a label: the first, the first below each halving, the last."""
    chosen, limit = [0], minutes[0] / 2
    for i, value in enumerate(minutes):
        if value <= limit:
            chosen.append(i)
            limit = value / 2
    last = len(minutes) - 1
    if chosen[-1] != last:
        near = len(chosen) > 1 and minutes[chosen[-1]] / minutes[last] < 1.3
        chosen = (chosen[:-1] if near else chosen) + [last]
    return chosen


def _tick(minutes: float) -> str:
    if minutes >= 60:
        return f"{minutes / 60:g} h"
    return f"{minutes:g} min" if minutes >= 1 else f"{minutes * 60:g} s"


def text_plot(rows: Sequence[RecordRow], width: int = 72, height: int = 12) -> str:
    """The same curve in braille dots (2 x 4 a character), with times at the left, dates below."""
    days = dated_days(rows)
    levels = [log10(row.minutes) for row in rows]
    columns, lines = 2 * width, 4 * height
    low, high = min(levels), max(levels)
    span, depth = max(days[-1] - days[0], 1), max(high - low, 1e-9)
    dots = [[0] * width for _ in range(height)]
    bits = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))

    def dot(x: int, y: int) -> None:
        dots[y // 4][x // 2] |= bits[y % 4][x % 2]

    xs = [round((day - days[0]) / span * (columns - 1)) for day in days]
    ys = [round((high - level) / depth * (lines - 1)) for level in levels]
    for i in range(len(rows)):
        end = xs[i + 1] if i + 1 < len(rows) else columns - 1
        for x in range(xs[i], end + 1):
            dot(x, ys[i])
        if i + 1 < len(rows):
            for y in range(min(ys[i], ys[i + 1]), max(ys[i], ys[i + 1]) + 1):
                dot(xs[i + 1], y)
    slowest, fastest = max(rows, key=_minutes), min(rows, key=_minutes)
    marks = {0: slowest.time, height - 1: fastest.time}
    margin = max(len(mark) for mark in marks.values())
    body = [
        f"{marks.get(n, ''):>{margin}} ┤" + "".join(chr(0x2800 + cell) for cell in line)
        for n, line in enumerate(dots)
    ]
    first, last = (date.fromordinal(int(d)).isoformat()[:7] for d in (days[0], days[-1]))
    foot = f"{'':{margin}} └{first}{last:>{width - len(first)}}"
    return "\n".join([*body, foot])


def _minutes(row: RecordRow) -> float:
    return row.minutes
