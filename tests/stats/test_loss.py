"""loss.py against scipy, hand-worked numbers, and the properties a test of a mean must have."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.stats.loss import (
    TRACK_SIGMA_NATS,
    loss_test,
    luck_warning,
    pairwise_z_rule,
    pseudo_replicates,
    z_rule,
)

QUICK = settings(deadline=None, derandomize=True, database=None, max_examples=150)
LOSSES = st.lists(st.integers(32_000, 33_500).map(lambda i: i / 10_000), min_size=2, max_size=25)
SHARED_LOGS = Path(__file__).parents[2] / "../shared/logs"


@QUICK
@given(LOSSES, st.sampled_from([3.28, 3.25, 2.92]), st.sampled_from([0.01, 0.001, 0.05]))
def test_equals_scipy(losses: list[float], target: float, alpha: float) -> None:
    assume(len(set(losses)) > 1)
    ours = loss_test(losses, target, alpha)
    theirs = stats.ttest_1samp(losses, target, alternative="less")
    assert ours.t == pytest.approx(theirs.statistic, rel=1e-9, abs=1e-12)
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-9, abs=1e-12)
    assert ours.df == theirs.df
    assert ours.mean == pytest.approx(np.mean(losses), abs=1e-12)
    assert ours.sd == pytest.approx(np.std(losses, ddof=1), rel=1e-9)
    high = theirs.confidence_interval(1 - alpha).high
    assert ours.upper_bound == pytest.approx(high, abs=1e-12)


def test_equals_scipy_to_1e_12_on_typical_losses() -> None:
    rng = np.random.default_rng(1)
    for n in range(2, 40):
        losses = (3.2785 + 0.0014 * rng.standard_normal(n)).tolist()
        theirs = stats.ttest_1samp(losses, 3.28, alternative="less")
        assert abs(loss_test(losses, 3.28).p - theirs.pvalue) < 1e-12


def test_hand_worked() -> None:
    # mean 3.278, deviations ∓.001 → sd .001, SE .001/√3, t = −.002·√3/.001 = −2√3, df 2.
    # For df 2, P(T ≤ t) = 1/2 + t/(2√(2 + t²)) = 1/2 − 2√3/(2√14).
    test = loss_test([3.277, 3.278, 3.279], 3.28)
    assert test.t == pytest.approx(-2 * math.sqrt(3), rel=1e-9)
    assert test.p == pytest.approx(0.5 - math.sqrt(3 / 14), rel=1e-9)
    assert test.margin_nats == pytest.approx(0.002)
    assert not test.passed


def test_published_figures_of_a_record_folder() -> None:
    table = SHARED_LOGS / "2026-02-16_FlattenForward_expected.csv"
    if not table.exists():
        pytest.skip("../shared/logs is not beside the project")
    rows = {row["group"]: row for row in csv.DictReader(table.read_text().splitlines())}
    for group, row in rows.items():
        losses = []
        for log in sorted((SHARED_LOGS / "2026-02-16_FlattenForward" / group).glob("*.txt")):
            pattern = rf"step:{row['total_steps']}/{row['total_steps']} val_loss:(\S+)"
            losses.append(float(re.findall(pattern, log.read_text(errors="replace"))[-1]))
        test = loss_test(losses, 3.28)
        assert test.n == int(row["n_runs"])
        # Half a unit of the sixth decimal: one mean is 3.2793125, printed 3.279312.
        assert test.mean == pytest.approx(float(row["mean_loss"]), abs=5.001e-7)
        assert test.sd == pytest.approx(float(row["std_loss"]), abs=5.001e-7)
        assert test.p == pytest.approx(float(row["p_ttest_less"]), rel=1e-4)


@pytest.mark.parametrize("losses", [[], [3.27]])
def test_too_few_losses_are_no_test(losses: list[float]) -> None:
    test = loss_test(losses, 3.28)
    assert math.isnan(test.p)
    assert math.isnan(test.sd)
    assert test.upper_bound == math.inf
    assert not test.passed


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e308])
def test_a_diverged_run_fails(bad: float) -> None:
    test = loss_test([3.27, 3.271, bad, 3.272], 3.28)
    assert test.p == 1.0
    assert test.upper_bound == math.inf
    assert not test.passed


@pytest.mark.parametrize("loss", [3.27, 3.28, 3.29, 0.1])
@pytest.mark.parametrize("n", [2, 3, 10])
def test_equal_losses_prove_nothing(loss: float, n: int) -> None:
    test = loss_test([loss] * n, 3.28)
    assert test.sd == 0.0
    assert test.p == 1.0
    assert not test.passed


@QUICK
@given(LOSSES, st.randoms(use_true_random=False))
def test_order_does_not_matter_to_the_last_bit(losses: list[float], random: object) -> None:
    shuffled = list(losses)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert repr(loss_test(losses, 3.28)) == repr(loss_test(shuffled, 3.28))


@QUICK
@given(LOSSES, st.floats(0.1, 10.0), st.floats(-2.0, 2.0))
def test_scale_and_shift_invariance(losses: list[float], scale: float, shift: float) -> None:
    assume(len(set(losses)) > 1)
    moved = loss_test([scale * x + shift for x in losses], scale * 3.28 + shift)
    assert moved.p == pytest.approx(loss_test(losses, 3.28).p, rel=1e-6, abs=1e-12)


@QUICK
@given(LOSSES, st.floats(1e-5, 0.1))
def test_lower_losses_have_lower_p(losses: list[float], gain: float) -> None:
    assume(len(set(losses)) > 1)
    assert loss_test([x - gain for x in losses], 3.28).p <= loss_test(losses, 3.28).p


@QUICK
@given(LOSSES)
def test_passes_exactly_when_the_bound_is_below_the_target(losses: list[float]) -> None:
    test = loss_test(losses, 3.28)
    assume(abs(test.p - test.alpha) > 1e-9)
    assert test.passed == (test.upper_bound < 3.28)


def test_z_rule_at_its_boundary() -> None:
    # (3.28 − 3.278)·√4 is .004 on paper and .00399999… in doubles.
    assert z_rule([3.278] * 4, 3.28).passed
    assert not z_rule([3.2781] * 4, 3.28).passed
    rule = z_rule([3.277, 3.279], 3.28)
    assert rule.statistic == pytest.approx(0.002 * math.sqrt(2))
    assert rule.p == pytest.approx(stats.norm.sf(0.002 * math.sqrt(2) / 0.0013), rel=1e-9)


@pytest.mark.parametrize("losses", [[], [math.nan], [3.2, math.inf]])
def test_z_rule_without_usable_losses(losses: list[float]) -> None:
    rule = z_rule(losses, 3.28)
    assert (rule.passed, rule.p) == (False, 1.0)


def test_pairwise_z_rule_by_hand() -> None:
    # Equal loss, 100 steps fewer: credit .0045; 8 + 8 runs: √(1/4) = .5 → .009.
    rule = pairwise_z_rule([3.2790] * 8, 2900, [3.2790] * 8, 3000)
    assert rule.statistic == pytest.approx(0.009)
    assert rule.passed
    # Those steps were bought with .0045 more loss: nothing left.
    even = pairwise_z_rule([3.2835] * 8, 2900, [3.2790] * 8, 3000)
    assert even.statistic == pytest.approx(0.0, abs=1e-12)
    assert even.p == pytest.approx(0.5)
    assert not pairwise_z_rule([], 1, [3.2], 1).passed
    assert not pairwise_z_rule([math.nan], 1, [3.2], 1).passed


def test_luck_warning_as_in_the_archive() -> None:
    # Four losses, sd .00055, p = .006: z with the archive's sigma is about 2.13.
    deviation = 0.00055 * math.sqrt(3) / 2
    losses = [3.2785 + deviation * sign for sign in (-1, -1, 1, 1)]
    warning = luck_warning(losses, 3.28)
    assert loss_test(losses, 3.28).p == pytest.approx(0.006, abs=2e-4)
    assert warning is not None
    assert warning.z == pytest.approx(-2.13, abs=0.01)
    assert warning.p == pytest.approx(0.0167, abs=3e-4)
    assert luck_warning([3.2770, 3.2800], 3.28) is None
    assert luck_warning([3.27], 3.28) is None
    assert luck_warning([3.27, math.nan], 3.28) is None


def test_luck_warnings_are_rare_in_honest_samples() -> None:
    rng = np.random.default_rng(2)
    samples = 3.2785 + 0.00141 * rng.standard_normal((4000, 8))
    fired = sum(luck_warning(row, 3.28) is not None for row in samples.tolist())
    assert fired / 4000 < 0.04  # exact: P(chi²(7) < 7/4) = .028


def test_pseudo_replicates() -> None:
    first, second = [10.8258, 6.1, 4.5, 3.9, 3.2785], [10.8258, 6.2, 4.4, 3.8, 3.2781]
    repeat = [*first[:4], 3.2791]  # same seed, nondeterministic tail
    assert pseudo_replicates([first, second, repeat]) == ((0, 2),)
    assert pseudo_replicates([first, first, first]) == ((0, 1), (0, 2), (1, 2))


def test_pseudo_replicates_need_more_than_step_zero_or_one_coincidence() -> None:
    assert pseudo_replicates([[10.8258, 6.1], [10.8258, 6.1]]) == ()
    assert pseudo_replicates([[10.8258, 6.1, 4.5], [10.8258, 6.1, 4.4]]) == ()
    assert pseudo_replicates([[10.8, math.nan, math.nan]] * 2) == ()
    assert pseudo_replicates([[], [3.27], []]) == ()


def test_track_sigma_gives_the_rule_its_p() -> None:
    assert stats.norm.sf(0.004 / TRACK_SIGMA_NATS) == pytest.approx(0.001, abs=1e-4)
