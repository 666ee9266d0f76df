"""One way to write JSON, one way to hash it."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.canonical import dumps, dumps_line, finite, sha256_file, sha256_text

scalars = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=20)
documents = st.recursive(
    scalars | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


@given(documents)
def test_both_forms_read_back_and_are_stable(value: object) -> None:
    for write in (dumps, dumps_line):
        text = write(value)
        assert json.loads(text) == value
        assert write(json.loads(text)) == text


@given(st.dictionaries(st.text(max_size=5), st.integers(), min_size=2))
def test_order_of_keys_does_not_matter(value: dict[str, int]) -> None:
    turned = dict(reversed(value.items()))
    assert dumps(turned) == dumps(value)
    assert dumps_line(turned) == dumps_line(value)


@given(documents)
def test_a_line_is_one_line(value: object) -> None:
    assert "\n" not in dumps_line(value)
    assert "\r" not in dumps_line(value)


def test_forms() -> None:
    assert dumps({"b": 1, "a": "≤"}) == '{\n  "a": "≤",\n  "b": 1\n}\n'
    assert dumps_line({"b": 1, "a": [1.5, None]}) == '{"a":[1.5,null],"b":1}'


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_json_is_refused(value: float) -> None:
    with pytest.raises(ValueError):
        dumps([value])
    with pytest.raises(ValueError):
        dumps_line({"x": value})
    assert finite(value) is None


def test_finite_keeps_ten_significant_digits() -> None:
    assert finite(None) is None
    assert finite(1 / 3) == 0.3333333333
    assert finite(123456.7890123456) == 123456.7890
    assert finite(1.23456e-300, 3) == 1.23e-300
    assert json.dumps(finite(-0.0)) == "0.0"
    assert json.dumps(finite(-1e-320, 2)) != "-0.0"


@given(st.floats(-1e300, 1e300).filter(lambda x: x == 0 or abs(x) > 1e-300))
def test_finite_moves_a_value_by_less_than_its_eleventh_digit(value: float) -> None:
    rounded = finite(value)
    assert rounded == pytest.approx(value, rel=1e-9, abs=0)
    assert finite(rounded) == rounded


def test_hashes_are_sha256(tmp_path: Path) -> None:
    data = "trüe ".encode() * 500_000
    path = tmp_path / "file"
    path.write_bytes(data)
    assert sha256_file(path) == hashlib.sha256(data).hexdigest()
    assert sha256_text("é") == hashlib.sha256("é".encode()).hexdigest()
