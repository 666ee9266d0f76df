"""Loss curves of all runs of both arms, with the target and where each run ended."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.plan import ARMS
from harness.report import formats as fmt
from harness.report import svg
from harness.report.pairs import judged
from harness.verdict_schema import RunRow, Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EARLY_SHARE = 0.2
"""Losses before this share of a run stand above the frame: they fall from ln(vocabulary) and
would press the end, where the contest is decided, into one line."""


def curve_points(run: RunRow, *, by_time: bool) -> list[tuple[float, float]]:
    """(seconds or step, loss) of one run, only where both are finite."""
    if run.curve is None:
        return []
    axis: Sequence[float | None] = run.curve.train_ms if by_time else run.curve.steps
    points = zip(axis, run.curve.losses_nats, strict=False)
    scale = 1000.0 if by_time else 1.0
    return [
        (x / scale, loss)
        for x, loss in points
        if x is not None and loss is not None and math.isfinite(x) and math.isfinite(loss)
    ]


def _by_time(verdict: Verdict) -> bool:
    return verdict.compared_on == "training time"


def _curves(verdict: Verdict) -> list[tuple[RunRow, list[tuple[float, float]]]]:
    by_time = _by_time(verdict)
    found = [(run, curve_points(run, by_time=by_time)) for run in verdict.runs]
    return [(run, points) for run, points in found if points]


def describe(verdict: Verdict) -> str:
    runs = [run for run, _ in _curves(verdict)]
    parts = [fmt.many(sum(run.arm == arm for run in runs), f"{arm} run") for arm in ARMS]
    axis = "training time" if _by_time(verdict) else "steps"
    return (
        f"Validation loss against {axis}, {parts[0]} and {parts[1]}; "
        f"target {fmt.plain(verdict.loss.target_loss_nats)} nats."
    )


def draw(verdict: Verdict) -> str:
    from matplotlib.lines import Line2D

    target = verdict.loss.target_loss_nats
    curves = _curves(verdict)
    with svg.canvas() as figure:
        axes = figure.subplots()
        # Baseline first, so that the candidate lies on top; within an arm, oddities below.
        for run, points in sorted(curves, key=lambda item: (item[0].arm, not judged(item[0]))):
            _curve(axes, run, points)
        axes.axhline(target, color=svg.TARGET, linewidth=1.3, dashes=(5, 2.5), zorder=1.5)
        low, high = _loss_limits([points for _, points in curves], target)
        axes.set_ylim(low, high)
        axes.set_xlim(left=0)
        axes.annotate(
            f"target {fmt.plain(target)}",
            (0, target),
            xytext=(5, -4),
            textcoords="offset points",
            va="top",
            color=svg.TARGET,
        )
        axes.set_xlabel("training time [s]" if _by_time(verdict) else "step")
        axes.set_title("validation loss [nats]")
        handles = [
            Line2D(
                [],
                [],
                color=svg.COLOURS[arm],
                marker=svg.MARKERS[arm],
                label=arm,
                linestyle=svg.LINES[arm],
            )
            for arm in reversed(ARMS)
            if any(run.arm == arm and judged(run) for run, _ in curves)
        ]
        if any(not judged(run) for run, _ in curves):
            handles.append(
                Line2D([], [], color=svg.TROUBLE, linestyle=":", marker="x", label="does not count")
            )
        figure.legend(handles=handles, loc="outside upper left", ncols=3, columnspacing=1.4)
        _finish(axes, verdict, curves)
        return svg.file_text(figure, "Loss curves", describe(verdict))


def _finish(
    axes: Axes, verdict: Verdict, curves: list[tuple[RunRow, list[tuple[float, float]]]]
) -> None:
    """Inset: where each counted run ended, in the empty corner above the curves. Records differ by
    one per cent, which the curves themselves cannot show."""
    ends = {
        arm: [points[-1] for run, points in curves if run.arm == arm and judged(run)]
        for arm in ARMS
    }
    low, high = axes.get_ylim()
    rising = any(
        points[-1][1] > min(loss for _, loss in points) + 0.1 * (high - low) for _, points in curves
    )
    if sum(map(len, ends.values())) < 2 or rising:  # then the corner is not empty
        return
    inset = axes.inset_axes((0.54, 0.44, 0.46, 0.46))
    for arm in reversed(ARMS):
        x, y = [end[0] for end in ends[arm]], [end[1] for end in ends[arm]]
        inset.plot(
            x,
            y,
            svg.MARKERS[arm],
            color=svg.COLOURS[arm],
            alpha=0.75,
            markersize=4.5,
            markeredgewidth=0,
        )
    target = verdict.loss.target_loss_nats
    inset.axhline(target, color=svg.TARGET, linewidth=1.1, dashes=(5, 2.5), zorder=1.5)
    inset.margins(0.12)
    inset.locator_params(nbins=4, min_n_ticks=2)
    inset.tick_params(labelsize=9, pad=3)
    inset.set_title("where each run ended", fontsize=10, pad=5)


def _curve(axes: Axes, run: RunRow, points: list[tuple[float, float]]) -> None:
    x, y = [p[0] for p in points], [p[1] for p in points]
    if not judged(run):
        axes.plot(x, y, color=svg.TROUBLE, linestyle=":", linewidth=1.0, zorder=1.8)
        axes.plot(x[-1:], y[-1:], color=svg.TROUBLE, marker="x", markersize=4.5, zorder=1.8)
        return
    colour = svg.COLOURS[run.arm]
    axes.plot(x, y, color=colour, linewidth=1.1, alpha=0.7, linestyle=svg.LINES[run.arm])
    axes.plot(x[-1:], y[-1:], color=colour, marker=svg.MARKERS[run.arm], markersize=4)


def _loss_limits(curves: list[list[tuple[float, float]]], target: float) -> tuple[float, float]:
    """Frame that shows the target, every final loss, the late part and the least of every curve."""
    least = [min(loss for _, loss in points) for points in curves]
    last = [points[-1][1] for points in curves]
    late = [
        loss
        for points in curves
        for x, loss in points
        if len(points) < 4 or x >= EARLY_SHARE * points[-1][0]
    ]
    low, high = min([*least, target]), max([*late, *last, target])
    pad = 0.06 * (high - low) or 0.01
    return low - 1.6 * pad, high + pad


def has_data(verdict: Verdict) -> bool:
    """Did any run print a validation loss?"""
    return bool(_curves(verdict))
