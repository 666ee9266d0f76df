"""The honest mini trainer with pieces of its text replaced: audited, or its scorer asked.

The frame that exploits of the audit share; what is left in a test is the cheat and what is found.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.audit_report import AuditReport
from harness.checks.check import Check
from tests.support.audited import (
    VAL_TOKENS,
    ask_scorer,
    cheat,
    judged,
    leaks,
    run_audit,
    without_scorer,
)

Replaced = tuple[str, str]


class Bench:
    """Each call works in a folder of its own.

    honest   gives the audit of the honest trainer; called only where a scorer is asked
    """

    def __init__(self, folder: Path, data: Path, honest: Callable[[], AuditReport]) -> None:
        self.folder = folder
        self.data = data
        self._honest = honest
        self._calls = 0

    def _next(self) -> Path:
        self._calls += 1
        return self.folder / f"call{self._calls}"

    def audited(self, *replaced: Replaced, scorer: bool = False, **job: Any) -> dict[str, Check]:
        """The audit's checks of the trainer, (text before, text after) replaced.

        `scorer` lets it offer one, and its weights are scored again (twice the time).
        """
        text = cheat(*replaced)
        text = text if scorer else without_scorer(text)
        return judged(text, run_audit(text, self._next(), self.data, **job), self.data)

    def asked(self, *replaced: Replaced, targets: int = VAL_TOKENS) -> Check:
        """The leak check of a trainer's scorer, its weights drawn at random."""
        text = cheat(*replaced)
        facts = ask_scorer(text, self._next(), self.data, targets=targets)
        assert facts.status == "scored", facts.detail
        return leaks(text, facts, self._honest(), self.data)
