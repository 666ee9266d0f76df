"""What every fuzz target is: one function of bytes, and inputs to start from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SHARED_LOGS = Path(__file__).resolve().parents[3] / "shared" / "logs"
FIXTURE_LOGS = Path(__file__).resolve().parents[1] / "fixtures" / "logs"


@dataclass(frozen=True, slots=True)
class Target:
    """A reader under any input at all.

    one_input   reads the bytes; raises AssertionError or anything unforeseen where the reader
                breaks its promise, and nothing where it refuses them with a SpeedrunError
    seeds       name -> bytes: inputs that reach deep into the reader
    """

    one_input: Callable[[bytes], None]
    seeds: dict[str, bytes]


def real_logs() -> list[Path]:
    """Log files to start from: the project's fixtures, and real ones where they are at hand."""
    return [
        path
        for folder in (FIXTURE_LOGS, SHARED_LOGS)
        if folder.is_dir()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in (".txt", ".log", ".out")
    ]
