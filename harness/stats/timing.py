"""Is the candidate faster than the baseline, on the same node?

The unit is one process launch: steps of one run are correlated. The claim is about a ratio of
times, so everything is computed on logarithms and exponentiated at the end; seconds differ from
node to node, ratios far less.

* `paired_ratio`     the default: candidate and baseline in pairs, interleaved
* `welch_log_ratio`  the fall-back for imported logs, where nothing is paired
* `welch`            the field's own comparison of raw times, for its tables
* `random_effects`   one ratio from several nodes

A ratio below 1 means that the candidate is faster. Times that are no positive finite number (a
crashed or forged clock) give NaN estimates, an upper bound of +inf and p = 1. Fewer than two
values (pairs) give NaN p and an upper bound of +inf. A contrast without any spread is reported as
its limit: interval of width zero, p = 0 when faster and 1 otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.stats.moments import LARGEST, finite, mean, sample_sd, t_cdf, t_quantile
from harness.stats.robust import hodges_lehmann, mad_sd

MDE_POWER = 0.9
"""Power at which the smallest visible improvement is stated."""


@dataclass(frozen=True, slots=True)
class PairedRatio:
    """Ratio candidate/baseline from interleaved pairs, by a paired t-test on log ratios.

    n                    pairs
    ratio                exp(mean log ratio)
    low, high            two-sided 1 − 2·alpha interval (98 % for alpha .01)
    upper_bound          one-sided 1 − alpha bound, equal to `high`; the claim holds when below 1
    p                    one-sided p of H0: ratio ≥ 1
    sd_log               sample sd of the log ratios (about the relative sd of a pair)
    hl_ratio             Hodges-Lehmann ratio, which a throttled run does not move
    hl_low, hl_high      its exact interval, same confidence; None where none exists (n < 7 at .01)
    disagrees            mean and Hodges-Lehmann lie further apart than the half-width the interval
                         would have with a robust sd (see `_disagree`): look for a throttled run
    mde                  smallest improvement this design could have seen with 90 % power, as the
                         ratio it would have needed: exp(−(t(1−alpha) + t(.9))·SE)
    delta_ms             mean of candidate − baseline, ms
    """

    n: int
    ratio: float
    low: float
    high: float
    upper_bound: float
    p: float
    sd_log: float
    hl_ratio: float
    hl_low: float | None
    hl_high: float | None
    disagrees: bool
    mde: float
    delta_ms: float
    alpha: float = 0.01

    @property
    def passed(self) -> bool:
        """p < alpha: the one-sided bound of the ratio lies below 1. False when no test exists."""
        return self.p < self.alpha


def _times(values: Sequence[float]) -> bool:
    return finite(values) and all(value > 0.0 for value in values)


def paired_ratio(
    candidate_ms: Sequence[float], baseline_ms: Sequence[float], alpha: float = 0.01
) -> PairedRatio:
    """Paired comparison of run times; element i of both sequences is pair i.

    Raises ValueError when the sequences differ in length: unpaired times go to `welch_log_ratio`.
    """
    if len(candidate_ms) != len(baseline_ms):
        raise ValueError(
            f"paired times need equal lengths, got {len(candidate_ms)} candidate and "
            f"{len(baseline_ms)} baseline runs"
        )
    n = len(candidate_ms)
    nan, inf = math.nan, math.inf
    if n == 0 or not (_times(candidate_ms) and _times(baseline_ms)):
        p = nan if n == 0 else 1.0
        return PairedRatio(n, nan, 0.0, inf, inf, p, nan, nan, None, None, False, nan, nan, alpha)
    logs = [math.log(c) - math.log(b) for c, b in zip(candidate_ms, baseline_ms, strict=True)]
    centre, sd = mean(logs), sample_sd(logs)
    delta_ms = mean([c - b for c, b in zip(candidate_ms, baseline_ms, strict=True)])
    robust = hodges_lehmann(logs, alpha)
    fit = _t_interval(centre, sd / math.sqrt(n) if n > 1 else math.nan, n - 1, alpha)
    return PairedRatio(
        n=n,
        ratio=_exp(centre),
        low=_exp(centre - fit.half_width),
        high=_exp(centre + fit.half_width),
        upper_bound=_exp(centre + fit.half_width),
        p=fit.p,
        sd_log=sd,
        hl_ratio=_exp(robust.estimate),
        hl_low=None if robust.low is None else _exp(robust.low),
        hl_high=None if robust.high is None else _exp(robust.high),
        disagrees=_disagree(logs, centre - robust.estimate, alpha),
        mde=_exp(-fit.detectable),
        delta_ms=delta_ms,
        alpha=alpha,
    )


@dataclass(frozen=True, slots=True)
class _TInterval:
    half_width: float
    detectable: float
    t: float
    p: float


def _t_interval(estimate: float, se: float, df: float, alpha: float) -> _TInterval:
    """Two-sided 1 − 2·alpha t-interval of an estimate, with the one-sided p of H0: estimate ≥ 0."""
    if math.isnan(se):
        return _TInterval(math.inf, math.inf, math.nan, math.nan)
    if se == 0.0:
        return _TInterval(0.0, 0.0, math.nan, 0.0 if estimate < 0.0 else 1.0)
    quantile = t_quantile(1.0 - alpha, df)
    detectable = (quantile + t_quantile(MDE_POWER, df)) * se
    t = estimate / se
    return _TInterval(quantile * se, detectable, t, t_cdf(t, df))


def _disagree(logs: Sequence[float], shift: float, alpha: float) -> bool:
    """Whether |mean − Hodges-Lehmann| exceeds half a 1 − 2·alpha interval built on the robust sd.

    The t-interval itself cannot tell: one outlier among n moves the mean by exactly its own
    standard error, whatever its size. With the MAD as sd and alpha .01 (40,000 replicates each),
    normal data raise a false alarm in 2.2 / 1.4 / 1.1 / 0.2 % of series of 4 / 5 / 7 / 10 pairs,
    and one pair off by 20 sd is noticed in 80 / 86 / 95 / 98 %.
    """
    robust_sd = mad_sd(logs)
    if len(logs) < 4 or robust_sd == 0.0:
        return False
    return abs(shift) > t_quantile(1.0 - alpha, len(logs) - 1) * robust_sd / math.sqrt(len(logs))


def _exp(log_ratio: float) -> float:
    """exp without the OverflowError: an interval of two wild pairs may exceed a double."""
    return math.exp(log_ratio) if log_ratio < math.log(LARGEST) else math.inf


@dataclass(frozen=True, slots=True)
class Welch:
    """Welch's t-test of two independent samples, one-sided: H0 is candidate ≥ baseline.

    difference  mean(candidate) − mean(baseline), in the unit of the samples
    low, high   two-sided 1 − 2·alpha interval
    t, df, p    as `scipy.stats.ttest_ind(…, equal_var=False, alternative="less")`
    """

    difference: float
    low: float
    high: float
    t: float
    df: float
    p: float


def welch(candidate: Sequence[float], baseline: Sequence[float], alpha: float = 0.01) -> Welch:
    """Welch's test for p(candidate < baseline); equal to scipy wherever both samples have a sd."""
    if not (finite(candidate) and finite(baseline)):
        return Welch(math.nan, -math.inf, math.inf, math.nan, math.nan, 1.0)
    difference = mean(candidate) - mean(baseline)
    if len(candidate) < 2 or len(baseline) < 2:
        return Welch(difference, -math.inf, math.inf, math.nan, math.nan, math.nan)
    parts = [sample_sd(sample) ** 2 / len(sample) for sample in (candidate, baseline)]
    total = sum(parts)
    df = math.nan
    if total > 0.0:
        shares = [part / total for part in parts]
        df = 1.0 / (shares[0] ** 2 / (len(candidate) - 1) + shares[1] ** 2 / (len(baseline) - 1))
    fit = _t_interval(difference, math.sqrt(total), df, alpha)
    return Welch(
        difference, difference - fit.half_width, difference + fit.half_width, fit.t, df, fit.p
    )


