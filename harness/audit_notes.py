"""What the shim and the observer noted -> the facts of a report. Pure but for reading the notes.

Notes come from the candidate's process: they are bounded, and a line that makes no sense is
counted and passed over.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.audit_phases import Timeline, timeline
from harness.audit_report import (
    CompilerFacts,
    FileUse,
    Mark,
    ParameterState,
    RankFacts,
)
from harness.audit_zones import Zones

NOTES_LIMIT_BYTES = 32 << 20
FILES_LIMIT = 1500
TEXTS_LIMIT = 60
LAG_S, ROUNDED_S = 5.0, 0.001
AHEAD_S = 0.25
"""A rank that prints nothing may begin the next step while rank 0 still formats its line."""
QUIET_ZONES = frozenset({"python", "system"})
DATA_LIKE_BYTES = 1 << 20
"""Files outside the known zones are listed when written, or when at least this large."""


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
            float(at)
            for note in self.of(kind)
            for at in note.get("at", ())
            if isinstance(at, int | float)
        ]


def read_notes(folder: Path) -> list[RankNotes]:
    """Notes of every rank, by rank."""
    found = []
    for path in sorted(folder.glob("rank-*.jsonl"))[:64]:
        parts = path.stem.split("-")
        if len(parts) != 3 or not parts[1].isdigit() or not parts[2].isdigit():
            continue
        rank = RankNotes(int(parts[1]), int(parts[2]))
        with path.open("rb") as file:
            data = file.read(NOTES_LIMIT_BYTES)
        for line in data.split(b"\n"):
            try:
                note = json.loads(line) if line else None
            except (ValueError, RecursionError):
                rank.broken += 1
                continue
            if isinstance(note, dict) and isinstance(note.get("t"), int | float):
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
        replaced += [str(name)[:60] for name in _list(note.get("replaced"))]
        if isinstance(note.get("parameters"), dict):
            numbers = {
                name: value
                for name in ("tensors", "same", "kept", "fresh")
                if isinstance(value := note["parameters"].get(name), int)
            }
            if len(numbers) == 4:
                state = ParameterState(**numbers)
        if isinstance(note.get("left_out"), dict):
            left_out += sum(n for n in note["left_out"].values() if isinstance(n, int))
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


@dataclass(slots=True)
class _Use:
    written: bool
    size: int | None = None
    moments: list[float] = field(default_factory=list)
    outside: list[float] = field(default_factory=list)
    read: int | None = None
    trained_after: list[float] = field(default_factory=list)
    existed: bool = False

    @property
    def first(self) -> float:
        return min([*self.moments, *self.outside], default=0.0)


def file_uses(
    ranks: Iterable[RankNotes],
    sightings: Mapping[str, list[float]],
    zones: Zones,
    when: Timeline,
    start_s: float,
    before: frozenset[str],
    wall_s: float,
) -> tuple[FileUse, ...]:
    """Every file worth naming, in the order of its first use.

    before   paths that were there before the run (shared memory)
    wall_s   start of the run, seconds since 1970
    """
    uses: dict[tuple[str, bool], _Use] = {}
    for rank in ranks:
        training = sorted(at - start_s for at in rank.moments("backward"))
        opens = rank.of("open")
        for i, note in enumerate(opens):
            path, written = str(note.get("path", "")), bool(note.get("w"))
            use = uses.setdefault((path, written), _Use(written))
            at = float(note["t"]) - start_s
            use.moments.append(at)
            size, changed = note.get("size"), note.get("mtime")
            use.size = size if isinstance(size, int) else use.size
            use.existed |= not written and isinstance(changed, float) and changed < wall_s
            if not written and when.phase(at) == "reset":
                use.read = max(use.read or 0, _read_until_clock(opens, i, rank))
            later = bisect_right(training, at)
            if later < len(training) and training[later] < when.next_validation(at) - rank.slack_s:
                use.trained_after.append(at)
        for note in rank.of("clock"):
            for path, touched in _dict(note.get("mapped")).items():
                use_ = uses.get((path, False))
                # Mapped pages count only for files that were not touched by the warm-up before.
                if use_ is not None and isinstance(touched, int) and use_.first > when.reset_s:
                    use_.read = max(use_.read or 0, touched)
    for path, moments in sightings.items():
        use = uses.setdefault((path, False), _Use(False))
        use.outside += [at - start_s for at in moments]
    named: list[FileUse] = []
    for (path, written), use in sorted(uses.items(), key=lambda item: (item[1].first, item[0])):
        zone, told = zones.place(path)
        if zone in QUIET_ZONES and (not written or path.startswith("/dev/")):
            continue
        small = (use.size or 0) < DATA_LIKE_BYTES
        if zone in ("home", "temporary", "source", "cache") and not written and small:
            continue
        named.append(
            FileUse(
                path=told[:300],
                zone=zone,
                written=written,
                size_bytes=use.size,
                opens=when.count(use.moments),
                seen_outside=when.count(use.outside),
                order=len(named),
                read_reset_bytes=use.read,
                trained_after=when.count(use.trained_after),
                existed=use.existed or path in before,
            )
        )
    return tuple(named[:FILES_LIMIT])


def _read_until_clock(opens: list[dict[str, Any]], i: int, rank: RankNotes) -> int:
    """Bytes the process read from this open to the next file's, or to the first result line."""
    start = opens[i].get("rchar")
    if not isinstance(start, int):
        return 0
    ends = [note.get("rchar") for note in opens[i + 1 :] if note.get("path") != opens[i]["path"]]
    ends += [note.get("rchar") for note in rank.of("clock") if note["t"] >= opens[i]["t"]]
    numbers = [end for end in ends if isinstance(end, int) and end >= start]
    return min(numbers) - start if numbers else 0


