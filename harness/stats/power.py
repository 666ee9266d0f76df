"""How many runs a claim will cost, before they are bought.

Power of the one-sided one-sample t-test is exact, by the noncentral t distribution. `advise` turns
a series that is not proven yet into the three ways out: more runs (with their node-hours and
price), or a few more steps a run, which buy margin at the track's exchange rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.stats.loss import ARCHIVE_SIGMA_NATS
from harness.stats.moments import finite, mean, normal_quantile, sample_sd, t_quantile

LOSS_PER_STEP = 0.0129 / 100
"""Track small, 2025-12 to 2026-07: 0.0129 ± 0.0007 nats a hundred steps."""

SIGMA_DF = 10
"""Weight of the archive's sigma against a sample's own sd, in degrees of freedom."""

PRIOR_MARGIN_SD_NATS = 0.001
"""How far candidates' true margins scatter about the record's: weight of `prior_margin`."""

MOST_RUNS = 10_000_000
"""A claim that needs more runs than this has no answer (None)."""

EXACT_BELOW = 100_000
"""Above this the noncentral t is the normal to all printed digits, and the normal cannot fail."""


def power_one_sample(n: int, margin: float, sd: float, alpha: float = 0.01) -> float:
    """Probability that n runs pass the one-sided t-test when the true mean lies `margin` below.

    margin, sd   nats; a margin of 0 gives alpha. 0 below two runs, where no test exists.
    """
    if n < 2:
        return 0.0
    effect = margin / sd * math.sqrt(n)
    if n > EXACT_BELOW:
        return 0.5 * math.erfc((normal_quantile(1.0 - alpha) - effect) / math.sqrt(2.0))
    from scipy.special import nctdtr

    return 1.0 - float(nctdtr(n - 1, effect, t_quantile(1.0 - alpha, n - 1)))


def runs_needed(margin: float, sd: float, power: float = 0.8, alpha: float = 0.01) -> int | None:
    """Fewest runs for this power; None for a margin that no affordable number of runs would show.

    Power rises with n, so the answer is found by bisection.
    """
    if margin <= 0.0 or power_one_sample(MOST_RUNS, margin, sd, alpha) < power:
        return None
    low, high = 1, 2
    while power_one_sample(high, margin, sd, alpha) < power:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        if power_one_sample(middle, margin, sd, alpha) < power:
            low = middle
        else:
            high = middle
    return high


def z_runs_needed(
    margin: float, sd: float = ARCHIVE_SIGMA_NATS, power: float = 0.8, alpha: float = 0.001
) -> int | None:
    """Fewest runs for a one-sided z-test with known sigma: ((z(1−alpha) + z(power))·sd/margin)²."""
    if margin <= 0.0:
        return None
    quantiles = normal_quantile(1.0 - alpha) + normal_quantile(power)
    runs = math.ceil((quantiles * sd / margin) ** 2)
    return max(1, runs) if runs <= MOST_RUNS else None


def shrunk_sd(
    losses: Sequence[float], prior_sd: float = ARCHIVE_SIGMA_NATS, prior_df: float = SIGMA_DF
) -> float:
    """sd of a small sample, its variance pooled with a prior's worth `prior_df` degrees of freedom.

    Three runs show an sd anywhere between a quarter and twice the true one.
    """
    if len(losses) < 2 or not finite(losses):
        return prior_sd
    df = len(losses) - 1
    return math.sqrt((prior_df * prior_sd**2 + df * sample_sd(losses) ** 2) / (prior_df + df))


def shrunk_margin(
    observed: float,
    standard_error: float,
    prior_margin: float,
    prior_sd: float = PRIOR_MARGIN_SD_NATS,
) -> float:
    """Margin expected of the next runs: observed and prior margin, weighted by their precision.

    A pilot of three runs has a standard error of .0008 nats, as large as most margins, and whoever
    continues does so because the pilot looked good.
    """
    weight = 1.0 / standard_error**2
    prior_weight = 1.0 / prior_sd**2
    return (weight * observed + prior_weight * prior_margin) / (weight + prior_weight)


@dataclass(frozen=True, slots=True)
class Price:
    """What one run costs: hours of the node, and dollars when an hourly price is known."""

    run_hours: float
    dollars_per_hour: float | None = None

    def node_hours(self, runs: int) -> float:
        """Hours of the node that `runs` runs take."""
        return runs * self.run_hours

    def dollars(self, runs: int) -> float | None:
        """Their price; None without an hourly price."""
        if self.dollars_per_hour is None:
            return None
        return self.node_hours(runs) * self.dollars_per_hour


@dataclass(frozen=True, slots=True)
class StepTrade:
    """The alternative to more runs: add steps, gain margin, prove it with fewer runs.

    steps        steps to add to each run
    margin       margin expected then, nats
    extra_ms     what they cost each run, ms; None without a step time
    runs         runs that a fresh series needs then (a new step count is new code)
    node_hours   of that series;  dollars, its price; both None where not known
    """

    steps: int
    margin: float
    extra_ms: float | None
    runs: int
    node_hours: float | None
    dollars: float | None


@dataclass(frozen=True, slots=True)
class Advice:
    """What a series that is not proven yet would need.

    n, margin, sd      runs at hand, observed margin and sd, nats
    margin_se          standard error of the margin, from `planning_sd`
    planning_margin    margin planned with: shrunk towards the prior where one is known
    planning_sd        sd planned with: pooled with the archive's
    runs               runs in all for the power asked; None when the margin shows no way
    more_runs          runs − n, at least 1: losses at hand were already looked at, so the figure is
                       an estimate of the cost, not a licence to test again
    power, alpha       what `runs` was computed for
    node_hours         of more_runs;  dollars, their price; None where not known
    steps              the alternative; None when the margin is wide enough already
    """

    n: int
    margin: float
    sd: float
    margin_se: float
    planning_margin: float
    planning_sd: float
    runs: int | None
    more_runs: int | None
    power: float
    alpha: float
    node_hours: float | None
    dollars: float | None
    steps: StepTrade | None


def advise(
    losses: Sequence[float],
    target_loss_nats: float,
    *,
    power: float = 0.9,
    alpha: float = 0.01,
    price: Price | None = None,
    prior_margin: float | None = None,
    prior_sd: float = ARCHIVE_SIGMA_NATS,
    loss_per_step: float = LOSS_PER_STEP,
    step_ms: float | None = None,
    wanted_margin: float = 0.002,
) -> Advice | None:
    """Advice for the not-proven report; None without losses or with a diverged one.

    prior_margin     the standing record's margin, nats, if known
    prior_sd         sd of this contest's losses; replace it for a track of another scale
    loss_per_step    what one more step takes off the final loss, nats
    step_ms          time of one step, ms
    wanted_margin    margin the added steps should lead to (the field keeps .001-.002)
    """
    if not losses or not finite(losses):
        return None
    n, margin = len(losses), target_loss_nats - mean(losses)
    sd = shrunk_sd(losses, prior_sd)
    standard_error = sd / math.sqrt(n)
    planned = margin
    if prior_margin is not None:
        planned = shrunk_margin(margin, standard_error, prior_margin)
    runs = runs_needed(planned, sd, power, alpha)
    more = None if runs is None else max(1, runs - n)
    return Advice(
        n=n,
        margin=margin,
        sd=sample_sd(losses),
        margin_se=standard_error,
        planning_margin=planned,
        planning_sd=sd,
        runs=runs,
        more_runs=more,
        power=power,
        alpha=alpha,
        node_hours=None if price is None or more is None else price.node_hours(more),
        dollars=None if price is None or more is None else price.dollars(more),
        steps=_step_trade(planned, sd, power, alpha, price, loss_per_step, step_ms, wanted_margin),
    )


def _step_trade(
    margin: float,
    sd: float,
    power: float,
    alpha: float,
    price: Price | None,
    loss_per_step: float,
    step_ms: float | None,
    wanted_margin: float,
) -> StepTrade | None:
    if margin >= wanted_margin or loss_per_step <= 0.0:
        return None
    # The slack keeps .001/.000125 at 8 steps, not 9.
    steps = math.ceil((wanted_margin - margin) / loss_per_step - 1e-9)
    then = margin + steps * loss_per_step
    runs = runs_needed(then, sd, power, alpha)
    if runs is None:
        return None
    return StepTrade(
        steps=steps,
        margin=then,
        extra_ms=None if step_ms is None else steps * step_ms,
        runs=runs,
        node_hours=None if price is None else price.node_hours(runs),
        dollars=None if price is None else price.dollars(runs),
    )
