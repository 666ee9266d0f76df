"""What `retime` does: preflight, a night of interleaved runs, rows in the table, an answer.

    warm-up | reference record | record reference | reference record | …

The folder of the night holds what ran and what came: night.json, environment.json, README.md and
runs/. Every run stands in night.json before its process starts; its row is in the table as soon as
it has ended, so a night that is cut off keeps what it had.
"""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from harness import __version__
from harness.canonical import dumps
from harness.errors import (
    EXIT_ACCEPTED,
    EXIT_INTERRUPTED,
    EXIT_NOT_PROVEN,
    EXIT_RUNS_FAILED,
    EXIT_UNFIT,
    UnfitError,
    UsageError,
)
from harness.ledger import utc_now
from harness.nightly.assess import Assessment, assess
from harness.nightly.document import document
from harness.nightly.table import NightlyRow, append_rows, read_table
from harness.nightly.text import issue, summary
from harness.places import cache_root
from harness.report.write import replace_file
from harness.retime_run import Kind, NightSetup, RunRecord, class_name, run_once
from harness.retime_setup import RetimeRequest, prepare_night, unwritable
from harness.runner.processes import adopt_orphans
from harness.terminal import Terminal
from harness.tracks.track import load_track

MOST_RUNS = 50
MOST_FAILURES = 2
"""A night with so many failed runs of the record is ended: the node is paid by the minute."""


def retime(request: RetimeRequest, terminal: Terminal, as_json: bool) -> int:
    """A night, or with no runs only its assessment. Returns the exit code.

    0 no change, 1 the newest night raised an alarm, 4 no run gave an undisturbed time, 5 a run of
    the record failed or the reference gave nothing, 130 interrupted. Raises SpeedrunError.
    """
    if not 0 <= request.runs <= MOST_RUNS:
        raise UsageError(f"--runs {request.runs} is no night", fix=f"0 to {MOST_RUNS}, usually 3")
    track = load_track(request.track)
    table = request.out / f"{track.name}.csv"
    read_table(table)  # a broken table is found before a run is paid for
    tonight: list[NightlyRow] = []
    interrupted = False
    chosen: str | None = None
    folder: Path | None = None
    if request.runs:
        with _alone():
            setup = prepare_night(request, track, terminal)
            folder = setup.paths.root
            chosen = class_name(track, setup.environment, setup.launch.processes)
            with _stopping(terminal) as stop:
                tonight = _run_night(setup, request.runs, table, terminal, stop)
            interrupted = stop.is_set()
    found = assess(read_table(table), track, chosen)
    failures = [f"{row.kind} {row.run}: {row.note}" for row in tonight if row.state == "failed"]
    code = EXIT_INTERRUPTED if interrupted else _exit_code(found, tonight)
    _report(request, found, failures, folder, terminal)
    if as_json:
        terminal.json(document(found, tonight, failures, code, folder))
    return code


def _exit_code(found: Assessment, tonight: Sequence[NightlyRow]) -> int:
    if any(row.state == "failed" and row.kind != "reference" for row in tonight):
        return EXIT_RUNS_FAILED
    for kind in ("record", "reference"):
        rows = [row for row in tonight if row.kind == kind]
        if rows and not any(row.state == "finished" for row in rows):
            return EXIT_RUNS_FAILED
    record = [row for row in tonight if row.kind == "record"]
    if record and not any(row.counts for row in record):
        return EXIT_UNFIT
    return EXIT_NOT_PROVEN if found.alert else EXIT_ACCEPTED


# -- the night ------------------------------------------------------------------------------------


def order_of_runs(runs: int) -> tuple[tuple[Kind, int], ...]:
    """The warm-up, then rounds of reference and record, whose order turns round by round: drift
    over the night cancels."""
    order: list[tuple[Kind, int]] = [("warm-up", 1)]
    for number in range(1, runs + 1):
        both: list[tuple[Kind, int]] = [("reference", number), ("record", number)]
        order += both if number % 2 else both[::-1]
    return tuple(order)


