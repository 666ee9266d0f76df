"""Does the mean final validation loss lie below the target?

The rule's own test is a one-sided one-sample t-test of the final losses (`loss_test`); the
optimization track states a z-test with a known sigma instead (`z_rule`, `pairwise_z_rule`). Two
questions guard them: is the sample's spread implausibly small (`luck_warning`), and are these runs
independent at all (`pseudo_replicates`)?

Every result is defined for every input, without warnings:

* fewer than two losses: no test exists; `sd`, `t`, `p` are NaN and `upper_bound` is +inf;
* a loss that is NaN, infinite or above 1e100 (a diverged run): `mean` and `upper_bound` are +inf,
  `sd` and `t` NaN, and p = 1: a series that can diverge has shown no mean below anything;
* no variance at all: equal losses are one run repeated, not evidence. `sd` is 0, `t` NaN, p = 1,
  `upper_bound` +inf. (scipy would answer p = 0 with a warning.)

`passed` is False in all three cases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.stats.moments import finite, mean, normal_cdf, sample_sd, t_cdf, t_quantile

ARCHIVE_SIGMA_NATS = 0.00141
"""Pooled within-group sd of the final loss over 102 groups of same-code runs (774 df)."""

TRACK_SIGMA_NATS = 0.0013
"""The sigma that the optimization track's rule takes as known."""

Z_THRESHOLD = 0.004
"""The optimization track's bar for (target − mean)·√n, in nats: 3.08 sigma, p ≈ .001."""

LOSS_PER_STEP_OPTIMIZATION = 4.5e-5
"""The optimization track's exchange rate: 0.0045 nats a hundred steps."""

BOUNDARY_SLACK = 1e-12
"""3.28 − 3.278 is 2.2e-16 short of 0.002 in doubles; a statistic on the bar must still pass."""


@dataclass(frozen=True, slots=True)
class LossTest:
    """One-sided one-sample t-test of H0: mean ≥ target.

    n                 losses that entered
    mean, sd          sample mean and sample sd (n − 1), nats
    t, df             (mean − target)/(sd/√n), negative when below the target; df = n − 1
    p                 P(T ≤ t)
    upper_bound       one-sided 1 − alpha confidence bound on the mean, nats; below the target
                      exactly when p < alpha
    target_loss_nats  the target
    alpha             level of the bound and of `passed`
    """

    n: int
    mean: float
    sd: float
    t: float
    df: int
    p: float
    upper_bound: float
    target_loss_nats: float
    alpha: float

    @property
    def passed(self) -> bool:
        """p < alpha, the rule's wording. False when no test exists."""
        return self.p < self.alpha

    @property
    def margin_nats(self) -> float:
        """Target minus mean: positive when the mean lies below the target."""
        return self.target_loss_nats - self.mean


def loss_test(losses: Sequence[float], target_loss_nats: float, alpha: float = 0.01) -> LossTest:
    """The rule's own test: `scipy.stats.ttest_1samp(losses, target, alternative="less")`.

    Equal to scipy within 1e-12 wherever a test exists; see the module for the other cases.
    """
    n = len(losses)

    def result(mean: float, sd: float, t: float, p: float, upper_bound: float) -> LossTest:
        return LossTest(n, mean, sd, t, max(n - 1, 0), p, upper_bound, target_loss_nats, alpha)

    if not finite(losses):
        return result(math.inf, math.nan, math.nan, 1.0, math.inf)
    centre, sd = mean(losses), sample_sd(losses)
    if n < 2:
        return result(centre, sd, math.nan, math.nan, math.inf)
    if sd == 0.0:
        return result(centre, sd, math.nan, 1.0, math.inf)
    standard_error = sd / math.sqrt(n)
    t = (centre - target_loss_nats) / standard_error
    upper_bound = centre + t_quantile(1.0 - alpha, n - 1) * standard_error
    return result(centre, sd, t, t_cdf(t, n - 1), upper_bound)


@dataclass(frozen=True, slots=True)
class ZRule:
    """A z-test with known sigma, in the optimization track's form.

    statistic  in nats: (target − mean)·√n, or (loss credit + step credit)/√(1/n1 + 1/n2)
    passed     statistic ≥ threshold (to 1e-12)
    p          one-sided normal p of statistic/sigma; 1 when there is no finite statistic
    """

    statistic: float
    passed: bool
    p: float


