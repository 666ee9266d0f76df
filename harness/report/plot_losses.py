"""Final losses of both arms against the target: every run, the mean, its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.report import formats as fmt
from harness.report import svg
from harness.stats.moments import t_quantile
from harness.verdict_schema import ArmSummary, Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def describe(verdict: Verdict) -> str:
    loss = verdict.loss
    text = f"Final validation losses; target {fmt.plain(loss.target_loss_nats)} nats."
    for arm in (verdict.candidate, verdict.baseline):
        if arm.losses_nats:
            text += f" {arm.arm.capitalize()} mean {fmt.nats(arm.loss_mean)}, n = {arm.n}."
    if fmt.known(loss.upper_bound):
        text += f" Upper bound of the candidate's mean {fmt.nats(loss.upper_bound)}."
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


def draw(verdict: Verdict) -> str:
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
            f"target {fmt.plain(target)}",
            (target, -0.6),
            xytext=(-4 if left else 4, -2),
            textcoords="offset points",
            ha="right" if left else "left",
            va="top",
            color=svg.TARGET,
        )
        axes.locator_params(axis="x", nbins=5)
        axes.set_title(f"final validation loss [nats], mean and {_interval_name(verdict)}")
        return svg.file_text(figure, "Final losses", describe(verdict))


def _interval_name(verdict: Verdict) -> str:
    return f"{100 * (1 - 2 * verdict.alpha):.6g} % interval"


def _finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _loss_row(axes: Axes, verdict: Verdict, arm: ArmSummary, row: float) -> None:
    """Dots in run order from top to bottom, the mean and its interval below them."""
    values, colour = _finite(arm.losses_nats), svg.COLOURS[arm.arm]
    n = len(values)
    y = [row - 0.3 + 0.4 * (i / (n - 1) if n > 1 else 0.5) for i in range(n)]
    axes.plot(
        values, y, svg.MARKERS[arm.arm], color=colour, alpha=0.65, markersize=5, markeredgewidth=0
    )
    below = row + 0.27
    interval = mean_interval(verdict, arm)
    if interval is not None:
        axes.plot(interval, [below, below], color=colour, linewidth=2.2, solid_capstyle="butt")
        axes.plot(interval, [below, below], "|", color=colour, markersize=9, markeredgewidth=2)
    if arm.loss_mean is not None and math.isfinite(arm.loss_mean):
        axes.plot([arm.loss_mean], [below], "D", color=colour, markersize=6.5)


def has_data(verdict: Verdict) -> bool:
    """Has any counted run of either arm a finite final loss?"""
    return any(_finite(arm.losses_nats) for arm in (verdict.candidate, verdict.baseline))
