"""Did the runs of one arm execute the same program? Compared from the sources in their logs.

Byte equality is too strict: authors mend comments between runs, and one pasted each run's id into a
string. So three levels are told apart: the same text, the same program (syntax tree without
comments, docstrings and formatting), and the same program but for string constants. Beyond that the
arm pools different programs in one p-value, which has happened (2025-12-29, 7 runs of 3 programs).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

from harness.log_run import RunLog

MAX_PARSED_CHARS = 2_000_000

_STRING = re.compile(r"Constant\(value=(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")")


@dataclass(frozen=True, slots=True)
class SourceSurvey:
    """How many different sources a set of logs embeds.

    logs, with_source  logs looked at, and those that embed a source
    texts              distinct byte for byte
    programs           distinct after comments, docstrings and formatting are ignored
    without_strings    distinct after string constants are ignored too
    """

    logs: int
    with_source: int
    texts: int
    programs: int
    without_strings: int

    def describe(self) -> str | None:
        """A sentence where the sources differ or are missing; None for one source in every log."""
        if self.with_source == 0:
            return "no log embeds its source"
        missing = self.logs - self.with_source
        lack = f"; {missing} of {self.logs} logs embed none" if missing else ""
        if self.without_strings > 1:
            return f"{self.without_strings} different programs in one arm{lack}"
        if self.programs > 1:
            return f"{self.programs} sources that differ in string constants only{lack}"
        if self.texts > 1:
            return f"{self.texts} sources that differ in comments or formatting only{lack}"
        return lack[2:] or None


class SourceForms:
    """Normal forms of sources, computed once for each distinct text."""

    def __init__(self) -> None:
        self._forms: dict[str, tuple[str, str]] = {}

    def survey(self, logs: Iterable[RunLog]) -> SourceSurvey:
        logs = list(logs)
        shas = {log.source_sha256 for log in logs if log.source_sha256 is not None}
        forms = {self._form(log) for log in logs if log.source_sha256 is not None}
        return SourceSurvey(
            logs=len(logs),
            with_source=sum(log.source_sha256 is not None for log in logs),
            texts=len(shas),
            programs=len({program for program, _ in forms}),
            without_strings=len({bare for _, bare in forms}),
        )

    def _form(self, log: RunLog) -> tuple[str, str]:
        sha = log.source_sha256 or ""
        if sha not in self._forms:
            self._forms[sha] = _normal_forms(log.source or sha)
        return self._forms[sha]


def _normal_forms(text: str) -> tuple[str, str]:
    """Hashes of the program, with and without its string constants; of the text if unparsable."""
    from harness.canonical import sha256_text
    from harness.source import normal_form

    program = text
    if len(text) <= MAX_PARSED_CHARS:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a log's "\d" is not ours to complain about
                program = normal_form(text)
        except (RecursionError, MemoryError):
            program = text
    bare = _STRING.sub("Constant(value=str", program)
    return sha256_text(program), sha256_text(bare)
