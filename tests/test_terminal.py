"""The only place that prints: control codes are shown, stdout is data alone."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UnfitError
from harness.terminal import Terminal, hanging, visible

ROOT = Path(__file__).resolve().parents[1]
HOSTILE = (
    "\x1b[2J\x1b]0;title\x07 red\x1b[31m \r over \x08\x08 \u202egnp.exe \x9b1m \x00 \u2028 \x85"
)


@given(st.text())
def test_nothing_invisible_is_let_through(text: str) -> None:
    shown = visible(text)
    assert all(c in "\n\t" or c.isprintable() for c in shown)
    if all(c in "\n\t" or c.isprintable() for c in text):
        assert shown == text


def test_escapes_are_readable() -> None:
    assert visible("\x1b[31mred") == "\\x1b[31mred"
    assert visible("a\rb\x00") == "a\\rb\\x00"
    assert visible("\u202e") == "\\u202e"
    assert visible("\udcff") == "\\udcff"
    assert visible("≤ 3.28 ✓ — ü") == "≤ 3.28 ✓ — ü"


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert "\x1b" not in err
    assert "\r" not in err
    assert "\u202e" not in err
    return err


def test_every_way_to_speak_shows_control_codes(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    for say in (terminal.info, terminal.success, terminal.warning, terminal.failure):
        say(HOSTILE)
        assert "\\x1b[2J" in printed(capsys)
    terminal.error(UnfitError(HOSTILE, where=HOSTILE, why=HOSTILE, fix=HOSTILE))
    assert printed(capsys).count("\\x1b[2J") == 4
    terminal.table(HOSTILE, (HOSTILE, ">" + HOSTILE), [(HOSTILE, HOSTILE)])
    assert "\\x1b" in printed(capsys)


@pytest.mark.parametrize(
    "text", ["[red]text[/red]", "[/]", "[/nothing]", "[link=http://x]y", "\\["]
)
def test_markup_is_text(capsys: pytest.CaptureFixture[str], text: str) -> None:
    terminal = Terminal()
    terminal.info(text)
    terminal.error(UnfitError(text))
    terminal.table(text, (text,), [(text,)])
    assert printed(capsys).count(text) == 5


def test_an_error_says_all_it_has(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().error(UnfitError("no room", where="/disk", why="1 MiB", fix="make room"))
    lines = [line.strip() for line in printed(capsys).splitlines()]
    assert lines == [
        "error: no room", "where: /disk", "why:   1 MiB", "fix:   make room", "exit code 4",
    ]  # fmt: skip
    Terminal().error(UnfitError("only this"))
    assert "where" not in printed(capsys)


def test_long_text_is_not_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    # A path that is cut into two lines cannot be copied.
    path = "/very/long" * 60
    Terminal().info(path)
    assert path in printed(capsys)


def test_data_goes_to_stdout_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().data("a,b\n1,2")
    assert capsys.readouterr() == ("a,b\n1,2\n", "")


def test_json_is_json_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"p": math.nan, "list": [math.inf, 1.5, ("x", -math.inf)], "text": HOSTILE, "≤": "✓"}
    Terminal().json(value)
    out, err = capsys.readouterr()
    assert err == ""
    read = json.loads(out, parse_constant=pytest.fail)
    assert read == {"p": None, "list": [None, 1.5, ["x", None]], "text": HOSTILE, "≤": "✓"}
    assert "\x1b" not in out


SPEAK = """
from harness.terminal import Terminal
terminal = Terminal()
terminal.json({"claim": "p ≤ 0.01 × ü"})
terminal.table("≤", (">ü",), [("✓",)], out=True)
terminal.info("≤ ✓")
"""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_that_lacks_a_letter_is_no_reason_to_fail(encoding: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SPEAK],
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document, _ = json.JSONDecoder().raw_decode(done.stdout.decode(encoding))
    assert document == {"claim": "p ≤ 0.01 × ü"}


def test_no_colours_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    assert not terminal.interactive
    terminal.failure("plain")
    assert printed(capsys) == "plain\n"


@pytest.mark.parametrize("width", [60, 79, 80, 81, 120])
def test_columns_that_give_way_leave_the_others_whole(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    rows = [("a" * 150, "b" * 9, "34640.333", "3.275959"), ("short", "c" * 90, "1.000", "3.28")]
    Terminal().table("t", ("~log", "~other", ">time s", ">loss"), rows)
    lines = capsys.readouterr().err.splitlines()
    assert all(len(line.rstrip()) <= width for line in lines)
    assert [line.split()[-2:] for line in lines[-3:-1]] == [
        ["34640.333", "3.275959"], ["1.000", "3.28"]
    ]  # fmt: skip
    assert "time s" in lines[2]
    assert "bbbbbbbbb " in lines[-3]


def test_long_lines_hang_on_a_terminal_and_stay_whole_elsewhere() -> None:
    text = "one two three four five six seven eight nine ten eleven twelve"
    assert hanging(text, 17, None) == text
    assert hanging(text, 17, 40) == text  # too narrow to be worth it
    broken = hanging(text, 10, 45)
    assert broken.split() == text.split()
    first, *rest = broken.split("\n")
    assert len(first) <= 35
    assert rest
    assert all(line.startswith(" " * 10) and len(line) <= 45 for line in rest)
    path = "results/" + "x" * 90
    assert path in hanging(f"see {path}", 10, 60)
