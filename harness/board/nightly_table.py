"""`results/nightly/<track>.csv` as the board reads it: one row a run of a night.

Columns that must be there: utc (ISO), kind (record or reference), train_ms, hardware_class,
source_sha256; others are passed over. Rows may come in any order.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import exp, isfinite, log
from typing import Literal

from harness.errors import UsageError

REQUIRED = ("utc", "kind", "train_ms", "hardware_class", "source_sha256")
NightKind = Literal["record", "reference"]


@dataclass(frozen=True, slots=True)
class NightlyRun:
    """One timed run of a night. `train_ms` is of the training clock."""

    utc: datetime
    kind: NightKind
    train_ms: float
    hardware_class: str
    source_sha256: str


@dataclass(frozen=True, slots=True)
class Night:
    """All runs of one kind in one night, as their geometric mean."""

    day: int
    train_ms: float
    runs: int
    source_sha256: str


def read_nightly(text: str, where: str) -> tuple[NightlyRun, ...]:
    """Rows of the table, oldest first. Pure. Raises UsageError naming the line at fault."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    runs: list[NightlyRun] = []
    try:
        lacking = [name for name in REQUIRED if name not in (reader.fieldnames or ())]
        if lacking:
            raise ValueError(f"the header lacks {', '.join(lacking)}")
        for row in reader:
            if row["kind"] in ("record", "reference") and row["train_ms"]:
                runs.append(_run(row))
    except (ValueError, csv.Error, TypeError) as error:
        raise UsageError(
            "a nightly table breaks its form",
            where=f"{where}:{reader.line_num}",
            why=str(error),
            fix=f"columns {', '.join(REQUIRED)}; speedrun retime writes it",
        ) from None
    return tuple(sorted(runs, key=lambda run: run.utc))


def _run(row: dict[str, str]) -> NightlyRun:
    utc = datetime.fromisoformat(row["utc"])
    train_ms = float(row["train_ms"])
    if not (isfinite(train_ms) and train_ms > 0):
        raise ValueError(f"train_ms {row['train_ms']!r} is no positive number")
    return NightlyRun(
        utc=utc.astimezone(UTC) if utc.tzinfo else utc.replace(tzinfo=UTC),
        kind="record" if row["kind"] == "record" else "reference",
        train_ms=train_ms,
        hardware_class=row["hardware_class"] or "unknown",
        source_sha256=row["source_sha256"],
    )


def nights(runs: Sequence[NightlyRun], kind: NightKind) -> tuple[Night, ...]:
    """The runs of one kind by day (ordinal, UTC)."""
    by_day: dict[tuple[int, str], list[NightlyRun]] = {}
    for run in runs:
        if run.kind == kind:
            by_day.setdefault((run.utc.toordinal(), run.source_sha256), []).append(run)
    return tuple(
        Night(
            day=day,
            train_ms=exp(sum(log(run.train_ms) for run in group) / len(group)),
            runs=len(group),
            source_sha256=source,
        )
        for (day, source), group in sorted(by_day.items())
    )
