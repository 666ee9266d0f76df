"""Numbers as text: never invented, never rounded onto the bound they are judged by."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.report import formats as fmt


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_unknown_values_print_as_a_dash(value: float | None) -> None:
    shown = [
        fmt.fixed(value, 2),
        fmt.signed(value, 2),
        fmt.nats(value),
        fmt.seconds(value),
        fmt.signed_seconds(value),
        fmt.headline_seconds(value),
        fmt.p_value(value),
        fmt.ratio(value),
        fmt.percent(value),
    ]
    assert set(shown) == {"–"}


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.0083, "0.00830"),
        (0.26, "0.260"),
        (0.999, "0.999"),
        (0.000453, "4.53e-04"),
        (1.36e-11, "1.36e-11"),
        (1e-300, "1.00e-300"),
        (0.0, "0"),
        (1.0, "1.00"),
    ],
)
def test_p_values(p: float, text: str) -> None:
    assert fmt.p_value(p) == text


def test_a_p_value_beside_its_bound_shows_its_side() -> None:
    assert fmt.p_value(0.0099996, 0.01) == "0.0099996"
    assert fmt.p_value(0.0100004, 0.01) == "0.0100004"
    assert fmt.p_value(0.01, 0.01) == "0.0100"


@given(
    st.floats(min_value=3.2, max_value=3.4, allow_nan=False),
    st.sampled_from([3.28, 2.92, 3.3]),
)
def test_a_loss_never_rounds_across_its_target(loss: float, target: float) -> None:
    loss = round(loss, 9)
    shown = float(fmt.nats(loss, bound=target))
    assert (shown < target) == (loss < target)
    assert (shown > target) == (loss > target)


@pytest.mark.parametrize(
    ("value", "text"),
    [(-1.5, "−1.50"), (0.0, "0.00"), (-0.0, "0.00"), (-0.001, "0.00"), (2.0, "2.00")],
)
def test_minus_is_a_minus_and_never_stands_before_zero(value: float, text: str) -> None:
    assert fmt.fixed(value, 2) == text


def test_seconds_signs_and_percent() -> None:
    assert fmt.seconds(4215.5) == "4.2155"
    assert fmt.signed_seconds(-1897.4) == "−1.8974"
    assert fmt.signed(0.00153, 5) == "+0.00153"
    assert fmt.headline_seconds(-1897.4) == "−1.90"
    assert fmt.headline_seconds(-64.0) == "−0.064"
    assert fmt.percent(-0.3104) == "−31.0 %"
    assert fmt.percent(-0.00594) == "−0.59 %"
    assert fmt.level(0.01) == "99 %"


def test_plain_numbers_read_back_the_same() -> None:
    for value in (3.28, 3.278436, 0.0031, 4210.0, 1e-9, math.inf):
        assert eval(fmt.plain(value)) == value
    assert math.isnan(eval(fmt.plain(math.nan)))


def test_lists_and_plurals() -> None:
    assert fmt.many(1, "run") == "1 run"
    assert fmt.many(5, "run") == "5 runs"
    assert fmt.listed(["a", "b"], 3) == "a, b"
    assert fmt.listed(["a", "b", "c", "d"], 2) == "a, b and 2 more"
