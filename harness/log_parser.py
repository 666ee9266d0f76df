"""Blocks of a log's text to RunLogs: where the source ends, what each line is, what the file was.

Where the results begin. Logs of records start with the script that wrote them, which contains the
words of every result line. Results are read after the last line of exactly 100 `=` that is followed
by `Running Py…`; without one, after the last line of 100 `=` that has no result above it; without
one, from the top.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from harness.errors import LogError
from harness.log_environment import LogEnvironment, parse_environment
from harness.log_families import END_MARKED, FamilyTraits, classify
from harness.log_lines import (
    ANSI_ESCAPE,
    Validation,
    milliseconds,
    parse_result_line,
    plain_validations,
    split_train_lines,
)
from harness.log_run import RunLog
from harness.log_splitter import RunDraft, RunSplitter

SEPARATOR: Final = "=" * 100
MAX_SOURCE_CHARS: Final = 4 << 20  # the longest embedded source of the field has 0.2 million
MAX_HEAD_LINES: Final = 4_096
MAX_VALIDATIONS: Final = 50_000  # the longest real log has 446 a run, 1,080 a file
MANY_CHARS: Final = 1_024  # some ten validation lines, worth trying to read at once
MAX_TRAIN_POINTS: Final = 200_000  # the longest real log has 20,344

_HEADERS: Final = frozenset({"==", "pe", "tr", "co", "Us"})
_PEAK = re.compile(r"peak memory (?:consumption|allocated): (\d{1,9}) MiB(?: reserved: (\d{1,9}))?")
_TRIAL = re.compile(r"trial:(\d{1,6}/\d{1,6})(?:\s+seed:(\d{1,18}))?")
_WRAPPER = re.compile(r"=== seed (\d{1,18}) (?:start|exit_status=(\d{1,6}) end)\b")
_SEED = re.compile(r"Using seed=(\d{1,18})\s*\Z")
_CONFIG = re.compile(r"config \w+=")
_IN_SECONDS = re.compile(r" train_time:[0-9.]+s(?:\s|$)")
_PYTHON = re.compile(r"^(?:import|from) \w", re.MULTILINE)


class LogParser:
    """State while the blocks of one log pass by; a block is whole lines, each with its newline."""

    def __init__(self) -> None:
        self._runs = RunSplitter()
        self._traits = FamilyTraits()
        self._head: list[str] = []
        self._read: list[str] | None = []
        self._read_chars = 0
        self._source: str | None = None
        self._started = False
        self._after_separator = False
        self._units: set[str] = set()
        self._notes: dict[str, str] = {}
        self._line_number = 0
        self._block = ""
        self._block_line = 0
        self._untimed = ""
        self._validations = 0
        self._train_points = 0

    def feed(self, block: str) -> None:
        if "\0" in block:
            raise LogError(
                "the file is binary, not a log",
                where=f"after line {self._line_number}",
                why="it contains NUL bytes",
                fix="give the text that the script printed or wrote to logs/<id>.txt",
            )
        if "\r" in block:
            block = block.replace("\r\n", "\n").replace("\r", "\n")
        kept = block
        if "\x1b" in block:
            block = ANSI_ESCAPE.sub("", block)
            self._note("ansi", "terminal escape sequences removed")
        self._block, self._block_line = kept, self._line_number
        parts = split_train_lines("\n" + block[:-1])
        if len(parts) == 1:
            self._lines(parts[0])
        else:
            self._train_lines(parts, block)
        self._keep(kept)
        if self._train_points > MAX_TRAIN_POINTS or self._validations > MAX_VALIDATIONS:
            raise LogError(
                "the log has too many result lines",
                where=f"before line {self._line_number}",
                why=f"more than {MAX_TRAIN_POINTS:,} steps or {MAX_VALIDATIONS:,} validations",
                fix="split the file into its runs",
            )

    def _train_lines(self, parts: list[str], block: str) -> None:
        """Text and training lines by turns, as `split_train_lines` cuts them."""
        texts, totals, units = parts[::5], parts[2::5], parts[4::5]
        steps = list(map(int, parts[1::5]))
        if set(units) == {"ms"}:
            times_ms = list(map(float, parts[3::5]))
        else:
            times_ms = list(map(milliseconds, parts[3::5], units))
        # A stretch ends where other text stands between two lines, or total or unit change.
        borders = {i for i, text in enumerate(texts) if text} | {len(steps)}
        if len(set(totals)) > 1 or len(set(units)) > 1:
            kinds = list(zip(totals, units, strict=True))
            borders |= {i for i in range(1, len(kinds)) if kinds[i] != kinds[i - 1]}
        start = 0
        for border in sorted(borders):
            if start < border:
                self._runs.train(steps[start:border], times_ms[start:border], int(totals[start]))
                self._units.add(units[start])
                self._line_number += border - start
                self._train_points += border - start
                if not self._traits.train_lines:
                    self._started = self._traits.train_lines = True
                    first = f"step:{parts[5 * start + 1]}/{totals[start]} train_loss:"
                    self._traits.train_loss = first in block
                start = border
            if texts[border]:
                self._lines(texts[border])

    def _lines(self, text: str) -> None:
        """Lines that are no plain training lines; `text` is a newline before each."""
        if len(text) > MANY_CHARS and (points := plain_validations(text)) is not None:
            self._started = True
            self._units.add("ms")
            self._validations += len(points)
            self._line_number += len(points)
            self._runs.validations(points)
            return
        lines = text.split("\n")
        del lines[0]
        for index, line in enumerate(lines):
            kind = line[:2]
            if kind == "s:":
                if " trl:" in line:
                    self._untimed = line
                else:
                    self._llmc(line)
            elif kind == "st":
                self._result(line)
            else:
                after_separator, self._after_separator = self._after_separator, False
                if kind == "==" and line == SEPARATOR:
                    self._separator(self._line_number + index)
                elif after_separator and line.startswith(("Running py", "Running Py")):
                    self._environment_begins(self._line_number + index)
                elif kind in _HEADERS:
                    self._header(line)
                if not self._started and len(self._head) < MAX_HEAD_LINES:
                    self._head.append(line)
        self._line_number += len(lines)

    def finish(self) -> tuple[RunLog, ...]:
        self._untimed_step()
        drafts = self._runs.finish()
        if not drafts:
            raise self._no_result()
        traits = self._traits
        traits.seconds = "s" in self._units
        traits.time_reset = any(draft.time_reset for draft in drafts)
        environment = parse_environment(self._head, block=traits.environment)
        family = classify(traits, self._head)
        if not traits.environment:
            self._note("no-environment", "the log has no environment block")
        if environment.gpu_busy:
            busy = ", ".join(map(str, environment.gpu_busy))
            self._note("busy-gpus", f"in use before the start: GPU {busy}")
        if len(self._units) > 1:
            self._note("mixed-units", "train_time is printed in ms and in s")
        source_sha256 = None
        if self._source is not None:
            encoded = self._source.encode("utf-8", errors="surrogatepass")
            source_sha256 = hashlib.sha256(encoded).hexdigest()
        wants_end = family in END_MARKED and environment.gpu is not None
        runs: list[RunLog] = []
        for index, draft in enumerate(drafts):
            if wants_end and draft.peak_alloc_mib is None:
                draft.gaps.append("no `peak memory` line at the end")
            runs.append(self._run_log(draft, family, environment, source_sha256, index))
        return tuple(runs)

    def _run_log(
        self,
        draft: RunDraft,
        family: str,
        environment: LogEnvironment,
        source_sha256: str | None,
        index: int,
    ) -> RunLog:
        return RunLog(
            family=family,
            validations=tuple(draft.validations),
            train_points=draft.points(),
            total_steps=draft.largest_total,
            environment=environment,
            source=self._source,
            source_sha256=source_sha256,
            peak_alloc_mib=draft.peak_alloc_mib,
            peak_reserved_mib=draft.peak_reserved_mib,
            complete=not draft.gaps,
            notes=(*draft.notes.values(), *self._notes.values()),
            run_index=index,
            gaps=tuple(draft.gaps),
            trial=draft.trial,
            seed=draft.seed,
        )

    def _no_result(self) -> LogError:
        text = "".join(self._read or [])
        if not text.strip():
            return LogError("the log is empty", fix="was the run started? did the disk fill up?")
        why = f"none of {self._line_number:,} lines is `step:i/n val_loss:… train_time:…ms`"
        if re.search(r"\bstep:\d+/\d+ val_loss:\d", text):
            why += "; some contain it, but do not begin with it"
        return LogError(
            "the file is no run log",
            why=why,
            fix="give what rank 0 printed, or the logs/<id>.txt it wrote, without prefixes",
        )

    def _note(self, code: str, text: str) -> None:
        self._notes.setdefault(code, f"{code}: {text}")

    def _keep(self, block: str) -> None:
        """Hold what was read, in case a later line shows that it was the embedded source."""
        if self._read is None:
            return
        self._read_chars += len(block)
        if self._read_chars > MAX_SOURCE_CHARS:
            self._read = None
        else:
            self._read.append(block)

    def _text_above(self, line_number: int) -> str | None:
        """Everything above a line of the current block, less the separators at both ends."""
        if self._read is None:
            self._note("source-dropped", f"more than {MAX_SOURCE_CHARS:,} characters of source")
            return None
        lines = self._block.split("\n")[: line_number - self._block_line]
        text = "".join([*self._read, *(line + "\n" for line in lines)])
        text = text.removesuffix(SEPARATOR + "\n")
        leading = text.startswith(SEPARATOR + "\n")
        text = text.removeprefix(SEPARATOR + "\n")
        if not leading and text.endswith("\n\n"):
            text = text[:-1]  # print() added one
        return text if text.strip() else None

    def _result(self, line: str) -> None:
        result = parse_result_line(line)
        if isinstance(result, Validation):
            self._started = True
            self._validations += 1
            if result.train_ms is not None:
                self._units.add(_unit(line))
            if result.extra_fields or result.other_losses:
                self._traits.extra_fields = True
            self._runs.validation(result)
        elif result is not None:
            # A training line with fields of its own: rare, so it may take the long way.
            self._started = self._traits.train_lines = True
            self._train_points += 1
            self._units.add(_unit(line))
            total = line[line.index("/") + 1 :].split(maxsplit=1)[0]
            self._runs.train([result.step], [result.train_ms], int(total))
        elif line.startswith("step:") and "val_loss:" in line:
            self._note("unreadable", f"a validation line cannot be read: {line[:80]!r}")

    def _llmc(self, line: str) -> None:
        result = parse_result_line(line)
        if isinstance(result, Validation) and (self._traits.llmc or not self._started):
            self._untimed_step()
            self._started = self._traits.llmc = True
            self._validations += 1
            self._runs.validation(result)

    def _untimed_step(self) -> None:
        """Tell the splitter of the last `s:9535 trl:3.340180` line above."""
        step, trl, _ = self._untimed[2:].partition(" trl:")
        if self._traits.llmc and trl and step.isascii() and step.isdigit() and len(step) < 13:
            self._runs.untimed_step(int(step))
        self._untimed = ""

    def _header(self, line: str) -> None:
        """A line that tells of the run before or after it: trial, seed, memory, exit status."""
        runs = self._runs
        if (trial := _TRIAL.match(line)) is not None:
            self._traits.trial_header = True
            runs.header(trial=trial[1], seed=int(trial[2]) if trial[2] else None)
        elif (wrapper := _WRAPPER.match(line)) is not None:
            if wrapper[2] is None:
                runs.header(seed=int(wrapper[1]))
            elif runs.current.started:
                runs.current.exit_status = int(wrapper[2])
        elif (seed := _SEED.match(line)) is not None:
            runs.seed(int(seed[1]))
        elif (peak := _PEAK.match(line)) is not None and runs.current.started:
            runs.current.peak_alloc_mib = int(peak[1])
            runs.current.peak_reserved_mib = int(peak[2]) if peak[2] else None
        elif _CONFIG.match(line) is not None:
            self._traits.trial_header = True

    def _separator(self, line_number: int) -> None:
        """A line of 100 `=`: until results or an environment block, the source may end here."""
        self._after_separator = True
        if self._started or self._traits.environment:
            return
        self._traits.separator = True
        self._head.clear()
        text = self._text_above(line_number)
        self._source = text if text is not None and _PYTHON.search(text) else None

    def _environment_begins(self, line_number: int) -> None:
        discarded = self._runs.result_lines
        if discarded:
            self._note(
                "early-block",
                f"{discarded} result lines above the last environment block are not counted",
            )
        self._source = self._text_above(line_number)
        self._runs = RunSplitter()
        self._traits = FamilyTraits(separator=True, environment=True)
        self._units.clear()
        self._head.clear()
        self._started = False
        self._validations = self._train_points = 0


def _unit(line: str) -> str:
    return "s" if "ms step_avg:" not in line and _IN_SECONDS.search(line) else "ms"
