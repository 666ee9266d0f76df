"""Figures of the two claims, against hand-worked numbers and scipy."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from harness.bundle import Run
from harness.looks import progress
from harness.results import arm_summary, loss_result, timing_result
from harness.samples import take_samples
from tests.support.series import fake_track, make_log, make_plan, make_run, make_series

TRACK = fake_track()
LOSSES = [3.2781, 3.2772, 3.2790, 3.2768, 3.2779]
FAST = [76_000.0, 76_100.0, 75_900.0, 76_050.0, 75_980.0]
SLOW = [80_000.0, 80_200.0, 79_900.0, 80_100.0, 80_020.0]


def results(runs: list[Run], track: object = TRACK) -> tuple[object, object]:
    plan = make_plan()
    samples = take_samples(plan, runs)
    state = progress(plan, track, samples)  # type: ignore[arg-type]
    return (
        loss_result(plan, track, samples, state),  # type: ignore[arg-type]
        timing_result(plan, track, samples, state),  # type: ignore[arg-type]
    )


def runs() -> list[Run]:
    return make_series(make_plan(), LOSSES, FAST, SLOW)


def test_loss_by_hand() -> None:
    loss, _ = results(runs())
    mean = sum(LOSSES) / 5
    sd = math.sqrt(sum((x - mean) ** 2 for x in LOSSES) / 4)
    assert loss.n == 5
    assert loss.mean == pytest.approx(mean, rel=1e-9)
    assert loss.sd == pytest.approx(sd, rel=1e-9)
    assert loss.margin == pytest.approx(3.28 - mean, rel=1e-9)
    assert loss.t == pytest.approx((mean - 3.28) / (sd / math.sqrt(5)), rel=1e-9)
    assert loss.df == 4
    # t(.99, 4) = 3.746947
    assert loss.upper_bound == pytest.approx(mean + 3.746947 * sd / math.sqrt(5), abs=1e-9)
    assert loss.rule_p == loss.look_p
    # Four looks of the default design: Bonferroni bounds the whole procedure.
    assert loss.design_p == pytest.approx(4 * loss.look_p, rel=1e-9)
    assert loss.design_p_bound == 0.0031
    assert loss.worst_case_p is None
    assert (loss.decided_at is None) == (loss.rule_p > 0.0031)


def test_time_by_hand() -> None:
    _, timing = results(runs())
    logs = [math.log(c / b) for c, b in zip(FAST, SLOW, strict=True)]
    mean = sum(logs) / 5
    sd = math.sqrt(sum((x - mean) ** 2 for x in logs) / 4)
    half = 3.746947 * sd / math.sqrt(5)
    assert timing.pairs == 5
    assert timing.ratio == pytest.approx(math.exp(mean), rel=1e-9)
    assert timing.low == pytest.approx(math.exp(mean - half), rel=1e-7)
    assert timing.high == timing.upper_bound == pytest.approx(math.exp(mean + half), rel=1e-7)
    assert timing.saved_ms == pytest.approx(sum(SLOW) / 5 - sum(FAST) / 5, rel=1e-9)
    assert timing.pair_ratios == pytest.approx([c / b for c, b in zip(FAST, SLOW, strict=True)])
    assert timing.decided_at == 5
    assert timing.worst_case_ratio_bound is None
    assert timing.official_seconds is None


def test_welch_is_scipys() -> None:
    from scipy import stats

    _, timing = results(runs())
    expected = stats.ttest_ind(FAST, SLOW, equal_var=False, alternative="less").pvalue
    assert timing.welch_p == pytest.approx(expected, rel=1e-8)


def test_official_seconds_are_the_records_times_the_ratio() -> None:
    track = fake_track(rules_version="1\nrecord_seconds = 80.0")
    _, timing = results(runs(), track)
    assert timing.official_seconds == pytest.approx(80 * timing.ratio, rel=1e-9)


def sd_of(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((x - mean) ** 2 for x in values) / (len(values) - 1))


def test_an_unfinished_run_counts_at_its_worst_in_both_claims() -> None:
    from scipy import stats

    loss, timing = results([*runs(), make_run("candidate", 6, state="lost")])
    # No finished loss is above the target: one sd above the target.
    worst = [*LOSSES, 3.28 + sd_of(LOSSES)]
    assert loss.worst_case_p == pytest.approx(
        stats.ttest_1samp(worst, 3.28, alternative="less").pvalue, rel=1e-8
    )
    assert loss.worst_case_p > loss.rule_p
    logs = [math.log(c / b) for c, b in zip(FAST, SLOW, strict=True)]
    logs.append(sd_of(logs))
    bound = math.exp(sum(logs) / 6 + stats.t.ppf(0.99, 5) * sd_of(logs) / math.sqrt(6))
    assert timing.worst_case_ratio_bound == pytest.approx(bound, rel=1e-8)
    assert timing.worst_case_ratio_bound > timing.upper_bound
    # A lost baseline run says nothing of the loss, and is a pair at its worst all the same.
    loss, timing = results([*runs(), make_run("baseline", 6, state="failed")])
    assert loss.worst_case_p == pytest.approx(loss.rule_p)
    assert timing.worst_case_ratio_bound == pytest.approx(bound, rel=1e-8)


def test_too_little_gives_none_and_no_number() -> None:
    loss, timing = results([])
    assert (loss.n, loss.mean, loss.sd, loss.rule_p, loss.worst_case_p) == (
        0,
        None,
        None,
        None,
        None,
    )
    assert (timing.pairs, timing.ratio, timing.p, timing.pair_ratios) == (0, None, None, ())
    loss, timing = results(runs()[:4])
    assert (loss.n, loss.sd, loss.df, loss.rule_p) == (1, None, None, None)
    assert loss.mean == LOSSES[0]
    assert (timing.pairs, timing.ratio) == (1, None)
    assert timing.decided_at is None


def test_a_clock_of_zero_leaves_its_pair_out() -> None:
    _, timing = results(make_series(make_plan(), LOSSES[:3], [0.0, *FAST[1:3]], SLOW[:3]))
    assert timing.pairs == 2


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e200])
def test_a_diverged_run_leaves_no_finite_mean(value: float) -> None:
    log = make_log(3.27, 76e3)
    last = log.validations[-1]._replace(loss_nats=value)
    broken = make_run("candidate", 3, log=replace(log, validations=(*log.validations[:-1], last)))
    loss, _ = results([*make_series(make_plan(), LOSSES[:2], FAST[:2], SLOW[:2]), broken])
    assert loss.n == 3
    assert loss.mean is None
    assert loss.rule_p == 1.0


def test_arm_summary_is_the_reports_row() -> None:
    plan = make_plan()
    samples = take_samples(plan, runs())
    row = arm_summary(plan, TRACK, "candidate", samples.candidates())
    assert row.losses_nats == tuple(LOSSES)
    assert row.train_ms == tuple(FAST)
    assert (row.n, row.steps, row.script) == (5, 1000, "fake.py")
    assert row.source_sha256 == plan.candidate.source_sha256
    assert row.time_mean_ms == pytest.approx(sum(FAST) / 5)
    assert row.time_sd_ms == pytest.approx(math.sqrt(22_720 / 4), rel=1e-9)
    empty = arm_summary(plan, TRACK, "baseline", [])
    assert (empty.n, empty.steps, empty.loss_mean, empty.time_mean_ms) == (0, None, None, None)
