"""The three plots of a report: loss curves, final losses against the target, paired times.

Each plot says whether a verdict has anything to draw, describes itself in words for readers who
do not see it, and draws itself as SVG. Arms differ in colour (blue and orange, distinct under every
common colour blindness), in marker and in line style. matplotlib is imported when first drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.report import plot_curves, plot_losses, plot_pairs
from harness.verdict_schema import Verdict


@dataclass(frozen=True, slots=True)
class Plot:
    """One drawing: `name` is its file in plots/ without `.svg`, `missing` why there is none."""

    name: str
    missing: str
    has_data: Callable[[Verdict], bool]
    describe: Callable[[Verdict], str]
    draw: Callable[[Verdict], str]


PLOTS: tuple[Plot, ...] = (
    Plot(
        "loss_curves",
        "no run printed a validation loss",
        plot_curves.has_data,
        plot_curves.describe,
        plot_curves.draw,
    ),
    Plot(
        "final_losses",
        "no counted run has finished with a finite loss",
        plot_losses.has_data,
        plot_losses.describe,
        plot_losses.draw,
    ),
    Plot(
        "paired_times",
        "no counted pair has finished in both arms",
        plot_pairs.has_data,
        plot_pairs.describe,
        plot_pairs.draw,
    ),
)


def available(verdict: Verdict) -> tuple[Plot, ...]:
    """The plots that this verdict has data for."""
    return tuple(plot for plot in PLOTS if plot.has_data(verdict))


def render_plots(verdict: Verdict) -> dict[str, str]:
    """Name -> text of the SVG file, for every available plot."""
    return {plot.name: plot.draw(verdict) for plot in available(verdict)}
