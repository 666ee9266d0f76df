"""The script's clock against the arrival of its lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.checks.clock import audit_clock
from harness.stamps import Stamp, stamp_lines


def series(
    *, steps: int = 100, step_s: float = 0.1, claimed: float = 1.0, validation_s: float = 2.0
) -> tuple[Stamp, ...]:
    """A run that validates every 25 steps; its clock counts `claimed` of each step's time."""
    stamps = [Stamp(0, 0.0, 10.0, True)]
    now, clock = 10.0, 0.0
    for step in range(1, steps + 1):
        now += step_s
        clock += step_s * claimed
        stamps.append(Stamp(step, clock * 1e3, now, False))
        if step % 25 == 0:
            now += validation_s
            stamps.append(Stamp(step, clock * 1e3, now, True))
    return tuple(stamps)


def test_honest_clock_has_no_fault() -> None:
    audit = audit_clock(series())
    assert audit is not None
    assert audit.faults == ()
    assert audit.inside_s == pytest.approx(10.0)
    assert audit.outside_s == pytest.approx(18.0)
    assert audit.hidden_validation_s == pytest.approx(2.0)
    assert audit.hidden_steps_s == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("claimed", [0.5, 0.9])
def test_scaled_clock_is_found(claimed: float) -> None:
    audit = audit_clock(series(claimed=claimed))
    assert audit is not None
    assert any("does not count" in fault for fault in audit.faults)


def test_clock_faster_than_the_world_is_found() -> None:
    """A baseline copy that claims more time than passed makes any candidate look fast."""
    audit = audit_clock(series(claimed=1.5, validation_s=0.0))
    assert audit is not None
    assert any("the clock counts" in fault for fault in audit.faults)


def test_clock_that_runs_backwards_is_found() -> None:
    stamps = list(series())
    stamps[60] = Stamp(stamps[60].step, 100.0, stamps[60].arrival_s, False)
    audit = audit_clock(tuple(stamps))
    assert audit is not None
    assert any("backwards" in fault for fault in audit.faults)


def test_one_stall_of_a_second_inside_the_clock_is_honest() -> None:
    stamps = list(series())
    late = [
        Stamp(s.step, s.train_ms + 1000, s.arrival_s + 1.0, s.validates) if i > 50 else s
        for i, s in enumerate(stamps)
    ]
    audit = audit_clock(tuple(late))
    assert audit is not None
    assert audit.faults == ()


def test_too_few_lines_say_nothing() -> None:
    assert audit_clock(series()[:1]) is None


@given(st.lists(st.floats(0.001, 1.0), min_size=2, max_size=40))
def test_lines_without_validation_between_agree_whatever_their_pace(paces: list[float]) -> None:
    now, stamps = 5.0, [Stamp(0, 0.0, 5.0, True)]
    for step, pace in enumerate(paces, start=1):
        now += pace
        stamps.append(Stamp(step, (now - 5.0) * 1e3, now, False))
    audit = audit_clock(tuple(stamps))
    assert audit is not None
    assert audit.faults == ()


def test_stamps_join_lines_and_arrivals() -> None:
    lines = [
        "hello",
        "step:0/10 val_loss:10.8 train_time:0ms step_avg:0.00ms",
        "step:1/10 train_time:50ms step_avg:50.00ms",
    ]
    stamps = stamp_lines(lines, [0.1, 1.0, 1.05])
    assert stamps == (Stamp(0, 0.0, 1.0, True), Stamp(1, 50.0, 1.05, False))


@pytest.mark.parametrize(
    ("lines", "arrivals"),
    [(["a", "b"], [0.1]), (["a"], [0.1, 0.2]), (["a", "b"], [0.2, 0.1]), (["a"], [float("nan")])],
)
def test_arrivals_that_do_not_fit_are_refused(lines: list[str], arrivals: list[float]) -> None:
    with pytest.raises(ValueError):
        stamp_lines(lines, arrivals)
