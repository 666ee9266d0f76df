"""equal_loss.py by hand, by simulation, and against the pairwise rule it generalises."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.stats.equal_loss import (
    OPTIMIZATION_RATE,
    TRACK_SMALL_RATE,
    EqualLoss,
    ExchangeRate,
    buffer_account,
    equal_loss_gain,
    exchange_rate,
    margin_of,
    runs_per_arm_to_decide,
)
from harness.stats.loss import pairwise_z_rule

QUICK = settings(deadline=None, derandomize=True, database=None, max_examples=100)
SIGMA = 0.00141


def spread(n: int, mean: float, sd: float) -> list[float]:
    """n values with exactly this mean and sample sd."""
    z = np.arange(n) - (n - 1) / 2
    return (mean + sd * z / z.std(ddof=1)).tolist()


def gain(
    candidate_s: float, baseline_s: float, gap: float, n: int = 10, se_rate: float = 0.0
) -> EqualLoss:
    """Both arms n runs, time sd .067 s, 54 ms a step, r = .000135 (.4 s per .001 nats)."""
    result = equal_loss_gain(
        spread(n, 1000 * candidate_s, 67.0),
        spread(n, 1000 * baseline_s, 67.0),
        spread(n, 3.2785 + gap, SIGMA),
        spread(n, 3.2785, SIGMA),
        rate=ExchangeRate(0.000135, se_rate),
        step_ms=54.0,
    )
    assert result is not None
    return result


def test_by_hand() -> None:
    # .5 s faster, .001 nats worse: .4 s of it was bought. SE: loss part .4·1.41·√.2 = .252 s,
    # timing part .067·√.2 = .030 s.
    result = gain(79.5, 80.0, 0.001)
    assert result.time_gain_ms == pytest.approx(500.0)
    assert result.loss_cost_ms == pytest.approx(400.0)
    assert result.loss_cost_steps == pytest.approx(0.001 / 0.000135)
    assert result.gain_ms == pytest.approx(100.0)
    assert result.se_ms == pytest.approx(math.hypot(252.2, 29.96), rel=1e-3)
    assert result.verdict == "not shown"
    assert result.p == pytest.approx(stats.t.sf(result.z, result.df), rel=1e-6)
    assert (result.low_ms + result.high_ms) / 2 == pytest.approx(100.0)


def test_the_three_verdicts() -> None:
    assert gain(79.0, 80.0, 0.0).verdict == "better at equal loss"
    assert gain(79.9, 80.0, 0.0).verdict == "not shown"
    assert gain(79.9, 80.0, 0.003).verdict == "worse than cutting steps"


def test_runs_to_decide() -> None:
    # To prove +.3 s (one-sided 5 %, 80 % power): about 45 runs an arm; +1 s: 4-5.
    assert gain(79.7, 80.0, 0.0).runs_per_arm == pytest.approx(45, abs=1)
    assert gain(79.0, 80.0, 0.0).runs_per_arm in (4, 5)
    assert gain(80.0, 80.0, 0.0).runs_per_arm is None


def test_runs_to_decide_give_that_power_by_simulation() -> None:
    # 2,000 replicates of the 45 + 45 runs that +.3 s asks for: power .80 (SE .009).
    rng = np.random.default_rng(1)
    n, hits = gain(79.7, 80.0, 0.0).runs_per_arm or 0, 0
    for _ in range(2000):
        result = equal_loss_gain(
            (79_700 + 67 * rng.standard_normal(n)).tolist(),
            (80_000 + 67 * rng.standard_normal(n)).tolist(),
            (3.2785 + SIGMA * rng.standard_normal(n)).tolist(),
            (3.2785 + SIGMA * rng.standard_normal(n)).tolist(),
            rate=ExchangeRate(0.000135),
            step_ms=54.0,
        )
        assert result is not None
        hits += result.verdict == "better at equal loss"
    assert hits / 2000 == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize("sigma", [SIGMA, None])
def test_level_and_the_uncertain_rate_by_simulation(sigma: float | None) -> None:
    # True G = 0 with a rate measured at ± 5 %; 2,000 replicates, one-sided 5 % (SE .005).
    rng = np.random.default_rng(2)
    better = worse = 0
    for _ in range(2000):
        rate = ExchangeRate(0.000135 * (1 + 0.05 * rng.standard_normal()), 0.05 * 0.000135)
        result = equal_loss_gain(
            (79_200 + 67 * rng.standard_normal(8)).tolist(),
            (80_000 + 67 * rng.standard_normal(8)).tolist(),
            (3.2805 + SIGMA * rng.standard_normal(8)).tolist(),
            (3.2785 + SIGMA * rng.standard_normal(8)).tolist(),
            rate=rate,
            step_ms=54.0,
            sigma=sigma,
        )
        assert result is not None
        better += result.verdict == "better at equal loss"
        worse += result.verdict == "worse than cutting steps"
    assert better / 2000 == pytest.approx(0.05, abs=0.02)
    assert worse / 2000 == pytest.approx(0.05, abs=0.02)


@QUICK
@given(
    st.integers(2, 20),
    st.integers(2, 20),
    st.integers(2700, 3300),
    st.floats(-0.005, 0.005),
)
def test_reproduces_the_pairwise_rule(n1: int, n2: int, steps: int, gap: float) -> None:
    # Time counted in steps (c = 1), r = 4.5e-5, sigma .0013: z is the rule's statistic in sigmas.
    losses, reference = spread(n1, 3.2785 + gap, 0.001), spread(n2, 3.2785, 0.001)
    rule = pairwise_z_rule(losses, steps, reference, 3000)
    result = equal_loss_gain(
        [float(steps)] * n1,
        [3000.0] * n2,
        losses,
        reference,
        rate=OPTIMIZATION_RATE,
        step_ms=1.0,
        sigma=0.0013,
        alpha=0.001,
    )
    assert result is not None
    assert result.z == pytest.approx(rule.statistic / 0.0013, abs=1e-6)
    if abs(result.z - 3.08) > 0.02:  # the rule's .004 is 3.077 sigma; p < .001 is 3.090
        assert (result.verdict == "better at equal loss") == rule.passed


def test_rate_error_enters_by_the_delta_method() -> None:
    exact, vague = gain(79.5, 80.0, 0.002), gain(79.5, 80.0, 0.002, se_rate=0.00002)
    extra = 0.002 * 54.0 / 0.000135**2 * 0.00002
    assert vague.se_ms == pytest.approx(math.hypot(exact.se_ms, extra))
    assert gain(79.5, 80.0, 0.003, se_rate=0.0001).runs_per_arm is None


def test_paired_times_remove_what_both_arms_share() -> None:
    drift = np.linspace(0, 500, 10)
    candidate, baseline = (79_000 + drift).tolist(), (80_000 + drift).tolist()
    losses = spread(10, 3.2785, SIGMA)
    results = [
        equal_loss_gain(
            candidate, baseline, losses, losses, rate=TRACK_SMALL_RATE, step_ms=54.0, paired=paired
        )
        for paired in (True, False)
    ]
    assert results[0] is not None
    assert results[1] is not None
    assert results[0].se_ms < results[1].se_ms
    assert results[0].gain_ms == pytest.approx(results[1].gain_ms)


def test_unusable_input() -> None:
    kwargs = {"rate": TRACK_SMALL_RATE, "step_ms": 54.0}
    assert equal_loss_gain([], [1.0], [3.2], [3.2], **kwargs) is None  # type: ignore[arg-type]
    bad = equal_loss_gain([1.0], [1.0], [math.nan], [3.2], **kwargs)  # type: ignore[arg-type]
    assert bad is None
    single = equal_loss_gain([9.0], [10.0], [3.2], [3.2], **kwargs)  # type: ignore[arg-type]
    assert single is not None
    assert single.verdict == "not shown"
    assert single.high_ms == math.inf
    assert single.runs_per_arm is None
    with pytest.raises(ValueError, match="positive"):
        equal_loss_gain([1.0], [1.0], [3.2], [3.2], rate=ExchangeRate(0.0), step_ms=1.0)


def test_exchange_rate() -> None:
    # 10 + 10 runs, 50 steps apart: SE ± .0013 nats a hundred steps.
    rate = exchange_rate(spread(10, 3.2865, SIGMA), 1430, spread(10, 3.2785, SIGMA), 1480)
    assert rate.loss_per_step == pytest.approx(0.0080 / 50)
    assert rate.se * 100 == pytest.approx(0.00126, abs=1e-5)
    with pytest.raises(ValueError, match="step counts"):
        exchange_rate([3.28], 1480, [3.27], 1480)


def test_buffer_accounting() -> None:
    account = buffer_account(spread(10, 3.2780, 0.001), spread(10, 3.2790, 0.001), 3.28)
    assert account.before.value == pytest.approx(0.002)
    assert account.after.value == pytest.approx(0.001)
    assert account.consumed == pytest.approx(0.5)
    half = stats.t.ppf(0.95, 9) * 0.001 / math.sqrt(10)
    assert account.before.low == pytest.approx(0.002 - half)
    assert account.before.high == pytest.approx(0.002 + half)
    none_left = buffer_account(spread(5, 3.2799, 0.002), spread(5, 3.2790, 0.001), 3.28)
    assert none_left.consumed is None
    assert margin_of([], 3.28).high == math.inf
    assert margin_of([3.27], 3.28).low == -math.inf


def test_runs_to_decide_without_a_way() -> None:
    assert runs_per_arm_to_decide(100.0, math.inf) is None
    assert runs_per_arm_to_decide(0.0, 1.0) is None
    assert runs_per_arm_to_decide(1e6, 1.0) == 2
