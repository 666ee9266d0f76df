"""timing.py and robust.py against scipy, hand-worked numbers, simulation and metafor's formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.stats.robust import bca_interval, hodges_lehmann, mad_sd, signed_rank_counts
from harness.stats.timing import (
    paired_ratio,
    random_effects,
    rebased_ms,
    welch,
    welch_log_ratio,
)

QUICK = settings(deadline=None, derandomize=True, database=None, max_examples=100)
TIMES = st.floats(70_000.0, 90_000.0)
PAIRS = st.lists(st.tuples(TIMES, TIMES), min_size=3, max_size=20)


def test_paired_ratio_by_hand() -> None:
    # Log ratios −1 %, −2 %, −3 %: mean −.02, sd .01, SE .01/√3, t = −2√3, df 2.
    baseline = [1000.0, 2000.0, 4000.0]
    candidate = [b * math.exp(d) for b, d in zip(baseline, (-0.01, -0.02, -0.03), strict=True)]
    result = paired_ratio(candidate, baseline)
    assert result.ratio == pytest.approx(math.exp(-0.02))
    assert result.sd_log == pytest.approx(0.01)
    assert result.p == pytest.approx(0.5 - math.sqrt(3 / 14), rel=1e-9)
    half = stats.t.ppf(0.99, 2) * 0.01 / math.sqrt(3)
    assert result.high == pytest.approx(math.exp(-0.02 + half))
    assert result.low == pytest.approx(math.exp(-0.02 - half))
    assert result.upper_bound == result.high
    detectable = (stats.t.ppf(0.99, 2) + stats.t.ppf(0.9, 2)) * 0.01 / math.sqrt(3)
    assert result.mde == pytest.approx(math.exp(-detectable))
    assert result.delta_ms == pytest.approx(np.mean(np.array(candidate) - np.array(baseline)))
    assert result.hl_ratio == pytest.approx(math.exp(-0.02))


@QUICK
@given(PAIRS)
def test_paired_ratio_equals_scipy_on_logs(pairs: list[tuple[float, float]]) -> None:
    candidate, baseline = [c for c, _ in pairs], [b for _, b in pairs]
    logs = np.log(candidate) - np.log(baseline)
    assume(np.std(logs) > 1e-6)
    theirs = stats.ttest_1samp(logs, 0.0, alternative="less")
    result = paired_ratio(candidate, baseline)
    assert result.p == pytest.approx(theirs.pvalue, rel=1e-7, abs=1e-12)
    assert result.passed == (result.upper_bound < 1.0)
    assert result.low <= result.ratio <= result.high


@QUICK
@given(PAIRS, st.floats(0.001, 1000.0))
def test_the_unit_of_time_does_not_matter(pairs: list[tuple[float, float]], unit: float) -> None:
    candidate, baseline = [c for c, _ in pairs], [b for _, b in pairs]
    one = paired_ratio(candidate, baseline)
    assume(one.sd_log > 1e-6)
    other = paired_ratio([unit * c for c in candidate], [unit * b for b in baseline])
    assert other.ratio == pytest.approx(one.ratio, rel=1e-9)
    assert other.p == pytest.approx(one.p, rel=1e-6, abs=1e-12)
    swapped = paired_ratio(baseline, candidate)
    assert swapped.ratio == pytest.approx(1 / one.ratio, rel=1e-9)
    assert swapped.p == pytest.approx(1 - one.p, abs=1e-9)


@QUICK
@given(PAIRS, st.floats(0.9, 0.999))
def test_faster_candidates_have_lower_p(pairs: list[tuple[float, float]], factor: float) -> None:
    candidate, baseline = [c for c, _ in pairs], [b for _, b in pairs]
    one = paired_ratio(candidate, baseline)
    assume(one.sd_log > 1e-6)
    assert paired_ratio([factor * c for c in candidate], baseline).p <= one.p + 1e-12


def test_degenerate_times_are_defined_without_warnings() -> None:
    none = paired_ratio([], [])
    assert none.n == 0
    assert math.isnan(none.p)
    one = paired_ratio([99.0], [100.0])
    assert one.ratio == pytest.approx(0.99)
    assert math.isnan(one.p)
    assert one.upper_bound == math.inf
    assert not one.passed
    for bad in (0.0, -5.0, math.nan, math.inf):
        broken = paired_ratio([99.0, bad], [100.0, 100.0])
        assert (broken.p, broken.upper_bound, broken.passed) == (1.0, math.inf, False)
        assert welch_log_ratio([99.0, bad], [100.0, 101.0]).p == 1.0
    exact = paired_ratio([90.0] * 3, [100.0] * 3)
    assert exact.upper_bound == pytest.approx(0.9)
    assert exact.p == 0.0
    assert paired_ratio([100.0] * 3, [100.0] * 3).p == 1.0
    wild = paired_ratio([1e-90, 1e90], [1e90, 1e-90])
    assert wild.high == math.inf
    with pytest.raises(ValueError, match="equal lengths"):
        paired_ratio([1.0], [1.0, 2.0])


def test_precision_of_the_design_is_as_documented() -> None:
    # Run CV .08 %: five pairs resolve about ±.14 % (95 %), ten ±.08 %.
    rng = np.random.default_rng(3)
    widths = []
    for n in (5, 10):
        halves = []
        for _ in range(300):
            c, b = 80_000 * np.exp(0.0008 * rng.standard_normal((2, n)))
            result = paired_ratio(c.tolist(), b.tolist(), alpha=0.025)
            halves.append(math.log(result.high / result.low) / 2)
        widths.append(np.mean(halves))
    assert widths[0] == pytest.approx(0.0014, rel=0.1)
    assert widths[1] == pytest.approx(0.0008, rel=0.1)


def test_coverage_of_the_one_sided_bound() -> None:
    # 4,000 replicates of 6 pairs at a true ratio of 1: the bound is below 1 in 1 % (SE .0016).
    rng = np.random.default_rng(4)
    times = 80_000 * np.exp(0.0008 * rng.standard_normal((4000, 2, 6)))
    rate = np.mean([paired_ratio(c, b).passed for c, b in times.tolist()])
    assert 0.005 < rate < 0.015


def test_one_throttled_run_moves_the_mean_and_not_hodges_lehmann() -> None:
    rng = np.random.default_rng(5)
    baseline = (80_000 * np.exp(0.0008 * rng.standard_normal(10))).tolist()
    candidate = (79_500 * np.exp(0.0008 * rng.standard_normal(10))).tolist()
    clean = paired_ratio(candidate, baseline)
    candidate[3] *= 1.05
    throttled = paired_ratio(candidate, baseline)
    assert not clean.disagrees
    assert throttled.disagrees
    assert throttled.ratio - clean.ratio > 0.004
    assert abs(throttled.hl_ratio - clean.hl_ratio) < 0.0005


@pytest.mark.parametrize(("n", "false_alarms", "noticed"), [(5, 0.014, 0.86), (10, 0.002, 0.976)])
def test_disagreement_rates(n: int, false_alarms: float, noticed: float) -> None:
    # 3,000 replicates each; the documented figures come from 40,000.
    rng = np.random.default_rng(6)
    noise = 0.001 * rng.standard_normal((3000, n))
    for shift, expected in ((0.0, false_alarms), (0.02, noticed)):
        shifted = noise.copy()
        shifted[:, 0] += shift
        ones = [1.0] * n
        rate = np.mean([paired_ratio(row, ones).disagrees for row in np.exp(shifted).tolist()])
        assert abs(rate - expected) < 4 * math.sqrt(expected * (1 - expected) / 3000)


def test_signed_rank_counts_equal_enumeration() -> None:
    for n in range(1, 10):
        sums = [sum(rank + 1 for rank in range(n) if signs >> rank & 1) for signs in range(2**n)]
        assert signed_rank_counts(n) == [sums.count(s) for s in range(n * (n + 1) // 2 + 1)]


@pytest.mark.parametrize(("alpha", "smallest"), [(0.025, 6), (0.01, 7), (0.005, 8)])
def test_hodges_lehmann_interval_exists_from(alpha: float, smallest: int) -> None:
    values = [0.1 * i * i for i in range(20)]
    assert hodges_lehmann(values[: smallest - 1], alpha).low is None
    assert hodges_lehmann(values[:smallest], alpha).low is not None


def test_hodges_lehmann_by_hand() -> None:
    # Walsh averages of 1, 2, 4: 1 1.5 2 2.5 3 4, median 2.25.
    assert hodges_lehmann([4.0, 1.0, 2.0]).estimate == 2.25
    # n = 6, 95 %: k = 1, from the smallest to the largest value.
    six = hodges_lehmann([3.0, 1.0, 2.0, 9.0, 5.0, 4.0], alpha=0.025)
    assert (six.low, six.high) == (1.0, 9.0)
    assert math.isnan(hodges_lehmann([]).estimate)


def test_hodges_lehmann_interval_inverts_the_wilcoxon_test() -> None:
    rng = np.random.default_rng(7)
    for n in (8, 12, 17):
        values = rng.standard_normal(n)
        interval = hodges_lehmann(values.tolist(), alpha=0.01)
        assert interval.low is not None
        assert interval.high is not None
        for edge, inward in ((interval.low, 1e-6), (interval.high, -1e-6)):
            inside = stats.wilcoxon(values - edge - inward, method="exact").pvalue
            outside = stats.wilcoxon(values - edge + inward, method="exact").pvalue
            assert inside > 0.02 >= outside


def test_mad_is_consistent_for_the_normal() -> None:
    values = np.random.default_rng(8).standard_normal(20_001).tolist()
    assert mad_sd(values) == pytest.approx(1.0, abs=0.03)


def test_bca_interval() -> None:
    rng = np.random.default_rng(9)
    a, b = rng.standard_normal(20).tolist(), (rng.standard_normal(20) + 1).tolist()
    single = bca_interval(a, alpha=0.025)
    assert single is not None
    t = stats.ttest_1samp(a, 0.0).confidence_interval(0.95)
    assert single == pytest.approx((t.low, t.high), abs=0.1)
    assert single == bca_interval(a, alpha=0.025)
    two = bca_interval(a, b, alpha=0.025)
    assert two is not None
    assert two[0] < np.mean(a) - np.mean(b) < two[1]
    assert bca_interval(a[:7]) is None
    assert bca_interval([1.0] * 9) is None


@QUICK
@given(st.lists(TIMES, min_size=2, max_size=15), st.lists(TIMES, min_size=2, max_size=15))
def test_welch_equals_scipy(candidate: list[float], baseline: list[float]) -> None:
    assume(np.std(candidate) > 1e-3)
    assume(np.std(baseline) > 1e-3)
    theirs = stats.ttest_ind(candidate, baseline, equal_var=False, alternative="less")
    ours = welch(candidate, baseline)
    assert ours.t == pytest.approx(theirs.statistic, rel=1e-7, abs=1e-9)
    assert ours.df == pytest.approx(theirs.df, rel=1e-7)
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-6, abs=1e-12)
    assert ours.high == pytest.approx(theirs.confidence_interval(0.99).high, rel=1e-7, abs=1e-6)


def test_welch_of_a_published_record() -> None:
    # 2026-07-17, as printed by its author: −1.043785 s; Welch from n, mean and sd of both arms.
    rng = np.random.default_rng(10)

    def sample(n: int, mean: float, sd: float) -> list[float]:
        z = rng.standard_normal(n)
        return (mean + sd * (z - z.mean()) / z.std(ddof=1)).tolist()

    ours = welch(sample(13, 79.684923, 0.06), sample(13, 80.728615, 0.11))
    theirs = stats.ttest_ind_from_stats(
        79.684923, 0.06, 13, 80.728615, 0.11, 13, equal_var=False, alternative="less"
    )
    assert ours.difference == pytest.approx(-1.043692)
    assert ours.t == pytest.approx(theirs.statistic)
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-6)


def test_welch_degenerate() -> None:
    assert math.isnan(welch([1.0], [1.0, 2.0]).p)
    assert math.isnan(welch([], []).p)
    assert welch([1.0, math.nan], [1.0, 2.0]).p == 1.0
    assert welch([1.0, 1.0], [2.0, 2.0]).p == 0.0
    assert welch([2.0, 2.0], [1.0, 1.0]).p == 1.0
    mixed = welch([1.0, 1.0], [2.0, 3.0])
    assert mixed.df == 1.0


def test_welch_log_ratio_equals_welch_on_logs() -> None:
    candidate, baseline = [99.0, 98.0, 99.5], [100.0, 101.0, 100.4, 100.1]
    result = welch_log_ratio(candidate, baseline)
    logs = stats.ttest_ind(np.log(candidate), np.log(baseline), equal_var=False, alternative="less")
    assert (result.n_candidate, result.n_baseline) == (3, 4)
    assert result.p == pytest.approx(logs.pvalue, rel=1e-9)
    assert result.ratio == pytest.approx(stats.gmean(candidate) / stats.gmean(baseline))
    assert result.low < result.ratio < result.high


def test_random_effects_by_hand() -> None:
    # Logs 0, .02, equal errors .01: fixed mean .01, Q = 2·(.01/.01)² = 2, scale = 2e4 − 1e4 = 1e4,
    # tau² = (2 − 1)/1e4 = 1e-4, weights 1/(2e-4) = 5000, SE² = 1e-4, factor = 5000·2e-4/1 = 1.
    result = random_effects([1.0, math.exp(0.02)], [0.01, 0.01], alpha=0.025)
    assert result.ratio == pytest.approx(math.exp(0.01))
    assert result.tau == pytest.approx(0.01)
    assert result.q == pytest.approx(2.0)
    assert result.i_squared == pytest.approx(0.5)
    half = stats.t.ppf(0.975, 1) * 0.01
    assert result.high == pytest.approx(math.exp(0.01 + half))


def test_random_effects_of_agreeing_nodes_is_not_narrower_than_their_errors() -> None:
    result = random_effects([0.99, 0.99, 0.99], [0.001, 0.001, 0.001])
    assert result.tau == 0.0
    half = stats.t.ppf(0.99, 2) * 0.001 / math.sqrt(3)
    assert math.log(result.high / result.ratio) == pytest.approx(half)
    assert result.p < 0.01
    alone = random_effects([0.99], [0.001])
    assert (alone.low, alone.high) == (0.0, math.inf)
    assert math.isnan(alone.p)
    with pytest.raises(ValueError, match="one standard error a node"):
        random_effects([0.99], [])
    with pytest.raises(ValueError, match="positive finite"):
        random_effects([0.99], [0.0])


def test_random_effects_coverage() -> None:
    # 2,000 replicates of 4 nodes, tau .003, SE .001: 98 % interval covers (SE .003).
    rng = np.random.default_rng(11)
    hits = 0
    for _ in range(2000):
        ratios = np.exp(-0.005 + 0.003 * rng.standard_normal(4) + 0.001 * rng.standard_normal(4))
        result = random_effects(ratios.tolist(), [0.001] * 4)
        hits += result.low <= math.exp(-0.005) <= result.high
    assert 0.965 < hits / 2000 < 0.995


def test_rebased_time() -> None:
    assert rebased_ms(79_200.0, 0.99) == pytest.approx(78_408.0)
