"""The three plots of a report: loss curves, final losses against the target, paired times.

Each plot says whether a verdict has anything to draw, describes itself in words for readers who
do not see it, and draws itself as SVG. Arms differ in colour (blue and orange, distinct under every
common colour blindness), in marker and in line style. matplotlib is imported when first drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.plan import ARMS, ArmName
from harness.report import formats as f
from harness.report import svg
from harness.stats.moments import t_quantile
from harness.verdict_schema import ArmSummary, RunRow, Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS: dict[ArmName, str] = {"candidate": svg.CANDIDATE, "baseline": svg.BASELINE}
MARKERS: dict[ArmName, str] = {"candidate": "o", "baseline": "s"}
LINES: dict[ArmName, Literal["-", "--"]] = {"candidate": "-", "baseline": "--"}
EARLY_SHARE = 0.2
"""Losses before this share of a run stand above the frame: they fall from ln(vocabulary) and
would press the end, where the contest is decided, into one line."""


@dataclass(frozen=True, slots=True)
class Plot:
    """One drawing. `name` is its file in plots/ without `.svg`."""

    name: str
    title: str
    has_data: Callable[[Verdict], bool]
    describe: Callable[[Verdict], str]
    draw: Callable[[Verdict], str]


def available(verdict: Verdict) -> tuple[Plot, ...]:
    """The plots that this verdict has data for."""
    return tuple(plot for plot in PLOTS if plot.has_data(verdict))


def render_plots(verdict: Verdict) -> dict[str, str]:
    """Name -> text of the SVG file, for every available plot."""
    return {plot.name: plot.draw(verdict) for plot in available(verdict)}


# --- loss curves -------------------------------------------------------------------------------


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


def _describe_curves(verdict: Verdict) -> str:
    runs = [run for run, _ in _curves(verdict)]
    parts = [f.many(sum(run.arm == arm for run in runs), f"{arm} run") for arm in ARMS]
    axis = "training time" if _by_time(verdict) else "steps"
    return (
        f"Validation loss against {axis}, {parts[0]} and {parts[1]}; "
        f"target {f.plain(verdict.loss.target_loss_nats)} nats."
    )


def _draw_curves(verdict: Verdict) -> str:
    from matplotlib.lines import Line2D

    target = verdict.loss.target_loss_nats
    curves = _curves(verdict)
    with svg.canvas() as figure:
        axes = figure.subplots()
        # Baseline first, so that the candidate lies on top; within an arm, oddities below.
        for run, points in sorted(curves, key=lambda item: (item[0].arm, not _judged(item[0]))):
            _curve(axes, run, points)
        axes.axhline(target, color=svg.TARGET, linewidth=1.3, dashes=(5, 2.5), zorder=1.5)
        low, high = _loss_limits([points for _, points in curves], target)
        axes.set_ylim(low, high)
        axes.set_xlim(left=0)
        axes.annotate(
            f"target {f.plain(target)}",
            (0, target),
            xytext=(5, -4),
            textcoords="offset points",
            va="top",
            color=svg.TARGET,
        )
        axes.set_xlabel("training time [s]" if _by_time(verdict) else "step")
        axes.set_title("validation loss [nats]")
        handles = [
            Line2D([], [], color=COLOURS[arm], marker=MARKERS[arm], label=arm, linestyle=LINES[arm])
            for arm in reversed(ARMS)
            if any(run.arm == arm and _judged(run) for run, _ in curves)
        ]
        if any(not _judged(run) for run, _ in curves):
            handles.append(
                Line2D([], [], color=svg.TROUBLE, linestyle=":", marker="x", label="does not count")
            )
        figure.legend(handles=handles, loc="outside upper left", ncols=3, columnspacing=1.4)
        _finish(axes, verdict, curves)
        return svg.file_text(figure, "Loss curves", _describe_curves(verdict))


def _finish(
    axes: Axes, verdict: Verdict, curves: list[tuple[RunRow, list[tuple[float, float]]]]
) -> None:
    """Inset: where each counted run ended, in the empty corner above the curves. Records differ by
    one per cent, which the curves themselves cannot show."""
    ends = {
        arm: [points[-1] for run, points in curves if run.arm == arm and _judged(run)]
        for arm in ARMS
    }
    if sum(map(len, ends.values())) < 2:
        return
    inset = axes.inset_axes((0.52, 0.44, 0.48, 0.48))
    for arm in reversed(ARMS):
        x, y = [end[0] for end in ends[arm]], [end[1] for end in ends[arm]]
        inset.plot(
            x, y, MARKERS[arm], color=COLOURS[arm], alpha=0.75, markersize=4.5, markeredgewidth=0
        )
    target = verdict.loss.target_loss_nats
    inset.axhline(target, color=svg.TARGET, linewidth=1.1, dashes=(5, 2.5), zorder=1.5)
    inset.margins(0.12)
    inset.locator_params(nbins=4)
    inset.tick_params(labelsize=8, pad=3)
    inset.set_title("where each run ended", fontsize=9, pad=5)


def _judged(run: RunRow) -> bool:
    return run.counts and run.state == "finished"


def _curve(axes: Axes, run: RunRow, points: list[tuple[float, float]]) -> None:
    x, y = [p[0] for p in points], [p[1] for p in points]
    if not _judged(run):
        axes.plot(x, y, color=svg.TROUBLE, linestyle=":", linewidth=1.0, zorder=1.8)
        axes.plot(x[-1:], y[-1:], color=svg.TROUBLE, marker="x", markersize=4.5, zorder=1.8)
        return
    colour = COLOURS[run.arm]
    axes.plot(x, y, color=colour, linewidth=1.1, alpha=0.7, linestyle=LINES[run.arm])
    axes.plot(x[-1:], y[-1:], color=colour, marker=MARKERS[run.arm], markersize=4)


def _loss_limits(curves: list[list[tuple[float, float]]], target: float) -> tuple[float, float]:
    """Frame that shows the target, every final loss and the late part of every curve."""
    last = [points[-1][1] for points in curves]
    late = [
        loss
        for points in curves
        for x, loss in points
        if len(points) < 4 or x >= EARLY_SHARE * points[-1][0]
    ]
    low, high = min([*last, target]), max([*late, *last, target])
    pad = 0.06 * (high - low) or 0.01
    return low - 1.6 * pad, high + pad


# --- final losses ------------------------------------------------------------------------------


def _describe_losses(verdict: Verdict) -> str:
    loss = verdict.loss
    text = f"Final validation losses; target {f.plain(loss.target_loss_nats)} nats."
    for arm in (verdict.candidate, verdict.baseline):
        if arm.losses_nats:
            text += f" {arm.arm.capitalize()} mean {f.nats(arm.loss_mean)}, n = {arm.n}."
    if f.known(loss.upper_bound):
        text += f" Upper bound of the candidate's mean {f.nats(loss.upper_bound)}."
    return text


def mean_interval(verdict: Verdict, arm: ArmSummary) -> tuple[float, float] | None:
    """Two-sided 1 − 2·alpha t-interval of an arm's mean loss; its upper end is the one-sided
    1 − alpha bound. None without a mean and a spread."""
    mean, sd = arm.loss_mean, arm.loss_sd
    if mean is None or sd is None or arm.n < 2 or not math.isfinite(mean + sd):
        return None
    half = t_quantile(1 - verdict.alpha, arm.n - 1) * sd / math.sqrt(arm.n)
    bound = verdict.loss.upper_bound
    if arm.arm == "candidate" and bound is not None and math.isfinite(bound):
        half = bound - mean
    return mean - half, mean + half


def _draw_losses(verdict: Verdict) -> str:
    target = verdict.loss.target_loss_nats
    arms = [arm for arm in (verdict.candidate, verdict.baseline) if _finite(arm.losses_nats)]
    with svg.canvas(1.25 + 1.05 * len(arms)) as figure:
        axes = figure.subplots()
        for row, arm in enumerate(arms):
            _loss_row(axes, verdict, arm, float(row))
        axes.set_ylim(len(arms) - 0.45, -0.6)
        axes.set_yticks(range(len(arms)), [f"{arm.arm}\nn = {arm.n}" for arm in arms])
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.06)
        axes.axvline(target, color=svg.TARGET, linewidth=1.3, dashes=(5, 2.5), zorder=1.5)
        low, high = axes.get_xlim()
        left = target > (low + high) / 2
        axes.annotate(
            f"target {f.plain(target)}",
            (target, -0.6),
            xytext=(-4 if left else 4, -2),
            textcoords="offset points",
            ha="right" if left else "left",
            va="top",
            color=svg.TARGET,
        )
        axes.locator_params(axis="x", nbins=5)
        axes.set_title(f"final validation loss [nats], mean and {_interval_name(verdict)}")
        return svg.file_text(figure, "Final losses", _describe_losses(verdict))


def _interval_name(verdict: Verdict) -> str:
    return f"{100 * (1 - 2 * verdict.alpha):.6g} % interval"


def _finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _loss_row(axes: Axes, verdict: Verdict, arm: ArmSummary, row: float) -> None:
    """Dots in run order from top to bottom, the mean and its interval below them."""
    values, colour = _finite(arm.losses_nats), COLOURS[arm.arm]
    n = len(values)
    y = [row - 0.3 + 0.4 * (i / (n - 1) if n > 1 else 0.5) for i in range(n)]
    axes.plot(
        values, y, MARKERS[arm.arm], color=colour, alpha=0.65, markersize=5, markeredgewidth=0
    )
    below = row + 0.27
    interval = mean_interval(verdict, arm)
    if interval is not None:
        axes.plot(interval, [below, below], color=colour, linewidth=2.2, solid_capstyle="butt")
        axes.plot(interval, [below, below], "|", color=colour, markersize=9, markeredgewidth=2)
    if arm.loss_mean is not None and math.isfinite(arm.loss_mean):
        axes.plot([arm.loss_mean], [below], "D", color=colour, markersize=6.5)


# --- paired times ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PairTimes:
    """Training times of one counted pair, ms."""

    pair: int
    candidate_ms: float
    baseline_ms: float

    @property
    def ratio(self) -> float:
        return self.candidate_ms / self.baseline_ms


def pair_times(verdict: Verdict) -> list[PairTimes]:
    """Counted pairs whose both runs finished with a positive time, in pair order."""
    times: dict[int, dict[ArmName, float]] = {}
    for run in verdict.runs:
        ms = run.train_ms
        if _judged(run) and ms is not None and math.isfinite(ms) and ms > 0:
            times.setdefault(run.pair, {}).setdefault(run.arm, ms)
    return [
        PairTimes(pair, arms["candidate"], arms["baseline"])
        for pair, arms in sorted(times.items())
        if len(arms) == 2
    ]


def _describe_pairs(verdict: Verdict) -> str:
    pairs = pair_times(verdict)
    faster = sum(pair.ratio < 1 for pair in pairs)
    text = f"Training times of {f.many(len(pairs), 'pair')}; the candidate is faster in {faster}."
    if f.known(verdict.timing.ratio):
        timing = verdict.timing
        text += f" Ratio {f.ratio(timing.ratio)}, interval {f.ratio(timing.low)} to "
        text += f"{f.ratio(timing.high)}."
    return text


def _draw_pairs(verdict: Verdict) -> str:
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
            left.plot(times, rows, MARKERS[arm], color=COLOURS[arm], markersize=6, label=arm)
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
        return svg.file_text(figure, "Paired times", _describe_pairs(verdict))


def _ratios(axes: Axes, verdict: Verdict, ratios: list[float]) -> None:
    timing = verdict.timing
    low, high = timing.low, timing.high
    if low is not None and high is not None and math.isfinite(low) and math.isfinite(high):
        axes.axvspan(low, high, color=svg.CANDIDATE, alpha=0.18, linewidth=0)
    if timing.ratio is not None and math.isfinite(timing.ratio):
        axes.axvline(timing.ratio, color=svg.CANDIDATE, linewidth=1.2)
    axes.axvline(1.0, color=svg.TARGET, linewidth=1.3, dashes=(5, 2.5))
    axes.plot(ratios, range(len(ratios)), MARKERS["candidate"], color=svg.CANDIDATE, markersize=5)
    axes.margins(x=0.12)
    axes.locator_params(axis="x", nbins=3, min_n_ticks=2)
    axes.tick_params(labelleft=False)
    axes.set_title("candidate / baseline")


PLOTS: tuple[Plot, ...] = (
    Plot(
        "loss_curves",
        "Loss curves",
        lambda verdict: bool(_curves(verdict)),
        _describe_curves,
        _draw_curves,
    ),
    Plot(
        "final_losses",
        "Final losses",
        lambda verdict: any(
            _finite(arm.losses_nats) for arm in (verdict.candidate, verdict.baseline)
        ),
        _describe_losses,
        _draw_losses,
    ),
    Plot(
        "paired_times",
        "Paired times",
        lambda verdict: bool(pair_times(verdict)),
        _describe_pairs,
        _draw_pairs,
    ),
)
