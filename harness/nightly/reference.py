"""What a reference workload printed -> one figure, and its parts. Pure."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass

from harness.logs import parse_result_line

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
MOST_PARTS = 20


@dataclass(frozen=True, slots=True)
class ReferenceFigure:
    """time_ms is the geometric mean of the parts, so that none weighs more for being longer."""

    time_ms: float
    parts_ms: dict[str, float]


def parse_reference(text: str) -> ReferenceFigure | None:
    """The figure in a reference's output; None if it printed none.

    Its last line with a JSON object that has `parts_ms` (name -> milliseconds), or else the
    training time in its last result line of the contract.
    """
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            parts = _parts(line)
            if parts:
                mean = math.fsum(math.log(ms) for ms in parts.values()) / len(parts)
                return ReferenceFigure(math.exp(mean), parts)
        point = parse_result_line(line)
        if point is not None and point.train_ms is not None and _usable(point.train_ms):
            return ReferenceFigure(point.train_ms, {})
    return None


def _parts(line: str) -> dict[str, float]:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    parts = document.get("parts_ms") if isinstance(document, dict) else None
    if not isinstance(parts, dict) or not 1 <= len(parts) <= MOST_PARTS:
        return {}
    if not all(_NAME.fullmatch(str(name)) and _usable(ms) for name, ms in parts.items()):
        return {}
    return {str(name): float(ms) for name, ms in parts.items()}


def _usable(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 1e-6 < value < 1e9
