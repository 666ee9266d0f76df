"""The world-record tables: `results/history/<track>.csv`, one row a record, oldest first.

Columns: record (number), minutes (on 8 H100s), date (ISO, may be empty), note, contributors, and on
the small track kind (ML, SYS, ENV: what the record changed) and steps as the field states them.
A row that repeats a number is a re-timing of that record, not a new one.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from itertools import pairwise
from math import isfinite, log
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError

if TYPE_CHECKING:
    import pandas

REQUIRED = ("record", "minutes", "date", "note", "contributors")
OPTIONAL = ("kind", "steps")
TABLES = "results/history"


@dataclass(frozen=True, slots=True)
class RecordRow:
    """One line of the table. `steps` is text: some filed logs and merged programs differ."""

    record: int
    minutes: float
    date: date | None
    kind: str
    steps: str
    note: str
    contributors: str
    retiming: bool

    @property
    def time(self) -> str:
        """The time as the field writes it: hours from 100 minutes on, seconds below 2 minutes."""
        if self.minutes >= 100:
            return f"{self.minutes / 60:.1f} h"
        if self.minutes < 2:
            return f"{self.minutes * 60:.1f} s"
        return f"{self.minutes:.3f}".rstrip("0").rstrip(".") + " min"


def table_path(track: str) -> Path:
    """The table of a track, in the repository here, above, or where the package lies.

    Raises UsageError where there is none.
    """
    from harness.places import repository

    root = repository()
    folder = (root or Path(__file__).resolve().parent.parent) / TABLES
    path = folder / f"{track}.csv"
    if re.fullmatch(r"[\w-]+", track) and path.is_file():
        return path
    there = sorted(found.stem for found in folder.glob("*.csv")) if folder.is_dir() else []
    raise UsageError(
        f"no world-record table for track {track!r}",
        where=str(path),
        why=f"tables are kept for: {', '.join(there)}" if there else "the tables are not here",
        fix=f"--track {there[0]}" if there else "use a clone of the repository, or --file PATH",
    )


def read_table(path: Path) -> tuple[RecordRow, ...]:
    """Rows of a table file; raises UsageError naming the line at fault."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            "a record table cannot be read",
            where=str(path),
            why=getattr(error, "strerror", None) or "it is not UTF-8 text",
            fix="name a CSV file",
        ) from None
    return parse_table(text, str(path))


def parse_table(text: str, where: str) -> tuple[RecordRow, ...]:
    """Rows from CSV text. Pure. Raises UsageError naming the line at fault."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[RecordRow] = []
    line = 1
    try:
        header = next(reader, [])
        lacking = [name for name in REQUIRED if name not in header]
        if lacking:
            raise ValueError(f"the header lacks {', '.join(lacking)}")
        unknown = [name for name in header if name not in (*REQUIRED, *OPTIONAL)]
        if unknown or len(set(header)) != len(header):
            raise ValueError(f"columns unknown or twice: {', '.join(unknown or header)}")
        line = reader.line_num + 1
        for cells in reader:
            if cells:
                rows.append(_row(header, cells, rows[-1] if rows else None))
            line = reader.line_num + 1
        if not rows:
            raise ValueError("there is no row below the header")
    except (ValueError, csv.Error) as error:
        raise UsageError(
            "a record table breaks its form",
            where=f"{where}:{line}",
            why=str(error),
            fix=f"columns {', '.join(REQUIRED)} (and {', '.join(OPTIONAL)}), numbers rising, "
            "dates as YYYY-MM-DD",
        ) from None
    return tuple(rows)


def _row(header: list[str], cells: list[str], previous: RecordRow | None) -> RecordRow:
    if len(cells) != len(header):
        raise ValueError(f"{len(cells)} cells under {len(header)} columns")
    row = {"kind": "", "steps": "", **dict(zip(header, cells, strict=True))}
    if not re.fullmatch(r"[1-9]\d{0,5}", row["record"]):
        raise ValueError(f"record {row['record']!r} is no number")
    record = int(row["record"])
    expected = 1 if previous is None else previous.record + 1
    if record not in (expected, expected - 1) or record == 0:
        raise ValueError(f"record {record} follows {expected - 1}")
    if not re.fullmatch(r"\d+(\.\d+)?", row["minutes"]) or not 0 < float(row["minutes"]) < 1e6:
        raise ValueError(f"minutes {row['minutes']!r} is no positive number")
    day = None
    if row["date"]:
        try:
            day = date.fromisoformat(row["date"])
        except ValueError:
            raise ValueError(f"date {row['date']!r} is no YYYY-MM-DD") from None
    if previous is not None and day and previous.date and day < previous.date:
        raise ValueError(f"date {day} is before {previous.date} of the row above")
    return RecordRow(
        record=record,
        minutes=float(row["minutes"]),
        date=day,
        kind=row["kind"],
        steps=row["steps"],
        note=row["note"],
        contributors=row["contributors"],
        retiming=previous is not None and record == previous.record,
    )


def gains(rows: Sequence[RecordRow]) -> tuple[float | None, ...]:
    """Change of each row's time to the row before, as a fraction (-0.05: 5 % less); None first."""
    return (None, *(after.minutes / before.minutes - 1 for before, after in pairwise(rows)))


