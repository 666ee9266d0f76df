"""A finding: one place in a source, the rule it concerns, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["fail", "warn", "note"]
ORDER: dict[Severity, int] = {"fail": 0, "warn": 1, "note": 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """One statement about one place.

    path      file, relative to the script's folder
    line      1-based; 0 where the finding concerns the whole file
    column    1-based; 0 where unknown
    rule      short id: compile-kwarg, config-write, environment, clock, …
    what      what stands there
    why       why it matters
    remedy    what to do about it
    severity  fail: a rule is certainly broken; warn: cannot be analysed, or odd; note: a reviewer
              should know, and honest scripts do it too
    """

    path: str
    line: int
    column: int
    rule: str
    what: str
    why: str
    remedy: str
    severity: Severity

    @property
    def place(self) -> str:
        """`file:line`, or the file alone."""
        return f"{self.path}:{self.line}" if self.line else self.path

    def text(self) -> str:
        """One line: place, what, why."""
        return f"{self.place}: {self.what} ({self.why})"


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Without repeats, worst first, then by place."""
    unique = {(f.path, f.line, f.column, f.rule, f.what): f for f in findings}
    return tuple(
        sorted(
            unique.values(),
            key=lambda f: (ORDER[f.severity], f.path, f.line, f.column, f.rule, f.what),
        )
    )


def excerpt(text: str, limit: int = 60) -> str:
    """One line of at most `limit` characters, for showing a piece of code in a sentence.

    What stays out of a message can do no harm there: only printable characters are kept as they
    are, all others are escaped.
    """
    flat = " ".join(text[: 4 * limit].split())
    safe = "".join(c if c.isprintable() else repr(c)[1:-1] for c in flat)
    return safe if len(safe) <= limit else safe[: limit - 1] + "…"
