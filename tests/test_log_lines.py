"""One line of output: what is a result and what only looks like one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.logs import (
    TrainPoint,
    Validation,
    parse_result_line,
)
from tests.support.result_lines import train


def test_validation_line_keeps_the_printed_loss() -> None:
    point = parse_result_line(
        "step:1390/1390 val_loss:3.2770 train_time:79532ms step_avg:57.22ms\n"
    )
    assert point == Validation(1390, 1390, "3.2770", 3.277, 79532.0, 57.22)


def test_seconds_become_exact_milliseconds() -> None:
    point = parse_result_line("step:5/9 val_loss:3.27839 train_time:496.855s step_avg:146.79ms")
    assert isinstance(point, Validation)
    assert point.train_ms == 496855.0
    assert point.step_avg_ms == 146.79


def test_llmc_line_has_neither_time_nor_total() -> None:
    assert parse_result_line("s:9536 tel:3.275959") == Validation(
        9536, None, "3.275959", 3.275959, None, None
    )


def test_train_line() -> None:
    assert parse_result_line(train(7, 41)) == TrainPoint(7, 41.0)
    loss = "step:1/6000 train_loss:11.0091 train_time:24179ms step_avg:nanms"
    assert parse_result_line(loss) == TrainPoint(1, 24179.0)


def test_claimed_loss_of_a_track_3_line_is_the_averaged_one() -> None:
    line = (
        "step:2690/2900 val_loss:3.28240 val_avg_loss:3.28240 val_ema_loss:3.27835"
        " train_time:9952.616s step_avg:3699.86ms"
    )
    point = parse_result_line(line)
    assert isinstance(point, Validation)
    assert (point.loss_text, point.train_ms) == ("3.27835", 9952616.0)
    assert point.other_losses[0] == ("val_loss", "3.28240")
    assert point.extra_fields == ()


def test_in_milliseconds_val_loss_alone_counts() -> None:
    point = parse_result_line("step:9/9 val_loss:3.30 val_ema_loss:3.20 train_time:5ms")
    assert isinstance(point, Validation)
    assert point.loss_nats == 3.30


def test_trailing_fields_are_kept_apart() -> None:
    point = parse_result_line(
        "step:2860/2900 val_loss:3.27837 train_time:2145.235s step_avg:750.08ms"
        " ema_beta:0 ref_gamma:-0.075 ref_step:2375"
    )
    assert isinstance(point, Validation)
    assert (point.step, point.total_steps) == (2860, 2900)
    assert point.extra_fields == ("ema_beta:0", "ref_gamma:-0.075", "ref_step:2375")


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "NaN", "1e3", "+2.5", ".5"])
def test_every_number_a_float_prints_is_read(text: str) -> None:
    point = parse_result_line(f"step:1/1 val_loss:{text} train_time:1ms step_avg:1.00ms")
    assert isinstance(point, Validation)
    assert point.loss_text == text
    assert point.loss_nats == float(text) or math.isnan(point.loss_nats)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "tailavg step:2740 tau:400 lambda:0.75 val_loss:3.28226",
        "captured_ref_extrap_state step:2375",
        "saved_checkpoint step:2000 path:x",
        "Warmup step 1/10",
        'print(f"step:{step}/{n} val_loss:{loss:.4f} train_time:{t}ms")',
        "step:1/2 val_loss:3.2.7 train_time:1ms",
        "step:1/2 val_loss:1_0 train_time:1ms",
        "step:1/2 val_loss:٣ train_time:1ms",
        "step:1/2 val_loss: train_time:1ms",
        "step:1/2 val_loss:3.2 train_time:1h",
        "step:1/2 val_ema_loss:3.2 train_time:1ms",
        "step:" + "9" * 5000 + "/2 val_loss:3.2 train_time:1ms",
        "step:-1/2 val_loss:3.2 train_time:1ms",
        "s:1 tel:x",
        " step:1/2 val_loss:3.2 train_time:1ms",
    ],
)
def test_what_is_no_result_line(line: str) -> None:
    assert parse_result_line(line) is None


def test_colours_and_carriage_returns_do_not_hide_a_line() -> None:
    assert parse_result_line("\x1b[32mstep:1/2 train_time:7ms step_avg:7.00ms\x1b[0m\r\n") == (
        TrainPoint(1, 7.0)
    )


@given(
    step=st.integers(0, 10**9),
    extra=st.integers(0, 10**9),
    loss=st.floats(0, 20),
    decimals=st.integers(4, 8),
    ms=st.integers(0, 10**9),
    seconds=st.booleans(),
)
def test_round_trip_of_a_printed_validation(
    step: int, extra: int, loss: float, decimals: int, ms: int, seconds: bool
) -> None:
    total, text = step + extra, f"{loss:.{decimals}f}"
    time = f"{ms // 1000}.{ms % 1000:03d}s" if seconds else f"{ms}ms"
    average = f"{ms / max(step, 1):.2f}"
    line = f"step:{step}/{total} val_loss:{text} train_time:{time} step_avg:{average}ms"
    point = parse_result_line(line)
    assert point == Validation(step, total, text, float(text), float(ms), float(average))
