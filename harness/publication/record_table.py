"""A row for `results/history/<track>.csv`, and the standing record's fields in a track's TOML.

Both are edited as text: what is not concerned keeps its bytes.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from functools import partial

from harness.errors import UsageError
from harness.history import RecordRow, parse_table

COLUMNS = ("record", "minutes", "date", "steps", "note", "contributors")


@dataclass(frozen=True, slots=True)
class NewRow:
    """What a record is entered with. `day` is ISO; `steps` is empty where unknown."""

    seconds: float
    day: str
    steps: str
    note: str
    contributors: str


def with_row(text: str | None, row: NewRow, where: str, first: NewRow | None = None) -> str:
    """The table with `row` below its last. Without a table, a new one that begins with `first`.

    A day before the last row's is raised to it: rows are in the order of their merging. Raises
    UsageError when the old table breaks its form.
    """
    if text is None:
        head = ",".join(COLUMNS) + "\n"
        rows = [row] if first is None else [first, row]
        body = "".join(_line(COLUMNS, i + 1, new, new.day) for i, new in enumerate(rows))
        parse_table(head + body, where)
        return head + body
    last = parse_table(text, where)[-1]
    header = next(csv.reader(io.StringIO(text.removeprefix("\ufeff"))))
    day = max(row.day, last.date.isoformat()) if last.date else row.day
    ending = "\r\n" if "\r\n" in text else "\n"
    line = _line(header, last.record + 1, row, day).rstrip("\n")
    new = text.rstrip("\r\n") + ending + line + ending
    parse_table(new.removeprefix("\ufeff"), where)
    return new


def _line(header: list[str] | tuple[str, ...], number: int, row: NewRow, day: str) -> str:
    values = {
        "record": str(number),
        "minutes": f"{row.seconds / 60:.6f}".rstrip("0").rstrip("."),
        "date": day,
        "kind": "-",
        "steps": row.steps,
        "note": row.note,
        "contributors": row.contributors,
    }
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow([values[name] for name in header])
    return buffer.getvalue()


def last_row(text: str | None, where: str) -> RecordRow | None:
    """The last row, None without a table. Raises UsageError."""
    return None if text is None else parse_table(text, where)[-1]


def with_record(text: str, seconds: float, name: str) -> str:
    """A track's TOML with record_seconds and record_name of the new record, where it states them.

    Raises UsageError when a field is there in a form that is not one plain line.
    """
    import tomllib

    contest = tomllib.loads(text).get("contest", {})
    wanted = {"record_seconds": f"{seconds:.3f}", "record_name": _toml_string(name)}
    for field, value in wanted.items():
        if field not in contest:
            continue
        text, count = re.subn(
            rf"(?m)^({field}[ \t]*=[ \t]*)[^\n#]*?([ \t]*(?:#[^\n]*)?)$",
            partial(_replaced, value),
            text,
        )
        if count != 1:
            raise UsageError(
                f"{field} cannot be updated",
                where="the track's TOML",
                why="it does not stand on one line of its own",
                fix=f"write it as `{field} = …`",
            )
    stated = tomllib.loads(text)["contest"]
    assert stated.get("record_name", name) == name
    return text


def _replaced(value: str, found: re.Match[str]) -> str:
    return f"{found[1]}{value}{found[2]}"


def _toml_string(text: str) -> str:
    """A basic TOML string; TOML's escapes are JSON's, but for non-BMP characters, which stay."""
    import json

    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
