"""Notes of the shim -> facts; and notes that a hostile process wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from harness.audit_compiler import compiler_facts
from harness.audit_files import file_uses
from harness.audit_notes import (
    RankNotes,
    line_moments,
    make_timeline,
    rank_facts,
    read_notes,
)
from harness.audit_report import Mark, PhaseCounts
from harness.audit_zones import make_zones
from harness.tracks.track import CompileRule
from tests.test_audit_phases import MARKS

ZONES = make_zones(
    data=("/d/data/mini",),
    contest=("/repo/results",),
    source="/tmp/x/run",
    scratch="/tmp/x",
    caches=(),
    python=("/py",),
    home="/home/me",
)
RULE = CompileRule()


def notes(*lines: dict[str, Any]) -> RankNotes:
    return RankNotes(0, 7, [{"pid": 7, **line} for line in lines])


def opened(path: str, at: float, **fields: Any) -> dict[str, Any]:
    return {"k": "open", "t": at, "path": path, "w": False, "size": 10, "mtime": 1.0, **fields}


def uses(rank: RankNotes, sightings: dict[str, list[float]] | None = None) -> dict[str, Any]:
    when = make_timeline(MARKS, [rank], 0.0)
    found = file_uses([rank], sightings or {}, ZONES, when, 0.0, frozenset(), 100.0)
    return {f"{file.zone}:{file.path}": file for file in found}


TRAINING = {"k": "backward", "t": 15.0, "at": [7.0, 8.0, 10.5, 11.5, 13.5, 14.5]}


def test_files_are_told_by_zone_and_phase() -> None:
    found = uses(
        notes(
            TRAINING,
            opened("/d/data/mini/a.bin", 6.0),
            opened("/d/data/mini/a.bin", 10.2),
            opened("/d/data/mini/val.bin", 12.4),
            opened("/repo/results/log.txt", 9.5),
            opened("/py/lib/x.py", 1.0),
            opened("/tmp/x/run/log.txt", 9.6, w=True),
            opened("/home/me/notes", 1.0),
            opened("/home/me/.state", 9.0, w=True),
        )
    )
    assert list(found) == [
        "data:a.bin", "home:.state", "contest:log.txt", "data:val.bin",
    ]  # fmt: skip
    assert found["data:a.bin"].opens == PhaseCounts(warmup=1, clock=1)
    assert found["data:a.bin"].trained_after == PhaseCounts(warmup=1, clock=1)
    assert found["data:val.bin"].opens == PhaseCounts(validation=1)
    assert found["data:val.bin"].trained_after == PhaseCounts()


def test_bytes_read_between_reset_and_clock() -> None:
    rank = notes(
        TRAINING,
        opened("/d/data/mini/a.bin", 8.2, rchar=1000),
        opened("/d/data/mini/a.bin", 8.3, rchar=1500),
        opened("/d/data/mini/b.bin", 8.4, rchar=501_500),
        {"k": "clock", "t": 9.0, "rchar": 501_600, "mapped": {"/d/data/mini/b.bin": 70_000}},
    )
    found = uses(rank)
    assert found["data:a.bin"].read_reset_bytes == 500_500
    assert found["data:b.bin"].read_reset_bytes == 70_000


def test_what_only_the_observer_saw_is_listed() -> None:
    found = uses(notes(TRAINING), {"/d/data/mini/secret.bin": [10.5, 12.5]})
    assert found["data:secret.bin"].opens.total == 0
    assert found["data:secret.bin"].seen_outside == PhaseCounts(clock=1, validation=1)


def test_lines_take_the_moment_they_were_printed() -> None:
    marks = [Mark(step=i, at_s=i + 0.03, train_ms=0.0, loss_nats=None) for i in range(3)]
    printed = notes({"k": "line", "t": 9.0, "at": [100.0, 101.0, 102.0]})
    assert [m.at_s for m in line_moments(marks, [printed], 100.0)] == [0.0, 1.0, 2.0]
    for lies in ([100.0, 101.0], [100.0, 101.0, 102.5], [100.0, 101.0, 90.0]):
        other = notes({"k": "line", "t": 9.0, "at": lies})
        assert line_moments(marks, [other], 100.0) == marks


def test_only_what_is_not_the_untouched_value_counts() -> None:
    rank = notes(
        {"k": "config", "t": 1.0, "module": "m", "values": {"a": "1", "b": "2", "new": "3"}},
        {"k": "config", "t": 2.0, "module": "m", "values": {"b": "5"}},
        {"k": "config", "t": 2.0, "module": "unknown", "values": {"b": "5"}},
        {"k": "compile", "t": 1.0, "kwargs": {"mode": "x"}},
        {"k": "compile", "t": 2.0, "kwargs": {"mode": "x"}},
        {"k": "putenv", "t": 2.0, "name": "TORCHINDUCTOR_CACHE_DIR", "value": "/tmp/c"},
        {"k": "putenv", "t": 2.0, "name": "TRITON_X", "value": "1"},
    )
    facts = compiler_facts([rank], {"m": {"a": "1", "b": "0"}})
    assert facts.config == {"m.b": ("0", "2", "5")}
    assert facts.compile_kwargs == ({"mode": "x"},)
    assert facts.variables == {"TRITON_X": "1"}


def test_a_file_of_rubbish_is_counted_and_passed_over(tmp_path: Path) -> None:
    (tmp_path / "rank-0-12.jsonl").write_bytes(
        b'{"k": "end", "t": 1.0}\n\xff\xfe\n[1]\n{"k": "open"}\n' + b"[" * 100_000 + b"\n"
    )
    (tmp_path / "rank-x-12.jsonl").write_text("{}")
    (rank,) = read_notes(tmp_path)
    assert (rank.rank, rank.pid, rank.broken) == (0, 12, 2)
    facts = rank_facts(rank, make_timeline(MARKS, [rank], 0.0), 0.0, "val.bin")
    assert facts.ended
    assert facts.left_out == 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
KINDS = ("open", "clock", "end", "config", "compile", "patches", "putenv", "backward", "line")


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.dictionaries(
    st.sampled_from(("path", "w", "size", "mtime", "rchar", "at", "values", "kwargs", "module",
                     "name", "value", "mapped", "parameters", "replaced", "left_out")), JSON)),
    max_size=6))  # fmt: skip
def test_no_note_breaks_the_reader(lines: list[tuple[str, dict[str, Any]]]) -> None:
    raw = [json.loads(json.dumps({"k": kind, "t": 9.0, **fields})) for kind, fields in lines]
    rank = notes(*raw)
    when = make_timeline(MARKS, [rank], 0.0)
    rank_facts(rank, when, 0.0, "val.bin")
    file_uses([rank], {}, ZONES, when, 0.0, frozenset(), 1.0)
    compiler_facts([rank], {})
