"""Numbers as text, the same in README.md and report.html.

A value that is unknown, NaN or infinite prints as a dash: a report never invents a number. A
value next to the bound it is judged by gets as many digits as it takes to see on which side it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

DASH = "–"
MINUS = "−"
LOSS_DECIMALS = 5
SECONDS_DECIMALS = 4
MOST_DECIMALS = 12


def known(value: float | None) -> bool:
    """Is there a number: not None, not NaN, not infinite?"""
    return value is not None and math.isfinite(value)


def fixed(value: float | None, decimals: int) -> str:
    """`decimals` places and a true minus sign; a dash for an unknown value."""
    if value is None or not math.isfinite(value):
        return DASH
    text = f"{value:.{decimals}f}"
    if text.startswith("-"):
        text = text[1:] if not text.strip("-0.") else MINUS + text[1:]
    return text


def signed(value: float | None, decimals: int) -> str:
    """As `fixed`, with a plus sign on positive values."""
    text = fixed(value, decimals)
    return text if value is None or text == DASH or value <= 0 else f"+{text}"


def beside(value: float | None, bound: float | None, decimals: int) -> str:
    """As `fixed`, with more places where rounding would hide on which side of `bound` it lies."""
    if value is None or not math.isfinite(value):
        return DASH
    if bound is not None and math.isfinite(bound) and value != bound:
        while decimals < MOST_DECIMALS and f"{value:.{decimals}f}" == f"{bound:.{decimals}f}":
            decimals += 1
    return fixed(value, decimals)


def nats(value: float | None, decimals: int = LOSS_DECIMALS, bound: float | None = None) -> str:
    """A loss; five places, one more than the field prints, so that a margin of .001 has two."""
    return beside(value, bound, decimals)


def seconds(ms: float | None, decimals: int = SECONDS_DECIMALS) -> str:
    """Milliseconds of the training clock as seconds, without the unit."""
    return fixed(None if ms is None else ms / 1000.0, decimals)


def signed_seconds(ms: float | None, decimals: int = SECONDS_DECIMALS) -> str:
    return signed(None if ms is None else ms / 1000.0, decimals)


def headline_seconds(ms: float | None) -> str:
    """A signed change for a title: two places, three where the change is under a tenth second."""
    if ms is None or not math.isfinite(ms):
        return DASH
    return signed(ms / 1000.0, 2 if abs(ms) >= 100.0 else 3)


def p_value(p: float | None, bound: float | None = None) -> str:
    """Three significant digits, more where rounding would hide on which side of `bound` it lies."""
    if p is None or not math.isfinite(p):
        return DASH
    if p == 0.0:
        return "0"
    digits = 3
    if bound is not None and bound > 0 and p != bound:
        while digits < MOST_DECIMALS and f"{p:.{digits - 1}e}" == f"{bound:.{digits - 1}e}":
            digits += 1
    if p >= 0.001:
        return f"{p:.{digits - 1 - math.floor(math.log10(p))}f}"
    mantissa, exponent = f"{p:.{digits - 1}e}".split("e")
    return f"{mantissa}e{int(exponent):03d}"


def ratio(value: float | None) -> str:
    """A ratio of times: four places, more where it rounds to 1."""
    return beside(value, 1.0, 4)


def percent(share: float | None) -> str:
    """A signed change, e.g. −31.0 %; two places below one per cent, where records live."""
    if share is None or not math.isfinite(share):
        return DASH
    return f"{signed(100 * share, 1 if abs(share) >= 0.01 else 2)} %"


def level(alpha: float) -> str:
    """Confidence level of a one-sided bound at `alpha`, e.g. 99 %."""
    return f"{100 * (1 - alpha):.6g} %"


def plain(value: float) -> str:
    """A number as written in a log or a rule: shortest Python that reads back the same."""
    if not math.isfinite(value):
        return f'float("{value}")'
    return repr(round(value)) if value == round(value) and abs(value) < 1e15 else repr(value)


def count(number: int | None) -> str:
    return DASH if number is None else str(number)


def many(number: int, noun: str) -> str:
    """`1 run`, `5 runs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(items: Sequence[str], most: int = 4) -> str:
    """`a, b, c and 2 more`."""
    shown = ", ".join(items[:most])
    rest = len(items) - most
    return shown if rest <= 0 else f"{shown} and {rest} more"


def difference(left: float | None, right: float | None) -> float | None:
    """left − right, None where one is unknown."""
    return None if left is None or right is None else left - right
