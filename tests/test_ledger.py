"""The ledger: any changed line is found at its place; a crash or a full disk tears nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.canonical import dumps_line
from harness.errors import EvidenceError
from harness.ledger import (
    Closed,
    Excluded,
    Failed,
    Finished,
    Interrupted,
    Ledger,
    Looked,
    Lost,
    Planned,
    Resumed,
    Started,
    event_line,
    ledger_lines,
    read_ledger,
)

SHA = "ab" * 32
STARTED: dict[str, Any] = {
    "arm": "candidate",
    "pair": 1,
    "attempt": 1,
    "source_sha256": SHA,
    "command": ("python", "fake.py"),
    "environment": {"PATH": "/bin", "LC_NAME": "zwei\u2028Zeilen\x85 ü"},
}
EVENTS: list[tuple[type, dict[str, Any]]] = [
    (Planned, {"plan_sha256": SHA, "environment_sha256": SHA}),
    (Started, {"run_id": "candidate-01", **STARTED}),
    (Finished, {"run_id": "candidate-01", "wall_s": 1.5, "exit_code": 0, "files": {"a.log": SHA}}),
    (Looked, {"runs": 1, "loss_p": 0.25, "timing_p": None, "decision": "continue"}),
    (Excluded, {"run_id": "candidate-01", "criterion": "hw_slowdown", "evidence": "hot"}),
    (Started, {"run_id": "candidate-01-attempt2", **STARTED}),
    (
        Failed,
        {
            "run_id": "candidate-01-attempt2", "wall_s": 2.0, "exit_code": None, "files": {},
            "reason": "crash", "detail": "out of memory",
        },
    ),
    (Interrupted, {"by": "Ctrl-C"}),
    (Resumed, {"environment_sha256": SHA}),
    (Lost, {"run_id": "candidate-01-attempt3", "why": "killed"}),
    (Closed, {"why": "over"}),
]  # fmt: skip


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    ledger = Ledger.create(tmp_path_factory.mktemp("ledger") / "ledger.jsonl")
    for kind, fields in EVENTS:
        ledger.append(kind, **fields)
    return ledger_lines(ledger.path.read_text(encoding="utf-8"))


def place(lines: list[str]) -> int:
    """The line at which reading stops; 0 if it reads through."""
    try:
        read_ledger(lines, "ledger.jsonl")
    except EvidenceError as error:
        return int(error.where.split(":")[1])
    return 0


def test_what_was_appended_is_read_back(lines: list[str]) -> None:
    events = read_ledger(lines, "x")
    assert [type(event) for event in events] == [kind for kind, _ in EVENTS]
    for event, (_, fields) in zip(events, EVENTS, strict=True):
        for name, value in fields.items():
            assert getattr(event, name) == value
    assert [event_line(event) for event in events] == lines
    assert [event.seq for event in events] == list(range(len(EVENTS)))


indices = st.integers(0, len(EVENTS) - 1)
SLOW = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@SLOW
@given(i=indices, at=st.integers(0, 10_000), char=st.characters(codec="utf-8"))
def test_one_changed_character_is_found(lines: list[str], i: int, at: int, char: str) -> None:
    at %= len(lines[i])
    if lines[i][at] == char:
        return
    edited = [*lines]
    edited[i] = lines[i][:at] + char + lines[i][at + 1 :]
    found = place(edited)
    if i < len(lines) - 1:
        # An edit that is valid by itself breaks the next line's link.
        assert found in (i + 1, i + 2)
    else:
        # The last line has no successor: what it says is only held by verdict.json and witnesses.
        assert found in (0, i + 1)


@SLOW
@given(i=indices, field=st.sampled_from(["utc", "event", "seq", "previous_sha256"]))
def test_an_edited_value_in_canonical_form_is_found(lines: list[str], i: int, field: str) -> None:
    event = json.loads(lines[i])
    event[field] = {"utc": "2026-01-01T00:00:00.000Z", "event": "closed", "seq": 99}.get(
        field, "0" * 63 + "1"
    )
    edited = [*lines[:i], dumps_line(event), *lines[i + 1 :]]
    last = i == len(lines) - 1
    assert place(edited) in ((0, i + 1) if last else (i + 1, i + 2))
    if field in ("seq", "previous_sha256"):
        assert place(edited) == i + 1


@SLOW
@given(i=indices)
def test_a_removed_line_is_found_where_it_was(lines: list[str], i: int) -> None:
    found = place(lines[:i] + lines[i + 1 :])
    # The end is the one place where a chain cannot speak for itself.
    assert found == (i + 1 if i < len(lines) - 1 else 0)


@SLOW
@given(i=indices, j=indices)
def test_an_inserted_line_is_found(lines: list[str], i: int, j: int) -> None:
    edited = [*lines[:i], lines[j], *lines[i:]]
    assert place(edited) in (i + 1, i + 2)


@SLOW
@given(i=indices, j=indices)
def test_swapped_lines_are_found(lines: list[str], i: int, j: int) -> None:
    i, j = sorted((i, j))
    if i == j:
        return
    edited = [*lines]
    edited[i], edited[j] = edited[j], edited[i]
    assert place(edited) == i + 1


@SLOW
@given(i=indices, at=st.integers(1, 10_000))
def test_a_line_cut_in_the_middle_is_found(lines: list[str], i: int, at: int) -> None:
    at = 1 + at % (len(lines[i]) - 1)
    assert place([*lines[:i], lines[i][:at], *lines[i + 1 :]]) == i + 1


@SLOW
@given(i=indices, spacing=st.sampled_from([" ", "\t", "\r"]))
def test_another_spelling_of_the_same_event_is_refused(
    lines: list[str], i: int, spacing: str
) -> None:
    assert place([*lines[:i], lines[i] + spacing, *lines[i + 1 :]]) == i + 1
    loose = json.dumps(json.loads(lines[i]))
    assert place([*lines[:i], loose, *lines[i + 1 :]]) == i + 1


@given(st.lists(st.text(max_size=60) | st.binary(max_size=40).map(repr), max_size=5))
def test_no_text_breaks_the_reader(texts: list[str]) -> None:
    for text in texts:
        with pytest.raises(EvidenceError):
            read_ledger([text], "x")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "null",
        "[]",
        '{"event":"unheard-of"}',
        "[" * 100_000,
        "x" * 2_000_000,
        '{"seq":' + "9" * 6000 + "}",
        '{"event":"finished","seq":0,"wall_s":NaN}',
    ],
)
def test_lines_that_are_no_event(line: str) -> None:
    assert place([line]) == 1


def test_numbers_that_cannot_be_written_again_are_refused(lines: list[str]) -> None:
    for name, value in (("pair", "9" * 6000), ("attempt", "1e999"), ("pair", "NaN")):
        line = lines[1].replace(f'"{name}":1', f'"{name}":{value}')
        assert line != lines[1]
        assert place([lines[0], line]) == 2


@pytest.mark.parametrize("run_id", ["../../etc/passwd", "/abs", "a b", "", "a.b", "x" * 200, "-a"])
def test_a_run_id_cannot_name_a_path(lines: list[str], run_id: str) -> None:
    event = json.loads(lines[1]) | {"run_id": run_id}
    assert place([lines[0], dumps_line(event)]) == 2


def copy(lines: list[str], folder: Path, tail: bytes = b"") -> Path:
    path = folder / "ledger.jsonl"
    path.write_bytes("".join(line + "\n" for line in lines).encode() + tail)
    return path


@pytest.mark.parametrize("cut", [1, 2, 50, "inside a character"])
def test_a_torn_last_line_is_mended_and_the_chain_goes_on(
    lines: list[str], tmp_path: Path, cut: int | str
) -> None:
    torn = (lines[1] + "\n").encode()
    end = torn.index("ü".encode()) + 1 if isinstance(cut, str) else -cut
    path = copy(lines[:1], tmp_path, torn[:end])
    ledger = Ledger.open(path)
    assert len(ledger.events) == 1
    ledger.append(Started, run_id="candidate-01", **STARTED)
    assert len(read_ledger(ledger_lines(path.read_text(encoding="utf-8")), "x")) == 2
    assert len(Ledger.open(path).events) == 2


def test_a_whole_ledger_is_opened_untouched(lines: list[str], tmp_path: Path) -> None:
    path = copy(lines, tmp_path)
    before = path.stat()
    ledger = Ledger.open(path)
    assert len(ledger.events) == len(lines)
    assert path.stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("trouble", ["broken", "missing", "folder", "latin-1"])
def test_a_ledger_that_cannot_be_continued_is_left_as_it_is(
    lines: list[str], tmp_path: Path, trouble: str
) -> None:
    path = tmp_path / "ledger.jsonl"
    if trouble == "broken":
        copy([lines[0], *lines[2:]], tmp_path, b'{"torn')
    elif trouble == "folder":
        path.mkdir()
    elif trouble == "latin-1":
        path.write_bytes(b"\xe9\n")
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(EvidenceError):
        Ledger.open(path)
    assert (path.read_bytes() if path.is_file() else None) == before


def test_a_new_ledger_never_overwrites_one(tmp_path: Path) -> None:
    Ledger.create(tmp_path / "ledger.jsonl")
    with pytest.raises(FileExistsError):
        Ledger.create(tmp_path / "ledger.jsonl")


FULL_DISK = """
import resource, sys
from pathlib import Path
from harness.ledger import Interrupted, Ledger, Resumed
path = Path(sys.argv[1])
ledger = Ledger.open(path)
ledger.append(Interrupted, by="before")
size, head, count = path.stat().st_size, ledger.head, len(ledger.events)
data = path.read_bytes()
for room in (0, 1, 100):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, resource.RLIM_INFINITY))
    try:
        ledger.append(Interrupted, by="x" * 200)
    except OSError:
        pass
    else:
        sys.exit("nothing was refused")
    assert path.read_bytes() == data, room
    assert (ledger.head, len(ledger.events)) == (head, count)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
ledger.append(Resumed, environment_sha256="room again")
assert len(Ledger.open(path).events) == count + 1
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no RLIMIT_FSIZE")
def test_an_append_that_finds_no_room_leaves_file_and_chain_as_they_were(
    lines: list[str], tmp_path: Path
) -> None:
    path = copy(lines[:4], tmp_path)
    root = str(Path(__file__).resolve().parents[1])
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_an_event_that_breaks_its_schema_is_not_written(lines: list[str], tmp_path: Path) -> None:
    ledger = Ledger.open(copy(lines[:1], tmp_path))
    with pytest.raises(ValueError):
        ledger.append(Finished, run_id="a", wall_s="long", exit_code=0, files={})
    assert len(Ledger.open(ledger.path).events) == 1
