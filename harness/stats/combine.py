"""Evidence of two independent series on one claim: combined tests, and apart from them estimates.

A series that stopped early stopped because it looked good. Its values, thrown together with those
of a second series into one t-test, keep neither the level (1.04-1.17 % instead of 1 %, simulated in
tests/stats/test_combine.py) nor an unbiased mean. What may be combined is what each series says by
itself and validly:

* `fisher_p`        p-values, each valid under its own series' stopping rule
* product of e-values (`anytime.t_e_value`), each valid however its stream was stopped

Both reject "the claim holds in neither series"; that it holds in both is `max(p)`. Estimates
(`inverse_variance`) are shown beside the tests and decide nothing: a mean at a stopping time is
biased towards the stop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.stats.moments import finite, mean, normal_quantile, sample_sd, t_cdf, t_quantile


def fisher_p(p_values: Sequence[float]) -> float:
    """Fisher's combination of independent p-values: P(chi² with 2k df ≥ −2 Σ ln p).

    With Q the product of the p-values it is Q · Σ_{i<k} (−ln Q)^i / i!. Each p may be conservative
    (P(p ≤ u) ≤ u); the result then is too. NaN of nothing, or of a value that is no probability.
    R. A. Fisher, Statistical Methods for Research Workers, 1932, § 21.1.
    """
    if not p_values or not all(0.0 <= p <= 1.0 for p in p_values):
        return math.nan
    if min(p_values) == 0.0:
        return 0.0
    x = -math.fsum(math.log(p) for p in p_values)
    term = total = 1.0
    for i in range(1, len(p_values)):
        term *= x / i
        total += term
    return min(1.0, math.exp(-x) * total)


@dataclass(frozen=True, slots=True)
class Difference:
    """Do two series measure the same mean? Welch's t-test, two-sided.

    difference  mean of the second minus mean of the first
    low, high   two-sided 98 % interval
    t, df, p    NaN where there is no test (fewer than two values, or no spread in either)
    """

    difference: float
    low: float
    high: float
    t: float
    df: float
    p: float


def difference(first: Sequence[float], second: Sequence[float], level: float = 0.98) -> Difference:
    """Welch's two-sided test; as `scipy.stats.ttest_ind(second, first, equal_var=False)`.

    When the first series was stopped by its looks the test finds a difference that is not there in
    up to 2.5 % of pairs of series instead of 1 % (simulated, p < .01): the stop picks lucky means.
    """
    nan, inf = math.nan, math.inf
    if not (first and second and finite(first) and finite(second)):
        return Difference(nan, -inf, inf, nan, nan, nan)
    gap = mean(second) - mean(first)
    if len(first) < 2 or len(second) < 2:
        return Difference(gap, -inf, inf, nan, nan, nan)
    parts = [sample_sd(sample) ** 2 / len(sample) for sample in (first, second)]
    total = math.fsum(parts)
    if total == 0.0:
        return Difference(gap, -inf, inf, nan, nan, nan)
    shares = parts[0] / total, parts[1] / total  # the sd's fourth power may underflow
    df = 1.0 / (shares[0] ** 2 / (len(first) - 1) + shares[1] ** 2 / (len(second) - 1))
    t = gap / math.sqrt(total)
    half = t_quantile((1.0 + level) / 2.0, df) * math.sqrt(total)
    return Difference(gap, gap - half, gap + half, t, df, min(1.0, 2.0 * t_cdf(-abs(t), df)))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A common mean of several series, for information; NaN where there is none."""

    mean: float
    se: float
    low: float
    high: float


def inverse_variance(samples: Sequence[Sequence[float]], level: float = 0.98) -> Estimate:
    """Means weighted by n/sd², each series with its own sd, and a two-sided normal interval.

    NaN when a series has fewer than two values, no spread, or a value that is not finite. It is an
    estimate under the assumption of one common mean, not a test: see the module.
    """
    nan = math.nan
    if not samples or any(len(s) < 2 or not finite(s) for s in samples):
        return Estimate(nan, nan, nan, nan)
    sds = [sample_sd(sample) for sample in samples]
    if min(sds) == 0.0:
        return Estimate(nan, nan, nan, nan)
    weights = [len(sample) / sd**2 for sample, sd in zip(samples, sds, strict=True)]
    total = math.fsum(weights)
    centre = math.fsum(w * mean(s) for w, s in zip(weights, samples, strict=True)) / total
    se = math.sqrt(1.0 / total)
    half = normal_quantile((1.0 + level) / 2.0) * se
    return Estimate(centre, se, centre - half, centre + half)
