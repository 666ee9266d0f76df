"""Text of a log -> RunLog, for every format the field has used (log_families.py).

Parsing is pure and streams: `parse_log` takes lines from anywhere, `read_log` a bounded file. The
pieces lie beside it: one line (log_lines.py), the environment block (log_environment.py), lines to
runs (log_splitter.py), a whole text (log_parser.py), the file (log_file.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Final

from harness.errors import LogError
from harness.log_environment import LogEnvironment
from harness.log_families import describe_family
from harness.log_file import DEFAULT_MAX_BYTES, LogFile, line_too_long
from harness.log_lines import TrainPoint, Validation, parse_result_line
from harness.log_parser import LogParser
from harness.log_run import RunLog

__all__ = [
    "LogEnvironment",
    "RunLog",
    "TrainPoint",
    "Validation",
    "describe_family",
    "parse_log",
    "parse_result_line",
    "read_log",
]

MAX_LINE_CHARS: Final = 262_144


def parse_log(lines: Iterable[str], *, max_chars: int = DEFAULT_MAX_BYTES) -> tuple[RunLog, ...]:
    """The runs in the lines of a log, with or without their line ends.

    Raises LogError if no result line is among them, on NUL characters, on a line of more than
    262,144 characters, and beyond `max_chars` characters or 200,000 result lines.
    """
    parser = LogParser()
    source = iter(lines)
    chars = 0
    while batch := [line.rstrip("\r\n") for line in islice(source, 2_048)]:
        chars += sum(map(len, batch)) + len(batch)
        if max(map(len, batch)) > MAX_LINE_CHARS:
            raise line_too_long(MAX_LINE_CHARS)
        if chars > max_chars:
            raise LogError(
                f"the log is longer than {max_chars:,} characters",
                why="logs of single runs have 0.01 to 0.3 million",
                fix="split the file, or cut what is not the run's own output",
            )
        parser.feed("\n".join(batch) + "\n")
    return parser.finish()


def read_log(path: Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> tuple[RunLog, ...]:
    """The runs in a log file; streams it in bounded memory.

    Raises LogError, naming the file, for whatever `parse_log` refuses and for what is no regular
    file, unreadable, empty, compressed, UTF-16 or larger than `max_bytes`. Follows symbolic links:
    whether to is the caller's decision.
    """
    parser = LogParser()
    try:
        text = LogFile(path, max_bytes=max_bytes, max_line_chars=MAX_LINE_CHARS)
        for block in text.blocks():
            parser.feed(block)
        runs = parser.finish()
    except LogError as error:
        error.where = f"{path}, {error.where}" if error.where else str(path)
        raise
    if not text.notes:
        return runs
    return tuple(replace(run, notes=(*run.notes, *text.notes)) for run in runs)
