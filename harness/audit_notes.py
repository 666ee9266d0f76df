"""What the shim noted: reading it, and what it says of each rank. Pure but for reading the files.

Notes come from the candidate's process: they are bounded, and a line that makes no sense is
counted and passed over.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.audit_phases import Timeline, timeline
from harness.audit_report import Mark, ParameterState, RankFacts

NOTES_LIMIT_BYTES = 32 << 20
TEXTS_LIMIT = 60
LAG_S, ROUNDED_S = 5.0, 0.001
AHEAD_S = 0.25
"""A rank that prints nothing may begin the next step while rank 0 still formats its line."""


@dataclass(slots=True)
class RankNotes:
    """The notes of one rank's process, and of what it forked."""

    rank: int
    pid: int
    notes: list[dict[str, Any]] = field(default_factory=list)
    broken: int = 0

    @property
    def slack_s(self) -> float:
        """How much earlier than the line it may be on with the next step."""
        return 0.0 if self.of("line") else AHEAD_S

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [note for note in self.notes if note.get("k") == kind]

    def moments(self, kind: str) -> list[float]:
        return [
            moment
            for note in self.of(kind)
            for at in as_list(note.get("at"))
            if (moment := as_moment(at)) is not None
        ]


def read_notes(folder: Path) -> list[RankNotes]:
    """Notes of every rank, by rank."""
    found = []
    for path in sorted(folder.glob("rank-*.jsonl"))[:64]:
        parts = path.stem.split("-")
        if len(parts) != 3 or not parts[1].isdigit() or not parts[2].isdigit():
            continue
        if path.is_symlink() or not path.is_file():
            continue  # the shim writes plain files; a pipe would never end
        rank = RankNotes(int(parts[1]), int(parts[2]))
        with path.open("rb") as file:
            data = file.read(NOTES_LIMIT_BYTES)
        for line in data.split(b"\n"):
            try:
                note = json.loads(line) if line else None
            except (ValueError, RecursionError):
                rank.broken += 1
                continue
            if isinstance(note, dict) and as_moment(note.get("t")) is not None:
                rank.notes.append(note)
        found.append(rank)
    return sorted(found, key=lambda rank: rank.rank)


def line_moments(marks: Sequence[Mark], ranks: Iterable[RankNotes], start_s: float) -> list[Mark]:
    """The marks with the moment each line was printed instead of when it arrived.

    A line waits in the pipe while its reader sleeps (30 ms on a busy machine), and by then the
    next step may have begun. The shim's own moments are taken where there is one for each line and
    none lies after its arrival or long before; else the arrivals stay.
    """
    for rank in ranks:
        printed = [at - start_s for at in rank.moments("line")]
        late = [mark.at_s - at for mark, at in zip(marks, printed, strict=False)]
        if len(printed) == len(marks) and all(-ROUNDED_S <= lag <= LAG_S for lag in late):
            return [
                mark.model_copy(update={"at_s": at})
                for mark, at in zip(marks, printed, strict=True)
            ]
    return list(marks)


def make_timeline(marks: Sequence[Mark], ranks: Sequence[RankNotes], start_s: float) -> Timeline:
    """Phases; `start_s` is the launch on the monotonic clock that all moments are taken from."""
    training = [
        at - start_s
        for rank in ranks
        for kind in ("backward", "optimizer")
        for at in rank.moments(kind)
    ]
    return timeline(line_moments(marks, ranks, start_s), training)


def rank_facts(rank: RankNotes, when: Timeline, start_s: float, validation: str) -> RankFacts:
    """Counts by phase, parameters, clocks."""
    backward = [at - start_s for at in rank.moments("backward")]
    steps = [at - start_s for at in rank.moments("optimizer")]
    opened = [
        float(note["t"]) - start_s
        for note in rank.of("open")
        if str(note.get("path", "")).endswith("/" + validation)
    ]
    replaced: list[str] = []
    state: ParameterState | None = None
    left_out = rank.broken + len(rank.of("trouble"))
    for note in rank.of("clock") + rank.of("end"):
        replaced += [as_text(name, 60) for name in as_list(note.get("replaced"))]
        if isinstance(note.get("parameters"), dict):
            numbers = {
                name: value
                for name in ("tensors", "same", "kept", "fresh")
                if (value := as_count(note["parameters"].get(name))) is not None
            }
            if len(numbers) == 4:
                state = ParameterState(**numbers)
        if isinstance(note.get("left_out"), dict):
            left_out += sum(as_count(n) or 0 for n in note["left_out"].values())
    return RankFacts(
        rank=rank.rank,
        ended=bool(rank.of("end")),
        backward=when.count(backward),
        optimizer_steps=when.count(steps),
        late_backward=when.late_backward(backward, opened, rank.slack_s),
        parameters=state,
        replaced_clocks=tuple(sorted(set(replaced))),
        left_out=left_out,
    )


def texts(ranks: Iterable[RankNotes], kind: str, name: str) -> tuple[str, ...]:
    """Distinct texts of one kind of note, at most 60."""
    found = dict.fromkeys(as_text(note.get(name), 200) for rank in ranks for note in rank.of(kind))
    return tuple(found)[:TEXTS_LIMIT]


def as_list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def as_dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def as_moment(value: object) -> float | None:
    """A finite number of seconds."""
    if isinstance(value, int | float) and abs(value) < 1e12:
        return float(value)
    return None


def as_count(value: object) -> int | None:
    """A whole number that JSON can hold."""
    return value if type(value) is int and 0 <= value < 2**53 else None


def as_text(value: object, limit: int = 300) -> str:
    """Text that a report can hold: no lone surrogates, not too long."""
    return str(value)[:limit].encode("utf-8", "backslashreplace").decode()
