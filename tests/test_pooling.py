"""Two series together: what is combined, what is not, and what decides."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
from scipy import stats

from harness.bundle import Run
from harness.pooling import Pooled, pool
from harness.rerun_report import WORDS, render_rerun
from harness.stats.anytime import t_e_value
from harness.stats.unfinished import unfinished_value
from harness.verdict import judge
from harness.verdict_schema import Verdict
from tests.support.series import fake_track, make_bundle, make_plan, make_run, make_series

GOOD = [3.2712, 3.2689, 3.2701, 3.2694, 3.2707]
ALIKE = [3.2699, 3.2716, 3.2688, 3.2705, 3.2692]
FAST, SLOW = [76_010.0, 75_950.0, 76_080.0, 75_990.0, 76_030.0], [80_000.0] * 5
FASTER = [76_040.0, 75_980.0, 76_000.0, 76_060.0, 75_930.0]


def verdict(
    losses: Sequence[float],
    ms: Sequence[float] = FAST,
    base: Sequence[float] = SLOW,
    more: Sequence[Run] = (),
    looks: Sequence[int] = (5, 10, 15, 20),
    track: dict[str, str] | None = None,
    **changes: Any,
) -> Verdict:
    bound = 0.01 if len(looks) == 1 else 0.0031
    plan = make_plan(looks, loss_p=bound, timing_p=bound, **changes)
    runs = [*make_series(plan, losses, ms, base), *more]
    return judge(make_bundle(plan, runs, track=fake_track(**track) if track else None))


def together(first: Verdict, second: Verdict, **changes: Any) -> Pooled:
    told: dict[str, Any] = {"classes": ("CPU", "CPU"), "nodes": (), "protection": "none: test"}
    return pool(first, second, **{**told, **changes})


def test_a_re_run_that_confirms() -> None:
    first, second = verdict(GOOD), verdict(ALIKE, FASTER, seed=2)
    assert first.decision == second.decision == "accepted"
    pooled = together(first, second)
    assert (pooled.outcome, pooled.exit_code) == ("confirmed", 0)
    loss, time = pooled.loss, pooled.time
    assert time is not None
    assert (loss.alike, time.alike) == (True, True)
    p = [loss.first.p, loss.second.p]
    assert p == [first.loss.design_p, second.loss.design_p]
    assert loss.fisher_p == pytest.approx(stats.combine_pvalues(p, method="fisher").pvalue)
    assert loss.both_p == max(p)
    assert loss.e_product == pytest.approx(t_e_value(GOOD, 3.28) * t_e_value(ALIKE, 3.28))
    assert loss.difference == pytest.approx(sum(ALIKE) / 5 - sum(GOOD) / 5)
    assert time.first.mean == pytest.approx(first.timing.ratio)
    ratios = [[math.log(r) for r in v.timing.pair_ratios] for v in (first, second)]
    welch = stats.ttest_ind(ratios[1], ratios[0], equal_var=False)
    assert time.difference_p == pytest.approx(welch.pvalue)
    assert time.difference == pytest.approx(second.timing.ratio / first.timing.ratio)  # type: ignore[operator]


def test_the_p_of_a_series_is_its_designs_and_not_the_rules() -> None:
    first = verdict(GOOD)
    assert first.loss.rule_p is not None
    pooled = together(first, verdict(ALIKE, seed=2))
    assert pooled.loss.first.p == pytest.approx(4 * first.loss.rule_p)
    fixed = verdict(ALIKE, seed=2, looks=(5,))
    assert together(first, fixed).loss.second.p == fixed.loss.rule_p


def test_figures_that_were_embellished_are_named() -> None:
    better = [loss - 0.006 for loss in GOOD]
    worse = [3.2795, 3.2812, 3.2784, 3.2806, 3.2792]
    pooled = together(verdict(better), verdict(worse, seed=2, looks=(5,)))
    assert (pooled.outcome, pooled.exit_code) == ("contradicted", 1)
    assert pooled.loss.worse
    assert not pooled.loss.holds
    assert pooled.time is not None
    assert pooled.time.alike
    text = render_rerun(pooled, "a", "b")
    assert "do not measure the same loss" in text
    assert "the re-run is worse" in text


def test_accepted_alone_and_yet_different_is_confirmed_and_named() -> None:
    pooled = together(verdict([loss - 0.006 for loss in GOOD]), verdict(ALIKE, seed=2))
    assert (pooled.outcome, pooled.exit_code) == ("confirmed", 0)
    assert pooled.loss.alike is False
    assert not pooled.loss.holds
    assert "do not measure the same loss" in render_rerun(pooled, "a", "b")


def test_three_runs_support_and_do_not_prove() -> None:
    second = verdict([3.2740, 3.2765, 3.2722], FASTER[:3], SLOW[:3], seed=2, looks=(3,))
    assert second.decision == "not_proven"
    pooled = together(verdict(GOOD), second)
    # The lucky, or good, first series is not enough for the exit code.
    assert (pooled.outcome, pooled.exit_code) == ("contradicted", 1) or pooled.loss.alike
    close = verdict([3.2680, 3.2765, 3.2722], FASTER[:3], SLOW[:3], seed=2, looks=(3,))
    pooled = together(verdict(GOOD), close)
    assert close.decision == "not_proven"
    assert (pooled.outcome, pooled.exit_code) == ("supported", 1)
    assert pooled.loss.fisher_p is not None
    assert pooled.loss.fisher_p < 0.01 < pooled.loss.second.p


def test_a_candidate_that_is_not_faster_here() -> None:
    level = verdict(ALIKE, [80_040.0, 79_980.0, 80_000.0, 80_060.0, 79_930.0], seed=2, looks=(5,))
    pooled = together(verdict(GOOD), level)
    assert pooled.outcome == "contradicted"
    assert pooled.time is not None
    assert pooled.time.worse


def test_an_unfinished_run_counts_at_its_worst() -> None:
    lost = [make_run("candidate", 1, state="lost", attempt=2)]
    first, plain = verdict(GOOD, more=lost), verdict(GOOD)
    second = verdict(ALIKE, seed=2)
    with_lost, without = together(first, second), together(plain, second)
    assert with_lost.loss.first.unfinished == 1
    assert with_lost.loss.first.p == first.loss.worst_case_p
    assert with_lost.loss.first.p > without.loss.first.p
    worst = [*GOOD, unfinished_value(GOOD, 3.28)]
    assert with_lost.loss.first.e_value == pytest.approx(t_e_value(worst, 3.28))
    assert with_lost.time is not None
    logs = [math.log(a / b) for a, b in zip(FAST, SLOW, strict=True)]
    logs.append(unfinished_value(logs, 0.0))
    assert with_lost.time.first.p == pytest.approx(
        stats.ttest_1samp(logs, 0.0, alternative="less").pvalue
    )


def test_another_hardware_class_compares_losses_and_no_times() -> None:
    classes = ("8 × H100", "1 × H200")
    pooled = together(verdict(GOOD), verdict(ALIKE, FASTER, seed=2), classes=classes)
    assert (pooled.outcome, pooled.exit_code) == ("other_class", 1)
    assert pooled.loss.fisher_p is not None
    assert pooled.time is not None
    assert pooled.time.fisher_p is pooled.time.mean is pooled.time.e_product is None
    assert not pooled.time.holds
    assert "1 × H200" in pooled.time.note
    text = render_rerun(pooled, "a", "b")
    assert "another hardware class: first on 8 × H100, re-run on 1 × H200" in text


def test_the_same_random_numbers_are_no_new_evidence() -> None:
    pooled = together(verdict(GOOD), verdict(GOOD, FASTER, seed=2))
    assert len(pooled.repeated) >= 5
    assert pooled.loss.fisher_p is None
    assert pooled.time is not None
    assert pooled.time.fisher_p is None
    assert "same random numbers: candidate-" in render_rerun(pooled, "a", "b")


def test_steps_have_no_times_to_pool() -> None:
    steps = {"compared_on": '"steps"'}
    pooled = together(verdict(GOOD, track=steps), verdict(ALIKE, seed=2, track=steps))
    assert pooled.time is None
    assert "## Time" not in render_rerun(pooled, "a", "b")


def test_no_look_reached_is_no_evidence() -> None:
    short = verdict(ALIKE[:2], FAST[:2], SLOW[:2], seed=2)
    pooled = together(verdict(GOOD), short)
    assert pooled.loss.second.p == 1.0
    assert pooled.outcome in ("not_confirmed", "contradicted")


@pytest.mark.parametrize("counts", [(0, 0), (1, 5), (5, 0), (2, 2)])
def test_any_length_pools_without_an_error(counts: tuple[int, int]) -> None:
    first, second = (
        verdict(losses[:n], FAST[:n], SLOW[:n], seed=seed)
        for n, losses, seed in zip(counts, (GOOD, ALIKE), (1, 2), strict=True)
    )
    pooled = together(first, second)
    assert Pooled.model_validate_json(pooled.text()) == pooled
    assert render_rerun(pooled, "a", "b")


def test_equal_losses_and_times_have_no_test() -> None:
    same = verdict([3.27] * 5, [76_000.0] * 5)
    pooled = together(same, verdict(ALIKE, seed=2))
    assert pooled.loss.first.p == 1.0
    assert pooled.loss.mean is None


def test_names_cannot_break_out_of_the_page() -> None:
    pooled = together(verdict(GOOD), verdict(ALIKE, seed=2), protection="<b>`x`</b> @all")
    text = render_rerun(pooled, "<script>", "`; rm -rf ~")
    assert "<script>" not in text.replace("results/<script>", "")
    assert "<b>" not in text


def test_every_outcome_has_words() -> None:
    draw = random.Random(5)
    seen = set()
    for seed in range(60):
        shift = draw.choice([0.0, 0.004, 0.009, 0.012])
        n = draw.choice([3, 5])
        losses = [draw.gauss(3.27 + shift, 0.0014) for _ in range(n)]
        second = verdict(losses, FASTER[:n], SLOW[:n], seed=seed, looks=(n,))
        classes = draw.choice([("CPU", "CPU"), ("CPU", "GPU")])
        pooled = together(verdict(GOOD), second, classes=classes)
        seen.add(pooled.outcome)
        assert WORDS[pooled.outcome][0].capitalize() in render_rerun(pooled, "a", "b")
        assert (pooled.exit_code == 0) == (pooled.outcome == "confirmed")
    assert seen == set(WORDS)
