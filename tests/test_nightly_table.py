"""The nightly table: what is written is read, and no row is ever lost; a reference's output."""

from __future__ import annotations

import multiprocessing
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import UnfitError, UsageError
from harness.nightly import table
from harness.nightly.reference import parse_reference
from harness.nightly.table import (
    COLUMNS,
    NightlyRow,
    append_rows,
    format_rows,
    parse_table,
    read_table,
)
from tests.support.nightly import make_row

HEADER = ",".join(COLUMNS) + "\n"


# -- the table ------------------------------------------------------------------------------------

WORDS = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=30)


@settings(max_examples=60)
@given(
    note=WORDS,
    fa3=WORDS,
    train_ms=st.none() | st.floats(1e-3, 1e9),
    loss=st.none() | st.floats(-1e3, 1e3),
    steps=st.none() | st.integers(0, 10**9),
    counts=st.booleans(),
)
def test_what_is_written_is_read(note: str, fa3: str, **fields: Any) -> None:
    row = make_row(note=note, fa3=fa3, loss_nats=fields.pop("loss"), **fields)
    assert parse_table(HEADER + format_rows([row]), "t") == (row,)


def test_rows_are_added_and_old_bytes_stay(tmp_path: Path) -> None:
    path = tmp_path / "nightly" / "small.csv"
    assert read_table(path) == ()
    first, second = make_row(), make_row(run=2, note='a "quoted", note')
    append_rows(path, [first])
    before = path.read_bytes()
    append_rows(path, [second])
    assert path.read_bytes().startswith(before)
    assert read_table(path) == (first, second)
    assert [p.name for p in path.parent.iterdir()] == ["small.csv"]


def test_a_table_without_a_last_newline_or_with_foreign_ones_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "small.csv"
    for text in (
        HEADER + format_rows([make_row()]).rstrip("\n"),
        ("\ufeff" + HEADER + format_rows([make_row()])).replace("\n", "\r\n"),
    ):
        path.write_bytes(text.encode())
        append_rows(path, [make_row(run=2)])
        assert [row.run for row in read_table(path)] == [1, 2]
        assert path.read_bytes().startswith(text.encode())


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("", 1, "lacks"),
        ("a,b\n", 1, "unknown a, b"),
        (",".join(reversed(COLUMNS)) + "\n", 1, "another order"),
        (HEADER + "<<<<<<< ours\n" + format_rows([make_row()]), 2, "1 cells instead of"),
        (HEADER + format_rows([make_row()]).replace("79270.0", "-3"), 2, "train_ms"),
        (HEADER + format_rows([make_row()]).replace("79270.0", "nan"), 2, "train_ms"),
        (HEADER + format_rows([make_row()]).replace("record", "rekord"), 2, "kind"),
        (HEADER + format_rows([make_row()]) + "x" * 200_000 + "\n", 3, "field larger"),
        (HEADER + '"open', 2, "unexpected end"),
    ],
)
def test_a_broken_table_is_named_by_line_and_left_alone(
    tmp_path: Path, text: str, line: int, why: str
) -> None:
    path = tmp_path / "small.csv"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        append_rows(path, [make_row()])
    assert caught.value.where == f"{path}:{line}"
    assert why in caught.value.why
    assert path.read_text() == text


def _append(path: Path, run: int) -> None:
    append_rows(path, [make_row(run=run)])


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "small.csv"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append, args=(path, run)) for run in range(1, 13)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(row.run for row in read_table(path)) == list(range(1, 13))


def test_a_disk_that_fills_up_leaves_the_table_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "small.csv"
    append_rows(path, [make_row()])
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(table, "replace_file", full)
    with pytest.raises(UnfitError, match="cannot be written"):
        append_rows(path, [make_row(run=2)])
    assert path.read_bytes() == before


def test_rows_doubled_by_a_merge_count_once() -> None:
    rows = format_rows([make_row(), make_row(run=2)])
    assert len(parse_table(HEADER + rows + rows, "t")) == 2


def test_the_documentation_has_every_column() -> None:
    page = (Path(__file__).parents[1] / "docs" / "ci.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \| (.+) \|$", page, re.MULTILINE)
    fields = NightlyRow.model_fields.items()
    assert listed == [(name, field.description) for name, field in fields]


# -- the reference's output -----------------------------------------------------------------------


def test_parts_are_read_and_weigh_alike() -> None:
    text = 'noise\n{"reference": "gpu", "parts_ms": {"copy": 2.0, "matmul": 8.0}}\nmore\n'
    figure = parse_reference(text)
    assert figure is not None
    assert figure.time_ms == pytest.approx(4.0)
    assert figure.parts_ms == {"copy": 2.0, "matmul": 8.0}


def test_lines_of_the_contract_will_do() -> None:
    lines = [
        f"step:{n}/9 val_loss:1 train_time:{ms}ms step_avg:1ms" for n, ms in ((0, 0), (9, 1234))
    ]
    text = "\n".join(lines) + "\n"
    figure = parse_reference(text)
    assert figure is not None
    assert (figure.time_ms, figure.parts_ms) == (1234.0, {})


@pytest.mark.parametrize(
    "line",
    [
        "",
        "hello",
        "{",
        "[" * 100_000,
        '{"parts_ms": {}}',
        '{"parts_ms": {"copy": 0}}',
        '{"parts_ms": {"copy": NaN}}',
        '{"parts_ms": {"copy": true}}',
        '{"parts_ms": {"a b=c": 1.0}}',
        '{"parts_ms": [1.0]}',
        "step:9/9 val_loss:1 train_time:0ms step_avg:1ms",
    ],
)
def test_anything_else_is_no_figure(line: str) -> None:
    assert parse_reference(line) is None
