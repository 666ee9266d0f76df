"""The t e-process: against an independent formula, its table, and Ville's inequality."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from harness.stats.anytime import (
    EFFECTS,
    anytime_test,
    boundary_p,
    boundary_ratio,
    e_of_ratio,
    t_e_value,
)
from harness.stats.loss import loss_test

QUICK = settings(deadline=None, derandomize=True, database=None, max_examples=60)
LOSSES = st.lists(
    st.integers(32_600, 33_000).map(lambda i: i / 10_000), min_size=2, max_size=25, unique=True
)


def noncentral_t_ratio(losses: list[float], target: float) -> float:
    """The same Bayes factor as a ratio of t densities: t is sufficient for the scale-free data."""
    n = len(losses)
    t = -loss_test(losses, target).t
    ratios = [stats.nct.pdf(t, n - 1, e * math.sqrt(n)) / stats.t.pdf(t, n - 1) for e in EFFECTS]
    return float(np.mean(ratios))


@QUICK
@given(LOSSES)
def test_equals_the_ratio_of_noncentral_t_densities(losses: list[float]) -> None:
    expected = noncentral_t_ratio(losses, 3.28)
    assert t_e_value(losses, 3.28) == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_one_run_is_only_a_sign() -> None:
    # n = 1: e = mean of 2·Φ(±effect), by the same integral.
    for sign in (1.0, -1.0):
        expected = np.mean([2 * stats.norm.cdf(sign * e) for e in EFFECTS])
        assert e_of_ratio(1, sign) == pytest.approx(expected, rel=1e-6)


def test_boundary_table() -> None:
    assert [boundary_p(n) for n in (2, 3, 4, 5)] == [0.0] * 4  # cannot reject below 6 runs
    assert 0.0 < boundary_p(6) < 1e-4
    table = {8: 0.0009, 10: 0.0013, 12: 0.0012, 15: 0.0010, 20: 0.0008}
    assert {n: round(boundary_p(n), 4) for n in table} == table


def test_boundary_p_is_where_the_e_value_crosses() -> None:
    for n in (7, 12, 20):
        z = np.random.default_rng(n).standard_normal(n)
        shape = (z - z.mean()) / z.std(ddof=1)
        t = stats.t.ppf(boundary_p(n), n - 1)
        for factor, above in ((1.001, True), (0.999, False)):
            losses = (3.28 + 0.0014 * (shape + factor * t / math.sqrt(n))).tolist()
            assert (t_e_value(losses, 3.28) >= 100.0) == above


def crossing_share(margin: float, replicates: int, most: int, seed: int) -> float:
    """Share of streams whose e-value ever reaches 100 within `most` runs."""
    runs = np.random.default_rng(seed).standard_normal((most, replicates)) + margin
    total, squares = np.cumsum(runs, axis=0), np.cumsum(runs**2, axis=0)
    boundary = np.array([boundary_ratio(n) for n in range(1, most + 1)])[:, None]
    return float(np.mean((total / np.sqrt(squares) >= boundary).any(axis=0)))


@pytest.mark.parametrize(("margin", "most"), [(0.0, 40), (0.0, 100), (-0.3, 100), (-2.0, 40)])
def test_villes_inequality_holds_by_simulation(margin: float, most: int) -> None:
    # 50,000 streams each: SE .0004 at .006. Means above the target are no more dangerous.
    share = crossing_share(margin, 50_000, most, seed=21)
    assert share <= 0.01
    if margin == 0.0:
        assert share > 0.003  # a bound that never fires would be no test


@pytest.mark.parametrize(("margin", "power"), [(0.001, 0.87), (0.0012, 0.97), (0.0015, 0.999)])
def test_power_within_forty_runs(margin: float, power: float) -> None:
    # 20,000 streams: SE .0024 at .87.
    assert crossing_share(margin / 0.00141, 20_000, 40, seed=22) == pytest.approx(power, abs=0.012)


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_mean_of_e_is_one_under_the_null(n: int) -> None:
    # E[e] = 1 at any fixed n, integrated over the null distribution of t (no Monte Carlo).
    if n == 1:
        mean = (e_of_ratio(1, 1.0) + e_of_ratio(1, -1.0)) / 2
    else:
        null = stats.t(n - 1)

        def integrand(t: float) -> float:
            return float(e_of_ratio(n, t * math.sqrt(n / (n - 1 + t * t))) * null.pdf(t))

        mean = integrate.quad(integrand, -np.inf, np.inf, limit=200, epsabs=1e-8)[0]
    assert mean == pytest.approx(1.0, abs=1e-6)


@QUICK
@given(LOSSES, st.floats(0.01, 100.0))
def test_only_the_effect_size_matters(losses: list[float], scale: float) -> None:
    scaled = [3.28 + scale * (loss - 3.28) for loss in losses]
    assert t_e_value(scaled, 3.28) == pytest.approx(t_e_value(losses, 3.28), rel=1e-6)
    assert t_e_value(losses[::-1], 3.28) == t_e_value(losses, 3.28)


@QUICK
@given(st.integers(2, 60), st.floats(-0.999, 0.999), st.floats(-0.999, 0.999))
def test_e_rises_with_the_evidence(n: int, a: float, b: float) -> None:
    low, high = sorted((a * math.sqrt(n), b * math.sqrt(n)))
    assert e_of_ratio(n, low) <= e_of_ratio(n, high) * (1 + 1e-9)


def test_degenerate_streams() -> None:
    assert t_e_value([], 3.28) == 1.0
    assert t_e_value([3.27], 3.28) == 1.0
    assert t_e_value([3.27] * 30, 3.28) == 1.0
    assert t_e_value([3.27, math.nan], 3.28) == 0.0
    assert t_e_value((3.2 + 1e-5 * np.arange(2000)).tolist(), 3.28) > 1e300


def test_anytime_test_remembers_its_crossing() -> None:
    good = (3.277 + 0.0005 * np.random.default_rng(23).standard_normal(12)).tolist()
    test = anytime_test([*good, 3.30, 3.31], 3.28)
    assert test.n_rejected is not None
    assert test.e_max >= 100.0 > test.e_value
    assert test.p == pytest.approx(1.0 / test.e_max)
    nothing = anytime_test([], 3.28)
    assert (nothing.n, nothing.e_value, nothing.p, nothing.n_rejected) == (0, 1.0, 1.0, None)
    assert anytime_test([3.29, 3.291, 3.292], 3.28).p == 1.0
