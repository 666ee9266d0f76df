"""Paired times: both runs of every pair side by side, and their ratio with its interval."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from harness.plan import ARMS
from harness.report import formats as fmt
from harness.report import svg
from harness.report.pairs import pair_times
from harness.verdict_schema import Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def describe(verdict: Verdict) -> str:
    pairs = pair_times(verdict)
    faster = sum(pair.ratio < 1 for pair in pairs)
    text = f"Training times of {fmt.many(len(pairs), 'pair')}; the candidate is faster in {faster}."
    if fmt.known(verdict.timing.ratio):
        timing = verdict.timing
        text += f" Ratio {fmt.ratio(timing.ratio)}, interval {fmt.ratio(timing.low)} to "
        text += f"{fmt.ratio(timing.high)}."
    return text


def draw(verdict: Verdict) -> str:
    pairs = pair_times(verdict)
    rows = list(range(len(pairs)))
    labels = [str(pair.pair) for pair in pairs]
    with svg.canvas(1.35 + 0.235 * len(pairs)) as figure:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.5, 1))
        for row, pair in enumerate(pairs):
            ends = [pair.baseline_ms / 1000, pair.candidate_ms / 1000]
            left.plot(ends, [row, row], color=svg.EDGE, linewidth=1.4, zorder=1.8)
        for arm in reversed(ARMS):
            times = [getattr(pair, f"{arm}_ms") / 1000 for pair in pairs]
            left.plot(
                times, rows, svg.MARKERS[arm], color=svg.COLOURS[arm], markersize=6, label=arm
            )
        left.set_title("training time [s]")
        left.set_ylabel("pair")
        left.set_yticks(rows, labels)
        left.set_ylim(len(pairs) - 0.4, -0.6)
        left.margins(x=0.08)
        left.locator_params(axis="x", nbins=5, min_n_ticks=3)
        handles, names = left.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper left", ncols=2, columnspacing=1.4)
        _ratios(right, verdict, [pair.ratio for pair in pairs])
        for axes in (left, right):
            axes.grid(visible=False, axis="y")
        return svg.file_text(figure, "Paired times", describe(verdict))


def _ratios(axes: Axes, verdict: Verdict, ratios: list[float]) -> None:
    timing = verdict.timing
    low, high = timing.low, timing.high
    if low is not None and high is not None and math.isfinite(low) and math.isfinite(high):
        axes.axvspan(low, high, color=svg.CANDIDATE, alpha=0.18, linewidth=0)
    if timing.ratio is not None and math.isfinite(timing.ratio):
        axes.axvline(timing.ratio, color=svg.CANDIDATE, linewidth=1.2)
    axes.axvline(1.0, color=svg.TARGET, linewidth=1.3, dashes=(5, 2.5))
    axes.plot(
        ratios, range(len(ratios)), svg.MARKERS["candidate"], color=svg.CANDIDATE, markersize=5
    )
    axes.margins(x=0.12)
    axes.locator_params(axis="x", nbins=3, min_n_ticks=2)
    axes.tick_params(labelleft=False)
    axes.set_title("candidate / baseline")


def has_data(verdict: Verdict) -> bool:
    """Has any counted pair finished in both arms?"""
    return bool(pair_times(verdict))
