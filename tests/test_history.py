"""The world-record tables: figures, validation, table, plots."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from datetime import date
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from harness.cli.history import history
from harness.errors import UsageError
from harness.history import (
    RecordRow,
    as_json,
    dated_days,
    frame,
    gains,
    parse_table,
    read_table,
    summary_line,
    table_cells,
    table_path,
)
from harness.history_plot import labelled, save_plot, text_plot

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared/history"
HEADER = "record,minutes,date,note,contributors\n"


@pytest.fixture(scope="module")
def small() -> tuple[RecordRow, ...]:
    return read_table(ROOT / "results/history/small.csv")


@pytest.fixture(scope="module")
def medium() -> tuple[RecordRow, ...]:
    return read_table(ROOT / "results/history/medium.csv")


def test_the_small_track(small: tuple[RecordRow, ...]) -> None:
    assert len(small) == 86
    assert [row.record for row in small if not row.retiming] == list(range(1, 85))
    assert [(row.record, row.minutes) for row in small if row.retiming] == [
        (21, 2.997),
        (21, 3.014),
    ]
    assert (small[0].time, small[-1].time) == ("45 min", "79.2 s")
    assert (small[-1].date, small[-1].steps) == (date(2026, 5, 21), "1,485 (1,390)")
    assert summary_line(small).startswith("84 records, 45 min to 79.2 s in 24 months: 34.1 times")
    change = gains(small)
    assert change[0] is None
    assert change[1] == pytest.approx(31.4 / 45 - 1)


def test_the_medium_track(medium: tuple[RecordRow, ...]) -> None:
    assert [row.record for row in medium] == list(range(1, 19))
    assert (medium[0].time, medium[1].time, medium[-1].time) == ("5.8 h", "29.3 min", "17.35 min")
    assert medium[10].date is None
    days = dated_days(medium)
    # record 11 has no date: midway between 2025-09-11 and 2025-09-16
    assert days[10] == (date(2025, 9, 11).toordinal() + date(2025, 9, 16).toordinal()) / 2
    assert list(days) == sorted(days)


@pytest.mark.parametrize("track", ["small", "medium"])
def test_tables_are_the_published_ones(track: str) -> None:
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not here")
    ours, published = table_path(track), SHARED / f"{track}.csv"
    assert ours.read_bytes() == published.read_bytes()


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, "header lacks record"),
        (HEADER, 2, "no row"),
        ("record,minutes,date,note\n1,2,,x\n", 1, "lacks contributors"),
        (HEADER.replace("note", "note,note"), 1, "twice"),
        (HEADER + "1,45,2024-05-28,x\n", 2, "4 cells under 5"),
        (HEADER + "1,45,2024-05-28,x,y\n3,40,2024-06-01,x,y\n", 3, "record 3 follows 1"),
        (HEADER + "1,45,2024-05-28,x,y\n2,0,2024-06-01,x,y\n", 3, "minutes '0'"),
        (HEADER + "1,nan,2024-05-28,x,y\n", 2, "minutes 'nan'"),
        (HEADER + "1,45,28.5.2024,x,y\n", 2, "no YYYY-MM-DD"),
        (HEADER + "1,45,2024-05-28,x,y\n2,40,2023-01-01,x,y\n", 3, "is before"),
        (HEADER + '1,45,2024-05-28,"two\nlines",y\nx,40,,x,y\n', 4, "record 'x'"),
        (HEADER + '1,45,2024-05-28,"open,y\n', 2, "unexpected end"),
    ],
)
def test_bad_rows_are_named_with_their_line(text: str, line: int, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_table(text, "t.csv")
    assert caught.value.where == f"t.csv:{line}"
    assert words in caught.value.why


def test_unreadable_files(tmp_path: Path) -> None:
    binary = tmp_path / "b.csv"
    binary.write_bytes(b"\xff\xfe\x00")
    for path, words in ((binary, "UTF-8"), (tmp_path / "none.csv", "No such file")):
        with pytest.raises(UsageError) as caught:
            read_table(path)
        assert words in caught.value.why
    with pytest.raises(UsageError, match="no world-record table for track 'tiny'"):
        table_path("tiny")
    with pytest.raises(UsageError):
        table_path("../small")


def test_frame_and_json_agree(small: tuple[RecordRow, ...], medium: tuple[RecordRow, ...]) -> None:
    table = frame(small)
    assert list(table["minutes"]) == [row.minutes for row in small]
    assert str(table["date"].iloc[0].date()) == "2024-05-28"
    assert int(frame(medium)["date"].isna().sum()) == 1
    assert as_json(medium)[10]["date"] is None
    json.dumps(as_json(small), allow_nan=False)


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_table_fits_and_nothing_wraps(small: tuple[RecordRow, ...], width: int) -> None:
    columns, cells = table_cells(small, width)
    assert columns[0] == ">#"
    assert len(cells) == 86
    widest = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    assert sum(widest) + 3 * len(columns) <= max(width, 92)


def test_columns_without_values_are_left_out(medium: tuple[RecordRow, ...]) -> None:
    assert table_cells(medium, 100)[0] == (">#", ">time", ">change", "date", "~what changed", "~by")


def test_labels_stand_at_each_halving() -> None:
    assert labelled([45, 30, 22, 12, 11, 5, 4]) == [0, 2, 4, 6]
    assert labelled([10.0]) == [0]
    assert labelled([10, 9]) == [0, 1]


def test_plots(small: tuple[RecordRow, ...], tmp_path: Path) -> None:
    svg, again, png = tmp_path / "a.svg", tmp_path / "b.svg", tmp_path / "a.png"
    for path in (svg, again, png):
        save_plot(small, "World records, track small", path)
    assert svg.read_bytes() == again.read_bytes()
    assert png.read_bytes().startswith(b"\x89PNG")
    words = "".join(ElementTree.parse(svg).getroot().itertext())
    for expected in ("World records, track small", "#84", "79.2 s", "45 min", "May 2026"):
        assert expected in words
    with pytest.raises(UsageError, match="no plot in the form"):
        save_plot(small, "t", tmp_path / "a.pdf")
    with pytest.raises(UsageError, match="cannot be written"):
        save_plot(small, "t", tmp_path / "none" / "a.svg")


def test_one_dot_is_a_plot_too(tmp_path: Path) -> None:
    rows = parse_table(HEADER + "1,45,2024-05-28,x,y\n", "t")
    save_plot(rows, "one", tmp_path / "a.svg")
    assert text_plot(rows, width=20, height=4).count("\n") == 4
    assert summary_line(rows) == "1 record, 45 min to 45 min in 0 months: 1.0 times faster"


def test_text_plot_falls_from_the_first_to_the_last_record(small: tuple[RecordRow, ...]) -> None:
    lines = text_plot(small, width=60, height=10).splitlines()
    assert len(lines) == 11
    assert len({len(line) for line in lines}) == 1
    assert lines[0].startswith("45 min ┤")
    assert lines[9].startswith("79.2 s ┤")
    body = [line.split("┤")[1] for line in lines[:-1]]
    assert body[0][0] != "⠀"
    assert body[0][-1] == "⠀"
    assert body[9][-1] != "⠀"
    assert body[9][0] == "⠀"
    assert (lines[10].strip(" └")[:7], lines[10][-7:]) == ("2024-05", "2026-05")


def _run(*arguments: str) -> tuple[int, str, BaseException | None]:
    app = Typer()
    app.command()(history)
    done = CliRunner().invoke(app, list(arguments))
    return done.exit_code, done.stdout, done.exception


def test_command(tmp_path: Path) -> None:
    code, out, _ = _run("--track", "medium", "--json")
    assert code == 0
    document = json.loads(out)
    assert (document["track"], len(document["records"])) == ("medium", 18)
    code, out, _ = _run("--csv")
    assert len(out.splitlines()) == 87
    code, out, _ = _run()
    assert "World records, track small" in out
    assert "34.1 times faster" in out
    plot = tmp_path / "p.svg"
    assert _run("--plot", str(plot))[0] == 0
    assert plot.stat().st_size > 10_000
    own = tmp_path / "own.csv"
    own.write_text(HEADER + "1,45,2024-05-28,mine,me\n")
    assert "mine" in _run("--file", str(own))[1]
    assert isinstance(_run("--csv", "--json")[2], UsageError)