def _run_night(
    setup: NightSetup,
    runs: int,
    table: Path,
    terminal: Terminal,
    stop: threading.Event,
) -> list[NightlyRow]:
    adopt_orphans()
    order = order_of_runs(runs)
    state = _state(setup, order)
    rows: list[NightlyRow] = []
    failures = 0
    for i, (kind, number) in enumerate(order):
        if stop.is_set() or failures >= MOST_FAILURES:
            break
        state["runs"][i] |= {"state": "started", "utc": utc_now()}
        _write_state(setup, state)
        terminal.info(f"run {i + 1} of {len(order)}: {kind} {number}")
        record = run_once(setup, kind, number, stop)
        state["runs"][i] |= _ended(record)
        _write_state(setup, state)
        append_rows(table, [record.row])
        rows.append(record.row)
        failures += record.row.state == "failed" and kind != "reference"
        _tell(record.row, terminal)
    state["state"] = "interrupted" if stop.is_set() else "ended"
    _write_state(setup, state)
    return rows


def _state(setup: NightSetup, order: Sequence[tuple[Kind, int]]) -> dict[str, Any]:
    """night.json before the first run."""
    return {
        "schema_version": 1,
        "night": setup.night,
        "track": setup.track.name,
        "state": "running",
        "harness_version": __version__,
        "environment_sha256": setup.environment.sha256(),
        "compile_caches": setup.launch.compile_caches,
        "data_sha256": setup.launch.data_sha256,
        "sources": {
            name: {"script": s.script, "sha256": s.sha256(), "files": s.hashes()}
            for name, s in (("record", setup.record), ("reference", setup.reference))
        },
        "runs": [
            {
                "kind": kind,
                "run": number,
                "state": "planned",
                "command": list(setup.command(kind)),
            }
            for kind, number in order
        ],
    }


def _ended(record: RunRecord) -> dict[str, Any]:
    row = record.row
    return {
        "state": row.state,
        "counts": row.counts,
        "note": row.note,
        "train_ms": row.train_ms,
        "loss_nats": row.loss_nats,
        "wall_s": row.wall_s,
        "files": record.files,
        "environment": record.environment,
        "dropped": list(record.dropped),
    }


def _write_state(setup: NightSetup, state: dict[str, Any]) -> None:
    try:
        replace_file(setup.paths.root / "night.json", dumps(state))
    except OSError as error:
        raise unwritable(setup.paths.root, error) from None


def _tell(row: NightlyRow, terminal: Terminal) -> None:
    if row.state != "finished":
        terminal.failure(f"  {row.kind} {row.run} {row.state}: {row.note}")
        return
    time = f"{row.train_ms:.4f} ms" if row.kind == "reference" else f"{row.train_ms:.0f} ms"
    loss = "" if row.loss_nats is None else f", loss {row.loss_nats:.5f}"
    terminal.info(f"  {time}{loss}" + (f"  ({row.note})" if row.note else ""))


@contextmanager
def _alone() -> Iterator[None]:
    """Two nights at once on one machine would time each other."""
    folder = cache_root()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "retime.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise unwritable(folder, error) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UnfitError(
                "another retime is running on this machine",
                why="two at once would time each other",
                fix="wait for it, or stop it with Ctrl-C",
            ) from None
        yield
    finally:
        os.close(lock)


@contextmanager
def _stopping(terminal: Terminal) -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM ask the run to stop; what has ended is already in the table."""
    stop = threading.Event()

    def ask(signum: int, frame: FrameType | None) -> None:
        if not stop.is_set():
            terminal.warning("stopping: the run is being ended and written down")
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# -- the answer -----------------------------------------------------------------------------------


def _report(
    request: RetimeRequest,
    found: Assessment,
    failures: Sequence[str],
    folder: Path | None,
    terminal: Terminal,
) -> None:
    text = summary(found, failures)
    command = f"speedrun retime --track {request.track} --runs {request.runs or 3}"
    try:
        if folder is not None:
            replace_file(folder / "README.md", text)
        if request.issue_text is not None:
            replace_file(request.issue_text, issue(found, failures, command))
        job = os.environ.get("GITHUB_STEP_SUMMARY")
        if job:
            with Path(job).open("a", encoding="utf-8") as handle:
                handle.write(text)
    except OSError as error:
        raise unwritable(Path(error.filename or request.out), error) from None
    from rich.markdown import Markdown

    terminal.show(Markdown(text))