def dated_days(rows: Sequence[RecordRow]) -> tuple[float, ...]:
    """Day number (proleptic Gregorian) of each row; a row without date is put midway between
    its dated neighbours, or at the one it has."""
    known = [row.date.toordinal() if row.date else None for row in rows]
    days: list[float] = []
    for i, day in enumerate(known):
        if day is None:
            left = [d for d in known[:i] if d is not None][-1:]
            right = [d for d in known[i + 1 :] if d is not None][:1]
            around = left + right
            if not around:
                raise UsageError(
                    "no row has a date", fix="a plot against dates needs at least one dated row"
                )
            days.append(sum(around) / len(around))
        else:
            days.append(float(day))
    return tuple(days)


def summary_line(rows: Sequence[RecordRow]) -> str:
    """ "84 records, 45 min to 79.2 s in 24 months: 34 times faster"."""
    first, last = rows[0], rows[-1]
    span = dated_days(rows)
    months = (span[-1] - span[0]) / 30.44
    count = sum(not row.retiming for row in rows)
    times = first.minutes / last.minutes
    halving = months * log(2) / log(times) if times > 1 else float("inf")
    tail = f", halved every {halving:.1f} months" if isfinite(halving) and months > 0 else ""
    return (
        f"{count} record{'' if count == 1 else 's'}, {first.time} to {last.time} "
        f"in {months:.0f} months: {times:.1f} times faster{tail}"
    )


def table_cells(
    rows: Sequence[RecordRow], width: int
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """(column names, cells) of a table that fits `width` characters: notes and names are cut.

    A column name that begins with `>` is aligned right, one with `~` may be cut. Columns without
    a value are left out.
    """
    columns = (">#", ">time", ">change", "date", "kind", ">steps", "~what changed", "~by")
    cells = [
        (
            str(row.record),
            row.time,
            "" if change is None else f"{change:+.1%}".replace("-", "−"),
            row.date.isoformat() if row.date else "",
            "" if row.kind == "-" else row.kind.split(" (")[0],
            row.steps,
            row.note,
            row.contributors,
        )
        for row, change in zip(rows, gains(rows), strict=True)
    ]
    kept = [i for i in range(len(columns)) if any(line[i] for line in cells)]
    names = tuple(columns[i] for i in kept)
    lines = [tuple(line[i] for i in kept) for line in cells]
    fixed = [
        max(len(name.lstrip(">~")), *(len(line[i]) for line in lines))
        for i, name in enumerate(names)
    ]
    room = width - sum(fixed[:-2]) - 3 * len(names) - 1  # blanks between columns
    by = min(fixed[-1], max(8, room // 3))
    note = max(12, room - by)
    return names, [(*line[:-2], _cut(line[-2], note), _cut(line[-1], by)) for line in lines]


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip(" ,;:") + "…"


def as_json(rows: Sequence[RecordRow]) -> list[dict[str, Any]]:
    """Rows as JSON values; dates ISO or null, change_fraction to the row before."""
    changes = gains(rows)
    return [
        {
            **asdict(row),
            "date": row.date.isoformat() if row.date else None,
            "change_fraction": None if change is None else round(change, 6),
        }
        for row, change in zip(rows, changes, strict=True)
    ]


def frame(rows: Sequence[RecordRow]) -> pandas.DataFrame:
    """The table as a pandas frame: dates as timestamps (NaT where unknown)."""
    import pandas as pd

    table = pd.DataFrame(as_json(rows))
    table["date"] = pd.to_datetime(table["date"])
    return table
