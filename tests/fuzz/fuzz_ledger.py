"""Any bytes as ledger.jsonl: as they are, or chained anew so that the schema lies behind no hash.

First byte: bit 0 chains every line that is a JSON object anew; bit 1 opens the ledger to go on
with it, as `submit --resume` does, and appends an event; bit 2 takes the bytes not as the file but
as edits of a ledger with every kind of event (one a line: event, field, JSON), so that mutation
goes into values and not into braces.
"""

from __future__ import annotations

import json
from pathlib import Path

from harness.canonical import dumps_line, sha256_text
from harness.errors import EvidenceError
from harness.ledger import (
    GENESIS,
    Audited,
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
from tests.fuzz.target import Target

DIGEST = "0" * 64


def make_target(folder: Path) -> Target:
    """A target that keeps its one file in `folder`."""
    path = folder / "ledger.jsonl"
    whole = every_event(folder)

    def one_input(data: bytes) -> None:
        mode, text = (data[:1] or b"\0")[0], data[1:]
        if mode & 4:
            text = edited(whole, text)
        if mode & 5:
            text = chained(text)
        if mode & 2:
            resume(path, text)
            return
        try:
            lines = ledger_lines(text.decode("utf-8"))
        except UnicodeDecodeError:
            return  # bundle_files.safe_text refuses it
        try:
            events = read_ledger(lines, "ledger")
        except EvidenceError:
            return
        assert [event_line(event) for event in events] == lines

    return Target(one_input, {name: mode + text for name, mode, text in seeds(whole)})


def resume(path: Path, data: bytes) -> None:
    """Open and append; the file is left alone where it is refused."""
    path.write_bytes(data)
    try:
        ledger = Ledger.open(path)
    except EvidenceError:
        assert path.read_bytes() == data
        return
    ledger.append(Interrupted, by="fuzz")
    after = path.read_bytes()
    assert after.startswith(data[: data.rfind(b"\n") + 1])
    assert read_ledger(ledger_lines(after.decode()), "ledger") == ledger.events


def chained(data: bytes) -> bytes:
    """The lines that hold a JSON object, numbered and chained as a careful cheat would."""
    previous, lines = GENESIS, []
    for line in data.split(b"\n"):
        try:
            event = json.loads(line)
            if not isinstance(event, dict):
                raise ValueError
            written = dumps_line({**event, "seq": len(lines), "previous_sha256": previous})
            previous = sha256_text(written)
        except (ValueError, RecursionError):
            lines.append(line.decode("utf-8", "replace"))
            continue
        lines.append(written)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def edited(whole: bytes, edits: bytes) -> bytes:
    """The ledger with fields of its events replaced: a line is event, field and the new value.

    A field number beyond the fields adds one; no JSON behind it removes the field; an event number
    of 128 and more takes the event out.
    """
    events = [json.loads(line) for line in whole.splitlines()]
    out: list[dict[str, object] | None] = list(events)
    for line in edits.split(b"\n"):
        if len(line) < 2:
            continue
        at = line[0] % len(events)
        event = out[at]
        if event is None:
            continue
        if line[0] & 128:
            out[at] = None
            continue
        names = sorted(event)
        name = names[line[1]] if line[1] < len(names) else "extra"
        try:
            event[name] = json.loads(line[2:])
        except (ValueError, RecursionError):
            event.pop(name, None)
    return b"\n".join(json.dumps(event).encode() for event in out if event is not None) + b"\n"


def every_event(folder: Path) -> bytes:
    """A chain with every kind of event."""
    path = folder / "seed.jsonl"
    ledger = Ledger.create(path)
    run = {"run_id": "candidate-01"}
    end = {**run, "wall_s": 1.5, "exit_code": 0, "files": {"candidate-01.log": DIGEST}}
    ledger.append(Planned, plan_sha256=DIGEST, environment_sha256=DIGEST)
    ledger.append(
        Started, **run, arm="candidate", pair=0, attempt=1, source_sha256=DIGEST,
        command=("python", "x.py"), environment={"A": "é\u2028"}, dropped=("B",),
    )  # fmt: skip
    ledger.append(Finished, **end)
    ledger.append(Failed, **{**end, "exit_code": None}, reason="crash", detail="killed")
    ledger.append(Lost, **run, why="stopped")
    ledger.append(Excluded, **run, criterion="throttle", evidence="90 °C")
    ledger.append(Looked, runs=5, loss_p=None, timing_p=1e-9, decision="continue")
    ledger.append(Resumed, environment_sha256=DIGEST)
    ledger.append(Interrupted, by="Ctrl-C")
    ledger.append(Closed, why="over")
    ledger.append(Audited, source_sha256=DIGEST, files={"audit.json": DIGEST})
    whole = path.read_bytes()
    path.unlink()
    return whole


def seeds(whole: bytes) -> list[tuple[str, bytes, bytes]]:
    """(name, mode, bytes): the chain whole and torn, its events alone, edits of it."""
    lines = whole.splitlines(keepends=True)
    values = (b"null", b"-1", b"1e400", b'""', b"[]", b"{}", b"true", b'"lost"', b"9" * 30, b"")
    # 44 is a multiple of the number of events; the byte 10 would end the line.
    edits = [bytes([44 + i, j]) + values[(i + j) % 10] for i in range(len(lines)) for j in range(9)]
    return [
        ("whole", b"\0", whole),
        ("torn", b"\2", whole[:-9]),
        ("resumed", b"\2", whole),
        ("rechained", b"\1", whole),
        *((f"event-{i:02d}", bytes([1 + 2 * (i % 2)]), line) for i, line in enumerate(lines)),
        *((f"edit-{i:02d}", bytes([4 + i % 4]), edit) for i, edit in enumerate(edits)),
    ]
