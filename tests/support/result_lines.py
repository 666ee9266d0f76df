"""Result lines as scripts print them, and shorthands for tests of what reads them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from harness.logs import RunLog, parse_log

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "logs"
SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "logs"
SEPARATOR = "=" * 100


def one(lines: Iterable[str]) -> RunLog:
    """The only run in these lines."""
    (run,) = parse_log(lines)
    return run


def codes(run: RunLog) -> set[str]:
    """Codes of its notes."""
    return {note.partition(":")[0] for note in run.notes}


def val(step: int, loss: str, ms: int, total: int = 100) -> str:
    return f"step:{step}/{total} val_loss:{loss} train_time:{ms}ms step_avg:1.00ms"


def train(step: int, ms: int, total: int = 100) -> str:
    return f"step:{step}/{total} train_time:{ms}ms step_avg:1.00ms"


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
