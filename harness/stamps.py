"""Result lines with the moment they arrived: the script's clock beside the harness's own.

The arrival is taken by the reading thread when the line came through the pipe (monotonic clock,
seconds since launch). It lags the print by well under a millisecond while the pipe is not full.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.logs import Validation, parse_result_line


@dataclass(frozen=True, slots=True)
class Stamp:
    """One result line.

    step        as printed
    train_ms    the script's own clock, ms
    arrival_s   the harness's clock, seconds since launch
    validates   True for a validation line, whose making lies outside the script's clock
    """

    step: int
    train_ms: float
    arrival_s: float
    validates: bool


def stamp_lines(lines: Iterable[str], arrivals_s: Sequence[float]) -> tuple[Stamp, ...]:
    """Stamps of all result lines that state a time.

    Raises ValueError when there are not as many arrivals as lines, or they run backwards.
    """
    stamps: list[Stamp] = []
    count = 0
    for count, (line, arrival) in enumerate(zip(lines, arrivals_s, strict=True), start=1):
        if not math.isfinite(arrival):
            raise ValueError(f"the arrival time of line {count} is not a number")
        if count > 1 and arrival < arrivals_s[count - 2]:
            raise ValueError(f"arrival times run backwards at line {count}")
        point = parse_result_line(line)
        if point is not None and point.train_ms is not None:
            stamps.append(Stamp(point.step, point.train_ms, arrival, isinstance(point, Validation)))
    return tuple(stamps)