def compiler_facts(
    ranks: Iterable[RankNotes], defaults: Mapping[str, Mapping[str, str]]
) -> CompilerFacts:
    """torch.compile's arguments and every configuration value that is not the untouched one."""
    kwargs: list[dict[str, str]] = []
    values: dict[str, list[str]] = {}
    patches: dict[str, str] = {}
    variables: dict[str, str] = {}
    for rank in ranks:
        for note in rank.of("compile"):
            told = {str(n)[:60]: str(v)[:200] for n, v in _dict(note.get("kwargs")).items()}
            if told not in kwargs and len(kwargs) < TEXTS_LIMIT:
                kwargs.append(told)
        for note in rank.of("config"):
            module = str(note.get("module"))
            untouched = defaults.get(module)
            for name, value in _dict(note.get("values")).items():
                key = f"{module}.{name}"
                if untouched is None or untouched.get(name, value) == value:
                    continue
                seen = values.setdefault(key, [untouched[name]])
                if str(value) not in seen and len(values) <= 200:
                    seen.append(str(value)[:300])
        for note in rank.of("patches"):
            patches |= {str(n)[:100]: str(v)[:200] for n, v in _dict(note.get("values")).items()}
        for note in rank.of("putenv"):
            name = str(note.get("name"))
            # torch itself writes down where its cache is.
            if not name.endswith("_CACHE_DIR"):
                variables[name[:100]] = str(note.get("value"))[:200]
    return CompilerFacts(
        compile_kwargs=tuple(kwargs),
        config={name: tuple(seen) for name, seen in sorted(values.items())},
        patches=patches,
        variables=variables,
    )


def texts(ranks: Iterable[RankNotes], kind: str, name: str) -> tuple[str, ...]:
    """Distinct texts of one kind of note, at most 60."""
    found = dict.fromkeys(str(note.get(name))[:200] for rank in ranks for note in rank.of(kind))
    return tuple(found)[:TEXTS_LIMIT]


def has_config(ranks: Iterable[RankNotes]) -> bool:
    return any(rank.of("config") for rank in ranks)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
