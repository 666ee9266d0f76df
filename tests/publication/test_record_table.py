"""Rows and record fields are edited as text: everything else keeps its bytes."""

from __future__ import annotations

import tomllib

import pytest

from harness.errors import UsageError
from harness.history import parse_table, read_table, table_path
from harness.publication.record_table import NewRow, with_record, with_row

ROW = NewRow(79.2, "2026-11-20", "1,390", 'he said "go", then', "@a, @b")


def test_a_row_below_the_projects_own_tables() -> None:
    for track in ("small", "medium"):
        path = table_path(track)
        text = path.read_text(encoding="utf-8")
        new = with_row(text, ROW, str(path))
        assert new.startswith(text.rstrip("\n"))
        before, after = read_table(path), parse_table(new, "new")
        assert after[:-1] == before
        assert after[-1].record == before[-1].record + 1
        assert after[-1].minutes == 1.32
        assert (after[-1].note, after[-1].contributors) == (ROW.note, ROW.contributors)


def test_a_new_table_begins_with_what_was_beaten() -> None:
    first = NewRow(90.0, "2026-11-20", "", "the first baseline", "")
    rows = parse_table(with_row(None, ROW, "new", first), "new")
    assert [(row.record, row.minutes) for row in rows] == [(1, 1.5), (2, 1.32)]
    assert len(parse_table(with_row(None, ROW, "new"), "new")) == 1


def test_line_endings_order_of_columns_and_dates_are_kept() -> None:
    text = "minutes,record,note,date,contributors\r\n2.5,1,x,2027-01-01,y\r\n"
    new = with_row(text, ROW, "t")
    assert new == text + '1.32,2,"he said ""go"", then",2027-01-01,"@a, @b"\r\n'


def test_a_broken_table_is_not_added_to() -> None:
    with pytest.raises(UsageError, match="breaks its form"):
        with_row("record,minutes\n", ROW, "t")


TOML = """
# record_seconds = 1
[contest]
name = "x"
record_seconds   = 79.5   # official, by hand
record_name = "old # name"
[data]
"""


def test_record_fields_are_updated_in_place() -> None:
    new = with_record(TOML, 78.1234, 'a "new" \\ name')
    assert "record_seconds   = 78.123   # official, by hand\n" in new
    assert "# record_seconds = 1\n" in new
    stated = tomllib.loads(new)["contest"]
    assert stated == {"name": "x", "record_seconds": 78.123, "record_name": 'a "new" \\ name'}


def test_fields_that_are_not_there_are_not_added() -> None:
    text = '[contest]\nname = "x"\n'
    assert with_record(text, 1.0, "n") == text


def test_a_field_that_stands_otherwise_is_refused() -> None:
    with pytest.raises(UsageError, match="one line of its own"):
        with_record("contest = { record_seconds = 3.0 }\n", 1.0, "n")
    with pytest.raises(UsageError, match="one line of its own"):
        with_record("[contest]\nrecord_seconds = 3.0\n[other]\nrecord_seconds = 4.0\n", 1.0, "n")
