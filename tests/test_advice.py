"""Advice: what more evidence would cost, and silence where nothing is to be advised."""

from __future__ import annotations

import re
from typing import Any

import pytest

from harness.advice import advise
from harness.checks.case import Case
from harness.looks import progress
from harness.results import loss_result, timing_result
from harness.samples import take_samples
from harness.verdict_schema import Decision
from tests.support.series import fake_track, make_bundle, make_plan, make_series

SLOW = [80e3, 80.1e3, 79.9e3, 80.05e3, 79.95e3]


def advice(
    losses: list[float],
    ms: list[float],
    base: list[float] | None = None,
    decision: Decision = "not_proven",
    **track: Any,
) -> tuple[str, ...]:
    plan, rules = make_plan(), fake_track(**track)
    runs = make_series(plan, losses, ms, SLOW if base is None else base)
    samples = take_samples(plan, runs)
    state = progress(plan, rules, samples)
    case = Case(
        make_bundle(plan, runs, track=rules),
        samples,
        state,
        loss_result(plan, rules, samples, state),
        timing_result(plan, rules, samples, state),
    )
    return advise(case, decision).text


CLOSE = [3.2795, 3.2785, 3.2800, 3.2790, 3.2775]
CLEAR = [3.2701, 3.2705, 3.2695, 3.2702, 3.2698]
FAST = [ms * 0.95 for ms in SLOW]


@pytest.mark.parametrize("decision", ["accepted", "rule_broken", "runs_failed"])
def test_only_the_unproven_get_advice(decision: Decision) -> None:
    assert advice(CLOSE, FAST, decision=decision) == ()


def test_runs_for_the_margin_at_hand_and_the_price_of_more_steps() -> None:
    text = advice(CLOSE, FAST)
    (runs,) = re.findall(r"a fresh series needs about (\d+) runs for 90% power", text[0])
    assert 5 < int(runs) < 100
    assert "+0.00110" in text[0]
    assert "node hours" in text[0]
    # 0.0129 nats per 100 steps; a step takes 76 ms.
    assert re.search(r"Or \d+ more steps \(\+\d+ ms a run\)", text[1])
    assert "not a licence" in text[-1]


def test_more_margin_needs_fewer_runs() -> None:
    def runs(shift: float) -> int:
        text = advice([loss - shift for loss in CLOSE], FAST)
        return int(re.findall(r"about (\d+) runs", text[0])[0])

    assert runs(0) > runs(0.0003)


def test_dollars_where_the_track_has_a_price() -> None:
    assert "$" not in advice(CLOSE, FAST)[0]
    priced = advice(CLOSE, FAST, launcher='"python"\nreference_price_per_hour = 20000.0')
    assert re.search(r"\$\d+", priced[0])


def test_a_mean_above_the_target_is_not_sent_to_buy_runs() -> None:
    text = advice([loss + 0.01 for loss in CLOSE], FAST)
    assert "no number of runs proves it" in text[0]


def test_timing_alone() -> None:
    noisy = [80e3 * f for f in (0.97, 1.01, 0.985, 1.02, 0.98)]
    (line,) = advice(CLEAR, noisy)
    assert re.search(r"A gain of [\d.]+% needs about \d+ pairs for 90% power", line)
    (line,) = advice(CLEAR, [ms * 1.01 for ms in SLOW])
    assert "not faster here" in line


def test_nothing_finished_and_one_run() -> None:
    for n in (0, 1):
        text = advice(CLOSE[:n], FAST[:n], SLOW[:n])
        assert all(isinstance(line, str) for line in text)


def test_whoever_is_told_of_runs_is_told_that_they_are_a_new_series() -> None:
    for losses in (CLOSE, [loss + 0.01 for loss in CLOSE], [3.3] * 5):
        text = advice(losses, SLOW)
        assert sum("not a licence" in line for line in text) == 1
