"""Is the candidate better than simply cutting steps? Both arms brought to equal loss.

A faster script with a higher loss has spent some of the buffer; the same seconds could have been
had from fewer steps. The exchange rate r (loss per step, at the end of the schedule) and the time
c of a step there convert a loss difference into time:

    G = (T_baseline − T_candidate) − (L_candidate − L_baseline)·c/r

    SE² = SE(time gain)² + (c/r)²·SE(loss gap)² + (gap·c/r²)²·SE(r)²          (delta method)

The two gains of an arm are taken as uncorrelated. One sd of loss (.0014 nats) is worth about 0.6 s
at the small track's rate and timing noise about .07 s, so the loss decides: showing +0.3 s takes
some 45 runs an arm. Hence three verdicts, not two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from harness.stats.loss import ARCHIVE_SIGMA_NATS
from harness.stats.moments import finite, mean, normal_quantile, sample_sd, t_cdf, t_quantile

EqualLossVerdict = Literal["better at equal loss", "not shown", "worse than cutting steps"]

NORMAL_DF = 1e9
"""Degrees of freedom standing for a known sd: Student's t is the normal there."""


@dataclass(frozen=True, slots=True)
class ExchangeRate:
    """Loss that one more step takes off, nats per step, and its standard error."""

    loss_per_step: float
    se: float = 0.0


TRACK_SMALL_RATE = ExchangeRate(0.0129 / 100, 0.0007 / 100)
"""Measured over the records of 2025-12 to 2026-07."""

OPTIMIZATION_RATE = ExchangeRate(4.5e-5)
"""Written in the optimization track's rules."""


def exchange_rate(
    losses_short: Sequence[float],
    steps_short: int,
    losses_long: Sequence[float],
    steps_long: int,
    sigma: float = ARCHIVE_SIGMA_NATS,
) -> ExchangeRate:
    """Rate from two baseline arms whose schedules were scaled to different step counts.

    Ten runs each at N and N − 50 steps give ± .0013 nats a hundred steps. The tail of a single
    curve is no substitute: its slope is smaller, the rate of learning having cooled down already.
    Raises ValueError for empty arms or steps_long ≤ steps_short.
    """
    if not losses_short or not losses_long or steps_long <= steps_short:
        raise ValueError("an exchange rate needs losses at two step counts, the longer one larger")
    steps = steps_long - steps_short
    se = sigma * math.sqrt(1.0 / len(losses_short) + 1.0 / len(losses_long)) / steps
    return ExchangeRate((mean(losses_short) - mean(losses_long)) / steps, se)


@dataclass(frozen=True, slots=True)
class EqualLoss:
    """Time gained at equal loss, and what the evidence says of it.

    gain_ms           G: positive when the candidate beats a step cut
    low_ms, high_ms   two-sided 1 − 2·alpha interval of G
    se_ms, df         standard error and Satterthwaite degrees of freedom
    z                 gain_ms/se_ms (the pairwise rule's statistic in sigmas when sigma is known)
    p                 one-sided p of H0: G ≤ 0
    time_gain_ms      mean baseline time − mean candidate time
    loss_gap_nats     mean candidate loss − mean baseline loss
    loss_cost_ms      the gap in time, gap·c/r;  loss_cost_steps  the same in steps, gap/r
    verdict           by the interval: above 0, covering 0, below 0
    runs_per_arm      runs an arm needs to settle a true gain as large as the one observed, at the
                      same alpha and 80 % power; None when it is exactly zero or r is too uncertain
    """

    gain_ms: float
    low_ms: float
    high_ms: float
    se_ms: float
    df: float
    z: float
    p: float
    time_gain_ms: float
    loss_gap_nats: float
    loss_cost_ms: float
    loss_cost_steps: float
    verdict: EqualLossVerdict
    runs_per_arm: int | None


@dataclass(frozen=True, slots=True)
class _Part:
    """One term of the variance: its value and its degrees of freedom."""

    variance: float
    df: float


def equal_loss_gain(
    candidate_ms: Sequence[float],
    baseline_ms: Sequence[float],
    candidate_losses: Sequence[float],
    baseline_losses: Sequence[float],
    *,
    rate: ExchangeRate,
    step_ms: float,
    sigma: float | None = ARCHIVE_SIGMA_NATS,
    paired: bool = False,
    alpha: float = 0.05,
    power: float = 0.8,
) -> EqualLoss | None:
    """Compare the arms at equal loss; None where an arm has no usable time or loss.

    candidate_ms, baseline_ms   run times; equal ones count as exact, a single one has no error to
                                estimate and leaves the interval infinite
    rate, step_ms               r with its error, and c, the time of a step at the schedule's end
    sigma                       known sd of the loss, nats; None: estimated from the samples
    paired                      times are pairs, element by element
    alpha                       one-sided; .05 gives a 90 % interval

    Raises ValueError for a rate or step time that is not positive, or unequal paired times.
    """
    if rate.loss_per_step <= 0.0 or step_ms <= 0.0:
        raise ValueError("the exchange rate and the step time must be positive")
    samples = (candidate_ms, baseline_ms, candidate_losses, baseline_losses)
    if not all(samples) or not all(finite(sample) for sample in samples):
        return None
    time_gain = mean(baseline_ms) - mean(candidate_ms)
    gap = mean(candidate_losses) - mean(baseline_losses)
    ms_per_nat = step_ms / rate.loss_per_step
    gain = time_gain - gap * ms_per_nat
    time_parts = _time_parts(candidate_ms, baseline_ms, paired)
    loss_parts = [
        _scaled(_loss_part(losses, sigma), ms_per_nat**2)
        for losses in (candidate_losses, baseline_losses)
    ]
    rate_part = _Part((gap * ms_per_nat / rate.loss_per_step * rate.se) ** 2, NORMAL_DF)
    total, df = _satterthwaite([*time_parts, *loss_parts, rate_part])
    se = math.sqrt(total)
    half = t_quantile(1.0 - alpha, df) * se if math.isfinite(se) else math.inf
    low, high = gain - half, gain + half
    verdict: EqualLossVerdict = "not shown"
    if low > 0.0:
        verdict = "better at equal loss"
    elif high < 0.0:
        verdict = "worse than cutting steps"
    z = gain / se if se > 0.0 and math.isfinite(se) else math.nan
    loss_sd = sigma if sigma is not None else _pooled_sd(candidate_losses, baseline_losses)
    n_time = min(len(candidate_ms), len(baseline_ms))
    per_run = 2.0 * (loss_sd * ms_per_nat) ** 2 + sum(p.variance for p in time_parts) * n_time
    return EqualLoss(
        gain_ms=gain,
        low_ms=low,
        high_ms=high,
        se_ms=se,
        df=df,
        z=z,
        p=t_cdf(-z, df) if math.isfinite(z) else math.nan,
        time_gain_ms=time_gain,
        loss_gap_nats=gap,
        loss_cost_ms=gap * ms_per_nat,
        loss_cost_steps=gap / rate.loss_per_step,
        verdict=verdict,
        runs_per_arm=runs_per_arm_to_decide(gain, per_run, rate_part.variance, alpha, power),
    )


