"""noninferiority.py: each rung, by hand, by simulation and at its edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from harness.stats.noninferiority import (
    bitwise_prefix,
    curve_envelope,
    highest_rung,
    noninferiority_test,
    runs_per_arm,
)

SIGMA = 0.00141


def curve(seed: int, noise: float, length: int = 120) -> list[float]:
    shape = 3.3 + 7.5 * np.exp(-np.arange(length) / 30)
    return (shape + noise * np.random.default_rng(seed).standard_normal(length)).tolist()


def test_bitwise_prefix() -> None:
    a = [f"{x:.4f}" for x in curve(1, 0.01)]
    same = bitwise_prefix(a, list(a))
    assert (same.equal, same.compared, same.passed) == (120, 120, True)
    late = [*a[:60], "9.9999", *a[61:]]
    assert bitwise_prefix(late, a).equal == 60
    assert not bitwise_prefix(late, a).passed
    assert bitwise_prefix(late, a, required=60).passed
    assert not bitwise_prefix(a[:99], a).passed  # too short to have shown 100
    assert not bitwise_prefix([], a).passed


def test_bitwise_needs_real_values() -> None:
    assert bitwise_prefix([math.nan] * 200, [math.nan] * 200).equal == 0
    assert bitwise_prefix(["nan"] * 200, ["nan"] * 200).equal == 0
    assert bitwise_prefix(["-"] * 200, ["-"] * 200).equal == 0
    assert bitwise_prefix([3.5] * 200, [math.nextafter(3.5, 4)] * 200).equal == 0
    with pytest.raises(ValueError, match="at least 2"):
        bitwise_prefix([1.0], [1.0], required=1)


def test_envelope_by_hand() -> None:
    # Baseline mean 5.05 4.10 3.10, pair differences .1 .2 .2.
    baseline = [[5.0, 4.0, 3.0], [5.1, 4.2, 3.2]]
    inside = curve_envelope([[5.1, 4.1, 3.2]], baseline, steps=3, window=0)
    assert inside.envelope_nats == pytest.approx((0.1, 0.2, 0.2))
    assert inside.worst_ratio == pytest.approx(0.5)
    assert inside.passed
    outside = curve_envelope([[5.0, 4.5, 3.1], [5.0, 4.1, 3.1]], baseline, steps=3, window=0)
    assert outside.outside == (1,)
    assert outside.worst_ratio == pytest.approx(2.0)
    assert not outside.passed
    early = [[5.2, 4.1, 3.1]]  # .15 from the mean: outside its own step, inside its neighbour's
    assert not curve_envelope(early, baseline, steps=3, window=0).passed
    assert curve_envelope(early, baseline, steps=3, window=1).passed


def test_envelope_rates_by_simulation() -> None:
    # 400 replicates, five baseline runs, white noise: unchanged .94 (SE .012), shift of 2 sd .04.
    noise = np.random.default_rng(8).standard_normal((400, 6, 100))
    shape = np.array(curve(1, 0.0)[:100])
    rates = {}
    for shift in (0.0, 2.0, 4.0):
        passed = 0
        for row in noise:
            curves = (shape + 0.002 * row).tolist()
            candidate = [[x + 0.002 * shift for x in curves[0]]]
            passed += curve_envelope(candidate, curves[1:]).passed
        rates[shift] = passed / 400
    assert rates[0.0] == pytest.approx(0.94, abs=0.05)
    assert rates[2.0] == pytest.approx(0.04, abs=0.04)
    assert rates[4.0] == 0.0


def test_envelope_without_enough_evidence() -> None:
    a = curve(1, 0.01)
    assert not curve_envelope([a], [a]).passed
    assert not curve_envelope([], [a, a]).passed
    assert not curve_envelope([a[:50]], [a, a]).passed
    assert not curve_envelope([[*a[:10], math.nan, *a[11:]]], [a, a]).passed
    exact = curve_envelope([a], [a, a])  # no noise at all and none needed
    assert exact.passed
    assert exact.worst_ratio == 0.0
    assert curve_envelope([[x + 1e-4 for x in a]], [a, a]).worst_ratio == math.inf


def test_noninferiority_equals_scipy() -> None:
    rng = np.random.default_rng(2)
    candidate = 3.2787 + SIGMA * rng.standard_normal(24)
    baseline = 3.2785 + SIGMA * rng.standard_normal(24)
    result = noninferiority_test(candidate.tolist(), baseline.tolist(), margin=0.0015)

    def scipy_p(a: np.ndarray, b: np.ndarray, alternative: str) -> float:
        return float(stats.ttest_ind(a, b, equal_var=False, alternative=alternative).pvalue)

    assert result.p_inferior == pytest.approx(scipy_p(candidate - 0.0015, baseline, "less"))
    assert result.p_superior == pytest.approx(scipy_p(candidate + 0.0015, baseline, "greater"))
    assert result.noninferior == (result.high < 0.0015)
    assert result.equivalent == (result.high < 0.0015 and result.low > -0.0015)


def test_level_and_power_by_simulation() -> None:
    # 3,000 replicates of 24 + 24 runs, m = .0015: power .90 (SE .006); at a true +m, alpha .01.
    rng = np.random.default_rng(3)
    n, passes = runs_per_arm(0.0015), {0.0: 0, 0.0015: 0}
    for shift in passes:
        for _ in range(3000):
            candidate = (3.2785 + shift + SIGMA * rng.standard_normal(n)).tolist()
            baseline = (3.2785 + SIGMA * rng.standard_normal(n)).tolist()
            passes[shift] += noninferiority_test(candidate, baseline).noninferior
    assert passes[0.0] / 3000 == pytest.approx(0.89, abs=0.025)
    assert passes[0.0015] / 3000 == pytest.approx(0.01, abs=0.007)


def test_runs_per_arm() -> None:
    # 207.03 and 23.003, rounded up.
    assert runs_per_arm(0.0005) == 208
    assert runs_per_arm(0.0015) == 24


def test_noninferiority_without_a_test() -> None:
    for candidate, baseline in (([], []), ([3.27], [3.27, 3.28]), ([3.27, math.nan], [3.2, 3.3])):
        result = noninferiority_test(candidate, baseline)
        assert not result.noninferior
        assert not result.equivalent
    with pytest.raises(ValueError, match="positive"):
        noninferiority_test([3.2], [3.2], margin=0.0)


def test_the_ladder() -> None:
    a = curve(4, 0.01)
    bitwise, broken = bitwise_prefix(a, a), bitwise_prefix(a, curve(5, 0.01))
    envelope = curve_envelope([a], [a, a])
    outside = curve_envelope([[x + 1 for x in a]], [a, curve(6, 0.01)])
    rng = np.random.default_rng(7)
    losses = (3.2785 + 0.0005 * rng.standard_normal((2, 12))).tolist()
    same = noninferiority_test(*losses)
    better = noninferiority_test([x - 0.004 for x in losses[0]], losses[1])
    assert same.equivalent
    assert better.noninferior
    assert not better.equivalent
    assert highest_rung(bitwise, outside, better) == "bitwise"
    assert highest_rung(broken, envelope) == "envelope"
    assert highest_rung(broken, outside, same) == "final loss"
    assert highest_rung(broken, outside, better) == "none"
    assert highest_rung() == "none"
