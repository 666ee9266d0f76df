"""The stopping designs, by simulation: replicates and seeds are stated at each figure."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.stats.loss import loss_test
from harness.stats.sequential import (
    DEFAULT_LOOKS,
    FLAT_P_BOUNDS,
    bounded_design_p,
    conditional_power,
    design_p,
    false_positive_rate,
    first_crossing,
    flat_p_bound,
    power_of,
    solve_flat_p_bound,
    t_statistics,
)
from harness.stats.spending import spending_p_bounds, spent_alpha

SIGMA = 0.00141
QUICK = settings(deadline=None, derandomize=True, database=None, max_examples=60)


def test_the_default_design_holds_its_level() -> None:
    started = time.perf_counter()
    rate, se = false_positive_rate((5, 10, 15, 20), 0.0031, replicates=200_000)
    assert rate <= 0.0105
    assert rate == pytest.approx(0.00984, abs=4 * se)  # 20 million replicates: .00984
    assert se < 0.00025
    assert time.perf_counter() - started < 20.0


def test_false_positive_rate_agrees_with_running_the_real_test() -> None:
    # 20,000 series of real loss_test calls at every look, seed 1: .0098 ± .0007.
    runs = 3.28 + SIGMA * np.random.default_rng(1).standard_normal((20_000, 20))
    bounds = FLAT_P_BOUNDS[DEFAULT_LOOKS]
    sums = runs.tolist()
    hits = sum(first_crossing(row, DEFAULT_LOOKS, bounds, 3.28) is not None for row in sums)
    assert hits / 20_000 == pytest.approx(0.00984, abs=4 * 0.0007)


@pytest.mark.parametrize("looks", sorted(FLAT_P_BOUNDS))
def test_shipped_bounds_hold_and_are_not_wasteful(looks: tuple[int, ...]) -> None:
    # 400,000 replicates: SE .00016.
    rate, se = false_positive_rate(looks, FLAT_P_BOUNDS[looks], replicates=400_000, seed=77)
    assert 0.0096 - 4 * se < rate < 0.01 + 4 * se


@pytest.mark.parametrize("looks", [(5, 10, 15, 20), (4, 9, 13), (3, 7)])
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.002])
def test_solved_bounds_hold(looks: tuple[int, ...], alpha: float) -> None:
    bound = solve_flat_p_bound(looks, alpha)
    rate, se = false_positive_rate(looks, bound, seed=99)
    assert alpha / len(looks) * 0.95 < bound < alpha
    assert rate < alpha + 5 * se
    assert rate > 0.85 * alpha
    same, _ = false_positive_rate(looks, bound)
    assert same <= alpha


def test_flat_p_bound_takes_the_table_else_solves() -> None:
    assert flat_p_bound((5, 10, 15, 20)) == 0.0031
    assert flat_p_bound([7]) == 0.01
    assert flat_p_bound((7,), alpha=0.03) == 0.03
    assert flat_p_bound((5, 11)) == solve_flat_p_bound((5, 11))
    assert solve_flat_p_bound((5, 11)) == solve_flat_p_bound((5, 11))


@pytest.mark.parametrize("looks", [(), (1, 5), (5, 5), (10, 5)])
def test_bad_looks_are_refused(looks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="looks must rise"):
        flat_p_bound(looks)


def test_bad_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="replicates"):
        flat_p_bound((5, 10), alpha=1e-4, replicates=1000)
    with pytest.raises(ValueError, match="alpha"):
        flat_p_bound((5, 10), alpha=0.0)
    with pytest.raises(ValueError, match="bounds"):
        false_positive_rate((5, 10), (0.01,))


def test_simulated_statistics_are_t_distributed() -> None:
    t = np.concatenate(list(t_statistics((5, 12), 100_000, seed=5)), axis=1)
    for row, df in zip(t, (4, 11), strict=True):
        assert stats.kstest(row, stats.t(df).cdf).pvalue > 0.001
    correlation = stats.spearmanr(t[0], t[1]).statistic
    assert correlation == pytest.approx(math.sqrt(5 / 12), abs=0.05)


@pytest.mark.parametrize(
    ("looks", "rate"),
    [(range(4, 21), 0.0499), (range(2, 21), 0.0627), (range(4, 31), 0.0598)],
)
def test_naive_peeking_is_invalid(looks: range, rate: float) -> None:
    # 100,000 replicates: SE .0007; the expected figures come from a million (± .0002).
    measured, se = false_positive_rate(tuple(looks), 0.01, replicates=100_000, seed=3)
    assert measured == pytest.approx(rate, abs=4 * se)


def test_dropping_the_worst_runs_is_invalid() -> None:
    # 100,000 replicates of 10 runs: drop 1 → about 4 %, drop 2 → about 9.7 %.
    runs = np.sort(np.random.default_rng(4).standard_normal((100_000, 10)), axis=1)
    for dropped, expected in ((1, 0.04), (2, 0.097)):
        kept = runs[:, : 10 - dropped]
        t = kept.mean(axis=1) / (kept.std(axis=1, ddof=1) / math.sqrt(10 - dropped))
        rate = np.mean(stats.t.cdf(t, 9 - dropped) < 0.01)
        assert rate == pytest.approx(expected, abs=0.006)


def test_heavy_tails_do_not_hurt_the_t_test() -> None:
    # t5 errors, 200,000 replicates of n = 10: true alpha .0083 (SE .0002).
    runs = np.random.default_rng(5).standard_t(5, (200_000, 10))
    t = runs.mean(axis=1) / (runs.std(axis=1, ddof=1) / math.sqrt(10))
    assert np.mean(stats.t.cdf(t, 9) < 0.01) == pytest.approx(0.0083, abs=0.0008)


@pytest.mark.parametrize(
    ("margin", "power", "runs"),
    [(0.001, 0.61, 16.7), (0.0012, 0.80, 15.1), (0.0015, 0.95, 12.8), (0.002, 0.999, 10.0)],
)
def test_power_and_runs_of_the_flat_design(margin: float, power: float, runs: float) -> None:
    # 100,000 replicates; the documented figures use the bounds .0036 .0034 .0034 .0034.
    result = power_of(DEFAULT_LOOKS, (0.0036, 0.0034, 0.0034, 0.0034), margin, SIGMA)
    assert result.power == pytest.approx(power, abs=0.007)
    assert result.mean_runs == pytest.approx(runs, abs=0.1)


def test_power_at_no_margin_is_the_level() -> None:
    rate, se = false_positive_rate(DEFAULT_LOOKS, 0.0031, 100_000, seed=8)
    result = power_of(DEFAULT_LOOKS, 0.0031, 0.0, SIGMA, 100_000, seed=8)
    assert result.power == pytest.approx(rate, abs=se)
    assert 19.8 < result.mean_runs < 20.0


@pytest.mark.parametrize(
    ("margin", "power", "runs"),
    [(0.0, None, 6.5), (0.001, 0.525, 12.7), (0.0012, 0.715, 12.8), (0.0015, 0.90, 12.0)],
)
def test_futility_advice_saves_runs(margin: float, power: float | None, runs: float) -> None:
    # 100,000 replicates, stop below 5 % conditional power.
    result = power_of(DEFAULT_LOOKS, 0.0031, margin, SIGMA, futility=0.05)
    if power is None:
        assert result.power < 0.0098
    else:
        assert result.power == pytest.approx(power, abs=0.01)
    assert result.mean_runs == pytest.approx(runs, abs=0.2)


def test_conditional_power_agrees_with_simulation() -> None:
    # 40,000 continuations of one series of 10 with the mean and sd it shows; single look left.
    losses = [3.2795 + 0.0014 * z for z in (-1.3, -0.8, -0.4, -0.1, 0.1, 0.3, 0.5, 0.7, 1.1, -0.1)]
    looks, bounds = (10, 20), (0.0055, 0.0055)
    claimed = conditional_power(losses, looks, bounds, 3.2800)
    rng = np.random.default_rng(6)
    future = np.mean(losses) + np.std(losses, ddof=1) * rng.standard_normal((40_000, 10))
    both = np.hstack([np.tile(losses, (40_000, 1)), future])
    t = (both.mean(axis=1) - 3.28) / (both.std(axis=1, ddof=1) / math.sqrt(20))
    simulated = np.mean(stats.t.cdf(t, 19) <= 0.0055)
    assert 0.1 < simulated < 0.5
    assert claimed == pytest.approx(simulated, abs=0.05)


def test_conditional_power_edges() -> None:
    bounds = FLAT_P_BOUNDS[DEFAULT_LOOKS]
    good = [3.2700, 3.2701, 3.2702, 3.2703, 3.2704]
    assert conditional_power(good, DEFAULT_LOOKS, bounds, 3.28) == 1.0
    hopeless = [3.30, 3.301, 3.302, 3.303, 3.304]
    assert conditional_power(hopeless, DEFAULT_LOOKS, bounds, 3.28) < 1e-6
    assert conditional_power([3.27, math.nan], DEFAULT_LOOKS, bounds, 3.28) == 0.0
    assert math.isnan(conditional_power([3.27], DEFAULT_LOOKS, bounds, 3.28))
    assert conditional_power(hopeless * 4, DEFAULT_LOOKS, bounds, 3.28) == 0.0
    assert conditional_power(hopeless, DEFAULT_LOOKS, (0.01, 0.0, 0.0, 0.0), 3.28) == 0.0


def test_first_crossing_looks_only_when_planned() -> None:
    losses = [3.2779, 3.2781, 3.2780, 3.2900, 3.2790, 3.2780, 3.2781, 3.2779, 3.2780, 3.2782]
    assert loss_test(losses[:3], 3.28).p < 0.0031
    assert first_crossing(losses, (5, 10), 0.0053, 3.28) is None
    crossing = first_crossing(losses[:3], (3, 6), (0.0053, 0.0053), 3.28)
    assert crossing is not None
    assert (crossing.look, crossing.n) == (0, 3)
    assert first_crossing(losses[:2], (3, 6), 0.0053, 3.28) is None
    later = first_crossing([3.2779, 3.2781, 3.29, 3.2780, 3.2781] * 4, (5, 20), 0.2, 3.28)
    assert later is None or later.n == 20


def test_design_p_is_consistent_with_the_decision() -> None:
    bound = FLAT_P_BOUNDS[DEFAULT_LOOKS]
    assert design_p([bound], DEFAULT_LOOKS) <= 0.01
    assert design_p([0.5, bound + 1e-6], DEFAULT_LOOKS) > 0.01
    assert design_p([0.004], (10,)) == 0.004
    assert math.isnan(design_p([], DEFAULT_LOOKS))
    assert design_p([math.nan, 1.0], DEFAULT_LOOKS) == 1.0
    with pytest.raises(ValueError, match="p-values"):
        design_p([0.1, 0.1], (10,))


@QUICK
@given(st.floats(1e-6, 0.9), st.floats(1e-6, 0.9))
def test_design_p_is_monotone_and_bounded(p: float, q: float) -> None:
    low, high = sorted((p, q))
    a, b = (design_p([x], (5, 10), replicates=20_000) for x in (low, high))
    assert a <= b
    assert low <= a <= min(1.0, 2 * low) or a == pytest.approx(0.01)


def test_spending_functions() -> None:
    for spending in ("pocock", "obrien-fleming"):
        assert spent_alpha(0.0, 0.01, spending) == 0.0
        assert spent_alpha(1.0, 0.01, spending) == pytest.approx(0.01)
        assert spent_alpha(1.5, 0.01, spending) == pytest.approx(0.01)
    assert spent_alpha(0.25) == pytest.approx(0.0035737, rel=1e-4)
    assert spent_alpha(0.25, 0.01, "obrien-fleming") < 1e-6


def test_spending_bounds_hold_their_level_and_match_the_known_ones() -> None:
    # Published on the normal scale: Pocock type .0036 .0034 .0034 .0034 (true alpha .0108 in t);
    # solved in t they are lower after the first. O'Brien-Fleming type ~0 .0003 .0028 .0091.
    pocock = spending_p_bounds(DEFAULT_LOOKS, 20)
    assert pocock[0] == pytest.approx(0.00357, abs=1e-5)
    assert all(0.0025 < p < 0.0034 for p in pocock[1:])
    obf = spending_p_bounds(DEFAULT_LOOKS, 20, spending="obrien-fleming")
    assert obf[0] < 1e-6
    assert obf[1:] == pytest.approx((0.0003, 0.0028, 0.0091), rel=0.3)
    for bounds in (pocock, obf):
        rate, se = false_positive_rate(DEFAULT_LOOKS, bounds, seed=12)
        assert rate == pytest.approx(0.01, abs=5 * se)
    # A look that moved because runs crashed spends only what its fraction grants.
    moved = spending_p_bounds((5, 8), 20)
    rate, se = false_positive_rate((5, 8), moved, seed=13)
    assert rate == pytest.approx(spent_alpha(0.4), abs=5 * se)


@pytest.mark.parametrize("looks", [(5, 10, 15, 20), (5, 10), (3, 6, 9)])
def test_bounded_design_p_is_never_below_the_simulated_one(looks: tuple[int, ...]) -> None:
    bound = flat_p_bound(looks)
    for p in (1e-4, 1e-3, bound, bound * 1.01, 0.02, 0.2):
        simulated = design_p([p], looks)
        bounded = bounded_design_p([p], looks, bound)
        assert bounded >= simulated * 0.97  # Monte Carlo error of the simulated one
        assert (bounded <= 0.01) == (p <= bound)
    assert math.isnan(bounded_design_p([], looks, bound))