def _z_rule(statistic: float, sigma: float, threshold: float) -> ZRule:
    if not math.isfinite(statistic):
        return ZRule(statistic, False, 1.0)
    return ZRule(statistic, statistic >= threshold - BOUNDARY_SLACK, normal_cdf(-statistic / sigma))


def z_rule(
    losses: Sequence[float],
    target: float,
    sigma: float = TRACK_SIGMA_NATS,
    threshold: float = Z_THRESHOLD,
) -> ZRule:
    """The optimization track's rule: (target − mean)·√n ≥ 0.004 with sigma 0.0013 (p < .001).

    No losses, or a diverged one, do not pass: the statistic is then NaN or −inf.
    """
    if not losses:
        return ZRule(math.nan, False, 1.0)
    centre = mean(losses) if finite(losses) else math.inf
    return _z_rule((target - centre) * math.sqrt(len(losses)), sigma, threshold)


def pairwise_z_rule(
    losses: Sequence[float],
    steps: int,
    reference_losses: Sequence[float],
    reference_steps: int,
    *,
    loss_per_step: float = LOSS_PER_STEP_OPTIMIZATION,
    sigma: float = TRACK_SIGMA_NATS,
    threshold: float = Z_THRESHOLD,
) -> ZRule:
    """The optimization track's comparison of two results at unequal step counts.

    (reference mean − mean + (reference_steps − steps)·loss_per_step) / √(1/n1 + 1/n2) ≥ threshold:
    lower loss and fewer steps both speak for the candidate, at the stated exchange rate.
    """
    if not losses or not reference_losses:
        return ZRule(math.nan, False, 1.0)
    if not finite(losses) or not finite(reference_losses):
        return ZRule(math.nan, False, 1.0)
    loss_credit = mean(reference_losses) - mean(losses)
    step_credit = (reference_steps - steps) * loss_per_step
    spread = math.sqrt(1.0 / len(losses) + 1.0 / len(reference_losses))
    return _z_rule((loss_credit + step_credit) / spread, sigma, threshold)


@dataclass(frozen=True, slots=True)
class LuckWarning:
    """The sample's sd is under half of what this contest has always shown.

    A t-test believes its own sd: four losses with sd .00055 gave p = .006 where the archive's sd
    gives .016. `p` is the z-test with the archive's sigma, printed beside the t-test.
    """

    n: int
    sd: float
    archive_sigma: float
    z: float
    p: float


def luck_warning(
    losses: Sequence[float], target: float, archive_sigma: float = ARCHIVE_SIGMA_NATS
) -> LuckWarning | None:
    """A warning when the sd is below half the archive's sigma, with the z-test that sigma gives.

    None for fewer than two losses, a diverged loss, or a spread that is in no way remarkable.
    """
    if len(losses) < 2 or not finite(losses):
        return None
    sd = sample_sd(losses)
    if sd >= archive_sigma / 2.0:
        return None
    z = (mean(losses) - target) * math.sqrt(len(losses)) / archive_sigma
    return LuckWarning(len(losses), sd, archive_sigma, z, normal_cdf(z))


def pseudo_replicates(
    curves: Sequence[Sequence[float]], points: int = 3
) -> tuple[tuple[int, int], ...]:
    """Pairs (i, j), i < j, of runs with identical early validation losses: one seed, run twice.

    curves   each run's validation losses in step order, step 0 first, as printed
    points   how many values after the first must agree (all of them in a shorter curve)

    The first value is not evidence: a zero-initialised output layer makes every seed print
    ln(vocabulary) there. Nor is a single later value: with an early sd of .005-.02 nats printed to
    four decimals, two honest runs agree once in a few hundred pairs, and 20 runs have 190 pairs. So
    at least two later values must agree; a curve with fewer is never flagged.
    """
    heads = [tuple(curve[1 : 1 + points]) for curve in curves]
    return tuple(
        (i, j)
        for j in range(len(heads))
        for i in range(j)
        if len(heads[i]) >= 2 and finite(heads[i]) and heads[i] == heads[j]
    )