@dataclass(frozen=True, slots=True)
class WelchRatio:
    """Ratio of geometric mean times of two independent samples (Welch on logarithms).

    ratio, low, high  candidate/baseline and its two-sided 1 − 2·alpha interval
    t, df, p          of the log times; p is one-sided, H0: ratio ≥ 1
    """

    n_candidate: int
    n_baseline: int
    ratio: float
    low: float
    high: float
    t: float
    df: float
    p: float


def welch_log_ratio(
    candidate_ms: Sequence[float], baseline_ms: Sequence[float], alpha: float = 0.01
) -> WelchRatio:
    """Unpaired comparison of run times, for imported logs whose order is not known."""
    sizes = len(candidate_ms), len(baseline_ms)
    if not (_times(candidate_ms) and _times(baseline_ms)):
        return WelchRatio(*sizes, math.nan, 0.0, math.inf, math.nan, math.nan, 1.0)
    logs = welch([math.log(x) for x in candidate_ms], [math.log(x) for x in baseline_ms], alpha)
    ratio, low, high = _exp(logs.difference), _exp(logs.low), _exp(logs.high)
    return WelchRatio(*sizes, ratio, low, high, logs.t, logs.df, logs.p)


@dataclass(frozen=True, slots=True)
class RandomEffects:
    """One ratio from several nodes, whose true ratios may differ.

    k            nodes that entered
    ratio        exp of the weighted mean log ratio
    low, high    two-sided 1 − 2·alpha Hartung-Knapp interval; (0, inf) for a single node
    p            one-sided p of H0: ratio ≥ 1
    tau          between-node sd of the log ratio (DerSimonian-Laird)
    q, i_squared heterogeneity: Cochran's Q and the share of variance between nodes, 0 … 1
    """

    k: int
    ratio: float
    low: float
    high: float
    p: float
    tau: float
    q: float
    i_squared: float


