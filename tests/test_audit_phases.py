"""When did it happen: hand-worked timelines."""

from __future__ import annotations

import pytest

from harness.audit_phases import timeline
from harness.audit_report import Mark, PhaseCounts


def val(step: int, at_s: float, ms: float, loss: float = 3.0) -> Mark:
    return Mark(step=step, at_s=at_s, train_ms=ms, loss_nats=loss)


def train(step: int, at_s: float, ms: float) -> Mark:
    return Mark(step=step, at_s=at_s, train_ms=ms, loss_nats=None)


# Warm-up until 8 s, validation of 1 s until 10, two steps of 1 s, validation of 1 s, two steps.
MARKS = (
    val(0, 10.0, 0),
    train(1, 11.0, 1000),
    train(2, 12.0, 2000),
    val(2, 13.0, 2000),
    train(3, 14.0, 3000),
    train(4, 15.0, 4000),
    val(4, 16.0, 4000),
)


@pytest.mark.parametrize(
    ("at_s", "phase"),
    [
        (1.0, "warmup"), (8.0, "warmup"), (8.5, "reset"), (9.5, "validation"), (10.5, "clock"),
        (11.5, "clock"), (12.5, "validation"), (13.5, "clock"), (15.5, "validation"), (17.0, "end"),
    ],
)  # fmt: skip
def test_phases_of_moments(at_s: float, phase: str) -> None:
    assert timeline(MARKS, [7.0, 8.0, 10.5]).phase(at_s) == phase


def test_all_before_the_clock_is_reset_where_nothing_is_warmed_up() -> None:
    when = timeline(MARKS, [10.5, 11.5])
    assert when.phase(0.1) == "reset"
    assert when.count([0.1, 10.5, 10.6, 12.5, 20.0]) == PhaseCounts(
        reset=1, clock=2, validation=1, end=1
    )


def test_a_first_validation_that_is_shorter_than_others_hides_no_warm_up_step() -> None:
    when = timeline(MARKS, [8.0, 9.3, 9.7, 10.5])
    assert when.clock_s == when.reset_s == 9.7
    assert when.count([8.0, 9.3, 9.7, 10.5]) == PhaseCounts(warmup=3, clock=1)
    # One in the last fifth is training while it validates.
    when = timeline(MARKS, [8.0, 9.9])
    assert when.clock_s == 9.0
    assert when.late_backward([8.0, 9.9], []) == 1


def test_without_lines_everything_is_before_the_clock() -> None:
    assert timeline((), [1.0, 2.0]).count([0.5, 1.5, 3.0]) == PhaseCounts(warmup=2, reset=1)


def test_a_script_that_does_not_validate_at_step_0_starts_its_clock_before_its_first_line() -> None:
    when = timeline((train(1, 20.0, 5000), val(2, 27.0, 10_000)), [3.0, 16.0])
    assert when.clock_s == pytest.approx(15.0)
    assert when.reset_s == 3.0
    assert when.phase(16.0) == "clock"
    assert when.phase(26.0) == "validation"


def test_backward_passes_in_the_last_part_of_a_validation_are_late() -> None:
    when = timeline(MARKS, [8.0])
    honest = [8.0, 10.2, 11.2, 13.1, 14.1]
    assert when.late_backward(honest, []) == 0
    # Noted at the line's own moment, it was made after the line.
    assert when.late_backward([*honest, 13.0, 16.0], []) == 0
    assert when.late_backward([*honest, 12.8, 15.9], []) == 2
    # A restart of the clock some time after the line moves the true stop: no offence.
    assert when.late_backward([*honest, 12.1], []) == 0
    # From the moment the shard is opened it is a validation for sure.
    assert when.late_backward([*honest, 12.1, 12.2], [12.05]) == 2


def test_a_rank_that_prints_nothing_may_be_ahead_of_the_line() -> None:
    when = timeline(MARKS, [8.0])
    assert when.late_backward([12.9], [], 0.0) == 1
    assert when.late_backward([12.9], [], 0.25) == 0
    assert when.late_backward([12.6], [], 0.25) == 1


def test_the_next_validation_line() -> None:
    when = timeline(MARKS, [8.0])
    assert when.next_validation(1.0) == when.clock_s == 9.0
    assert when.next_validation(10.5) == 13.0
    assert when.next_validation(13.5) == 16.0
    assert when.next_validation(99.0) == 99.0
    assert when.last_validation == (15.0, 16.0)
