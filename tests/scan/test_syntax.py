"""Text that nobody vouches for: refused with a reason and a line, in little time and memory."""

from __future__ import annotations

import time

import pytest

from harness.scan.syntax import MAX_TOKENS, UnparsableError, parse_script

HOSTILE = {
    "brackets": "(" * 5000 + ")" * 5000,
    "minus signs": "-" * 100_000 + "1",
    "sum": "1" + "+1" * 50_000,
    "attributes": "a" + ".b" * 20_000,
    "lambdas": "lambda:" * 5000 + "1",
    "lists": "x = " + "[" * 180 + "]" * 180,
    "elif": "if a: pass\n" + "elif b: pass\n" * 40_000,
    "quotes": "'\\" * 500_000,
    "statements": "x = 1\n" * 300_000,
    "NUL": "x = 1\n\0",
    "surrogate": "x = '\ud800'",
    "half an escape": "x = '\\x'",
    "indents": "".join(" " * i + "if x:\n" for i in range(120)) + " " * 120 + "pass\n",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_is_refused_quickly(text: str) -> None:
    started = time.process_time()
    with pytest.raises(UnparsableError) as refused:
        parse_script(text)
    assert refused.value.why
    assert time.process_time() - started < 2


def test_reason_and_line() -> None:
    with pytest.raises(UnparsableError) as refused:
        parse_script("x = 1\ny = (\n")
    assert refused.value.line == 2
    assert refused.value.why.startswith("'(' was never closed")
    with pytest.raises(UnparsableError) as refused:
        parse_script("x = 1\ny = 2\0\n")
    assert (refused.value.line, "NUL" in refused.value.why) == (2, True)
    with pytest.raises(UnparsableError, match=f"{MAX_TOKENS:,}"):
        parse_script(HOSTILE["statements"])


def test_long_strings_and_long_chains_of_elif_are_no_harm() -> None:
    parse_script("BLOB = '" + "a" * 7_000_000 + "'")
    parse_script("if a:\n    pass\n" + "elif b:\n    pass\n" * 200)


def test_wrong_escapes_do_not_warn() -> None:
    parse_script(r"x = '\d'")
