"""From runs to samples: what enters a test, and what counts at its worst."""

from __future__ import annotations

import math
from dataclasses import replace

from harness.bundle import Run
from harness.samples import final_loss, final_ms, final_steps, take_samples
from tests.support.series import make_log, make_plan, make_run, make_series


def series(n: int) -> list[Run]:
    return make_series(
        make_plan(), [3.27 + i / 1000 for i in range(n)], [76e3 + i for i in range(n)],
        [80e3 + i for i in range(n)],
    )  # fmt: skip


def test_warm_up_runs_never_count() -> None:
    samples = take_samples(make_plan(), series(3))
    assert [pair.pair for pair in samples.pairs] == [1, 2, 3]
    assert [final_loss(run) for run in samples.candidates()] == [3.27, 3.271, 3.272]
    failed = [make_run("candidate", 0, state="failed"), *series(1)]
    assert take_samples(make_plan(), failed).unfinished == ()


def test_order_is_the_plans_whatever_the_order_of_the_runs() -> None:
    runs = series(5)
    assert take_samples(make_plan(), runs[::-1]) == take_samples(make_plan(), runs)


def test_first_n_and_complete_pairs() -> None:
    runs = [run for run in series(4) if not (run.arm == "baseline" and run.pair in (2, 4))]
    samples = take_samples(make_plan(), runs)
    assert len(samples.candidates()) == 4
    assert len(samples.candidates(2)) == 2
    assert [run.pair for run in samples.baselines()] == [1, 3]
    assert [pair.pair for pair in samples.timed()] == [1, 3]
    assert [pair.pair for pair in samples.timed(2)] == [1]
    assert [pair.pair for pair in samples.timed(3)] == [1, 3]
    assert samples.timed(0) == []


def test_a_pair_without_its_candidate_is_no_run_to_count() -> None:
    runs = [run for run in series(3) if not (run.arm == "candidate" and run.pair == 1)]
    samples = take_samples(make_plan(), runs)
    assert [pair.complete for pair in samples.pairs] == [False, True, True]
    assert [pair.pair for pair in samples.timed(1)] == [2]


def test_unfinished_attempts_are_counted_and_excluded_ones_are_not() -> None:
    runs = [
        *series(2),
        make_run("candidate", 3, state="failed"),
        make_run("candidate", 3, state="lost", attempt=2),
        make_run("baseline", 3, state="lost"),
        make_run("candidate", 3, state="excluded", attempt=3),
    ]
    samples = take_samples(make_plan(), runs)
    assert len(samples.unfinished) == 3
    assert samples.unfinished_candidates == 2
    assert [pair.pair for pair in samples.pairs] == [1, 2]


def test_a_slot_run_again_keeps_its_first_value() -> None:
    runs = [*series(2), make_run("candidate", 1, 3.1, attempt=2)]
    assert final_loss(take_samples(make_plan(), runs).candidates()[0]) == 3.27


def test_runs_of_pairs_that_the_plan_does_not_have_are_no_sample() -> None:
    samples = take_samples(make_plan((2,)), [*series(2), make_run("candidate", 99)])
    assert [pair.pair for pair in samples.pairs] == [1, 2]


def test_figures_of_a_run() -> None:
    run = make_run("candidate", 1, 3.2781, 76_123.0)
    assert (final_loss(run), final_ms(run), final_steps(run)) == (3.2781, 76_123.0, 1000)
    lost = make_run("candidate", 1, state="lost")
    assert final_loss(lost) == math.inf
    assert math.isnan(final_ms(lost))
    assert final_steps(lost) is None


def test_a_loss_that_is_no_number_is_infinite() -> None:
    log = make_log(3.27, 76e3)
    for text in (math.nan, math.inf, -math.inf):
        last = log.validations[-1]._replace(loss_nats=text, train_ms=None)
        run = make_run("candidate", 1, log=replace(log, validations=(*log.validations[:-1], last)))
        assert final_loss(run) == math.inf
        assert math.isnan(final_ms(run))
