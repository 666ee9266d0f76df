"""The ledger: every event of a series, one JSON line each, chained by sha256.

A run is in the ledger before its process starts. Each line carries the hash of the line before,
so a removed, edited or reordered line breaks the chain at a nameable place. A chain proves the
order and integrity of what was kept; it cannot prove that nothing else was ever run elsewhere, nor
that its end was not cut off before anyone saw it: only an outside witness closes that.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from harness.canonical import dumps_line, sha256_text
from harness.errors import EvidenceError
from harness.plan import ArmName, Record

GENESIS = "0" * 64
LINE_LIMIT = 1_000_000
RunId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$")]

FailReason = Literal["crash", "timeout", "stall", "divergence", "garbage", "output", "disk"]


class _Event(Record):
    seq: int = Field(ge=0)
    utc: str
    previous_sha256: str


class Planned(_Event):
    event: Literal["planned"] = "planned"
    plan_sha256: str
    environment_sha256: str = Field(description="of environment.json, taken before run 1")


class Started(_Event):
    """Written before the process exists."""

    event: Literal["started"] = "started"
    run_id: RunId
    arm: ArmName
    pair: int
    attempt: int
    source_sha256: str
    command: tuple[str, ...]
    environment: dict[str, str] = Field(description="every variable the run was given")
    dropped: tuple[str, ...] = Field(
        default=(), description="names of variables that were set and not passed on"
    )


class _Ended(_Event):
    run_id: RunId
    wall_s: float
    exit_code: int | None
    files: dict[str, str] = Field(description="file name under runs/ -> sha256")


class Finished(_Ended):
    event: Literal["finished"] = "finished"


class Failed(_Ended):
    event: Literal["failed"] = "failed"
    reason: FailReason
    detail: str = ""


class Lost(_Event):
    """A run without an end: the harness was killed, or was asked to stop in the middle."""

    event: Literal["lost"] = "lost"
    run_id: RunId
    why: str
    files: dict[str, str] = Field(default_factory=dict)


class Excluded(_Event):
    event: Literal["excluded"] = "excluded"
    run_id: RunId
    criterion: str
    evidence: str


class Looked(_Event):
    """A planned look was taken; figures as computed then, recomputed by verify."""

    event: Literal["looked"] = "looked"
    runs: int
    loss_p: float | None
    timing_p: float | None
    decision: Literal["continue", "stop"]


class Resumed(_Event):
    event: Literal["resumed"] = "resumed"
    environment_sha256: str


class Interrupted(_Event):
    event: Literal["interrupted"] = "interrupted"
    by: str


class Closed(_Event):
    """The series ended by its plan; nothing may follow."""

    event: Literal["closed"] = "closed"
    why: str


class Audited(_Event):
    """The candidate's audit run; may come after the series was closed, and only once."""

    event: Literal["audited"] = "audited"
    source_sha256: str = Field(description="of the candidate that was audited")
    files: dict[str, str] = Field(description="file name under audit/ -> sha256")


Event = Annotated[
    Planned
    | Started
    | Finished
    | Failed
    | Lost
    | Excluded
    | Looked
    | Resumed
    | Interrupted
    | Closed
    | Audited,
    Field(discriminator="event"),
]
_EVENT: TypeAdapter[Event] = TypeAdapter(Event)


def utc_now() -> str:
    """Now, UTC, ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def event_line(event: Event) -> str:
    """The line that is written and hashed."""
    return dumps_line(event.model_dump(mode="json"))


class Ledger:
    """Append-only file. Every append is flushed to disk before it returns."""

    def __init__(self, path: Path, events: list[Event], head: str) -> None:
        self.path = path
        self.events = events
        self.head = head

    @classmethod
    def create(cls, path: Path) -> Ledger:
        """A new, empty ledger; raises FileExistsError if there is one."""
        path.touch(exist_ok=False)
        return cls(path, [], GENESIS)

    @classmethod
    def open(cls, path: Path) -> Ledger:
        """An existing ledger, to be continued. A last line cut by a crash is dropped and mended.

        Raises EvidenceError if the file cannot be read, or the chain is broken anywhere before
        the last line; the file is then left as it is.
        """
        try:
            data = path.read_bytes()
            # A line is written with one write() and fsync: a tail without newline was never
            # acknowledged, so nothing that happened is lost by cutting it. It may end inside a
            # character, so it is cut before decoding.
            whole = data[: data.rfind(b"\n") + 1]
            events = read_ledger(ledger_lines(whole.decode("utf-8")), str(path))
            if len(whole) < len(data):
                os.truncate(path, len(whole))
        except UnicodeDecodeError as error:
            raise EvidenceError(
                "the ledger is not UTF-8 text", where=str(path), why=str(error)
            ) from None
        except OSError as error:
            raise EvidenceError(
                "the ledger cannot be read",
                where=str(path),
                why=str(error.strerror or error),
                fix="restore ledger.jsonl as it was written",
            ) from None
        head = sha256_text(event_line(events[-1])) if events else GENESIS
        return cls(path, events, head)

    def append(self, kind: type[_Event], **fields: object) -> None:
        """Chain one event and put it on disk.

        Raises OSError (disk full) with the file as it was before.
        """
        event: Event = _EVENT.validate_python(
            {
                **fields,
                "event": kind.model_fields["event"].default,
                "seq": len(self.events),
                "utc": utc_now(),
                "previous_sha256": self.head,
            }
        )
        line = event_line(event)
        size = self.path.stat().st_size
        try:
            with self.path.open("ab") as handle:
                handle.write(line.encode() + b"\n")
                handle.flush()
                os.fsync(handle.fileno())
        except OSError:
            os.truncate(self.path, size)
            raise
        self.events.append(event)
        self.head = sha256_text(line)


def ledger_lines(text: str) -> list[str]:
    """The lines of ledger.jsonl. Only a newline ends one: `str.splitlines` would also cut at
    U+2028 and its like, which JSON leaves as they are."""
    lines = text.split("\n")
    return lines if lines[-1] else lines[:-1]


def read_ledger(lines: Iterable[str], where: str) -> list[Event]:
    """Events of a ledger; raises EvidenceError at the first line that breaks schema or chain."""
    events: list[Event] = []
    previous = GENESIS
    for number, line in enumerate(lines, start=1):
        place = f"{where}:{number}"
        if len(line) > LINE_LIMIT:
            raise EvidenceError("a ledger line is longer than any event", where=place)
        try:
            event = _EVENT.validate_json(line)
            written = event_line(event)
        except (ValueError, RecursionError) as error:
            first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise EvidenceError(
                "a ledger line breaks its schema",
                where=place,
                why=str(first),
                fix="restore ledger.jsonl as it was written; it is never edited by hand",
            ) from None
        if written != line:
            raise EvidenceError("a ledger line is not in canonical form", where=place)
        if event.previous_sha256 != previous or event.seq != len(events):
            raise EvidenceError(
                "the ledger's hash chain is broken",
                where=place,
                why="this line does not follow from the line before: a line was edited, "
                "removed, inserted or moved",
                fix="restore ledger.jsonl as it was written",
            )
        previous = sha256_text(line)
        events.append(event)
    return events