def runs_per_arm_to_decide(
    gain_ms: float,
    variance_per_run: float,
    fixed_variance: float = 0.0,
    alpha: float = 0.05,
    power: float = 0.8,
) -> int | None:
    """Runs an arm for a one-sided normal test of a true gain of this size (either sign).

    variance_per_run   ms²: n times the variance of the gain from n runs an arm
    fixed_variance     ms² that more runs do not shrink: the exchange rate's own error

    None when no number of runs is enough.
    """
    quantiles = normal_quantile(1.0 - alpha) + normal_quantile(power)
    room = (gain_ms / quantiles) ** 2 - fixed_variance
    if not room > 0.0 or not math.isfinite(variance_per_run):
        return None
    return max(2, math.ceil(variance_per_run / room))


def _scaled(part: _Part, factor: float) -> _Part:
    return _Part(part.variance * factor, part.df)


def _loss_part(losses: Sequence[float], sigma: float | None) -> _Part:
    if sigma is not None:
        return _Part(sigma**2 / len(losses), NORMAL_DF)
    if len(losses) < 2:
        return _Part(math.inf, 1.0)
    return _Part(sample_sd(losses) ** 2 / len(losses), len(losses) - 1)


def _time_parts(
    candidate_ms: Sequence[float], baseline_ms: Sequence[float], paired: bool
) -> list[_Part]:
    if paired:
        gaps = [b - c for c, b in zip(candidate_ms, baseline_ms, strict=True)]
        samples: list[Sequence[float]] = [gaps]
    else:
        samples = [candidate_ms, baseline_ms]
    return [
        _Part(sample_sd(sample) ** 2 / len(sample), len(sample) - 1)
        if len(sample) > 1
        else _Part(math.inf, 1.0)
        for sample in samples
    ]


def _satterthwaite(parts: Sequence[_Part]) -> tuple[float, float]:
    """Sum of independent variances and its effective degrees of freedom."""
    total = sum(part.variance for part in parts)
    if not 0.0 < total < math.inf:
        return total, NORMAL_DF
    return total, 1.0 / sum((part.variance / total) ** 2 / part.df for part in parts)


def _pooled_sd(first: Sequence[float], second: Sequence[float]) -> float:
    if len(first) < 2 or len(second) < 2:
        return math.inf
    squares = [(len(sample) - 1) * sample_sd(sample) ** 2 for sample in (first, second)]
    return math.sqrt(sum(squares) / (len(first) + len(second) - 2))


@dataclass(frozen=True, slots=True)
class Margin:
    """Target minus mean loss, nats, with its two-sided 1 − 2·alpha t-interval."""

    n: int
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Buffer:
    """What the candidate does to the buffer kept below the target.

    before, after    margins of the baseline and of the candidate
    consumed         (before − after)/before: 1 when all of it is gone, negative when it grew; None
                     unless the baseline's interval lies above 0: a share of what may be nothing
                     means nothing
    """

    before: Margin
    after: Margin
    consumed: float | None


def margin_of(losses: Sequence[float], target_loss_nats: float, alpha: float = 0.05) -> Margin:
    """Margin with interval; an infinite interval for fewer than two or unusable losses."""
    if not losses or not finite(losses):
        return Margin(len(losses), math.nan, -math.inf, math.inf)
    value = target_loss_nats - mean(losses)
    if len(losses) < 2:
        return Margin(1, value, -math.inf, math.inf)
    half = t_quantile(1.0 - alpha, len(losses) - 1) * sample_sd(losses) / math.sqrt(len(losses))
    return Margin(len(losses), value, value - half, value + half)


def buffer_account(
    baseline_losses: Sequence[float],
    candidate_losses: Sequence[float],
    target_loss_nats: float,
    alpha: float = 0.05,
) -> Buffer:
    """Buffer before and after, and the share of it that the candidate consumes."""
    before = margin_of(baseline_losses, target_loss_nats, alpha)
    after = margin_of(candidate_losses, target_loss_nats, alpha)
    known = before.low > 0.0 and math.isfinite(after.value)
    return Buffer(before, after, (before.value - after.value) / before.value if known else None)