def random_effects(
    ratios: Sequence[float], ses: Sequence[float], alpha: float = 0.01
) -> RandomEffects:
    """Pool one ratio a node; `ses` are the standard errors of the *log* ratios (sd_log/√n).

    tau² by DerSimonian & Laird 1986; interval by Hartung & Knapp 2001 with t(k − 1), its variance
    factor held at 1 or more (Röver, Knapp & Friede 2015), so that few agreeing nodes do not make
    the interval narrower than their own errors allow. Raises ValueError for unequal lengths, or
    ratios and errors that are not positive finite numbers.
    """
    if len(ratios) != len(ses) or not ratios:
        raise ValueError(f"one standard error a node, got {len(ratios)} ratios, {len(ses)} errors")
    if not (_times(ratios) and _times(ses)):
        raise ValueError("ratios and standard errors must be positive finite numbers")
    k = len(ratios)
    logs = [math.log(ratio) for ratio in ratios]
    fixed = [1.0 / se**2 for se in ses]
    fixed_sum = math.fsum(fixed)
    fixed_mean = math.fsum(w * y for w, y in zip(fixed, logs, strict=True)) / fixed_sum
    q = math.fsum(w * (y - fixed_mean) ** 2 for w, y in zip(fixed, logs, strict=True))
    scale = fixed_sum - math.fsum(w * w for w in fixed) / fixed_sum
    tau_squared = max(0.0, (q - (k - 1)) / scale) if k > 1 else 0.0
    weights = [1.0 / (se**2 + tau_squared) for se in ses]
    weight_sum = math.fsum(weights)
    centre = math.fsum(w * y for w, y in zip(weights, logs, strict=True)) / weight_sum
    residual = math.fsum(w * (y - centre) ** 2 for w, y in zip(weights, logs, strict=True))
    factor = max(1.0, residual / (k - 1)) if k > 1 else math.nan
    fit = _t_interval(centre, math.sqrt(factor / weight_sum), k - 1, alpha)
    return RandomEffects(
        k=k,
        ratio=_exp(centre),
        low=_exp(centre - fit.half_width),
        high=_exp(centre + fit.half_width),
        p=fit.p,
        tau=math.sqrt(tau_squared),
        q=q,
        i_squared=max(0.0, 1.0 - (k - 1) / q) if q > 0.0 else 0.0,
    )


def rebased_ms(record_ms: float, ratio: float) -> float:
    """Official time of a new record, ms: the standing record's official time × measured ratio.

    The ratio travels between nodes; raw seconds do not (byte-identical code: up to 8 % apart).
    """
    return record_ms * ratio
