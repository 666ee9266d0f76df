"""What `submit` does, step by step: preflight, plan, series, verdict, report."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from harness.audit_bundle import AuditInterruptedError, record_audit
from harness.bundle import Bundle, BundlePaths, is_bundle, read_bundle
from harness.environment import Environment, describe_machine, read_environment, same_node
from harness.errors import EXIT_INTERRUPTED, UnfitError, UsageError
from harness.ledger import Ledger, Resumed
from harness.live_board import BoardState, BoardWatcher, LineWatcher
from harness.looks import progress
from harness.places import repository
from harness.plan import Plan
from harness.protection import planned_protection
from harness.publish import publish
from harness.recovery import locked, mend_after_kill
from harness.runner.probe import probe_interpreter
from harness.runner.processes import adopt_orphans
from harness.samples import take_samples
from harness.series import Series, SeriesInterruptedError
from harness.submission import Prepared, Request, compile_caches, open_bundle, prepare
from harness.terminal import Terminal
from harness.tracks.track import Track


def start(request: Request, terminal: Terminal, as_json: bool, dry_run: bool) -> int:
    """A new series. Returns the exit code. Raises SpeedrunError."""
    prepared = prepare(request)
    for warning in prepared.warnings:
        terminal.warning(f"warning: {warning}")
    for reason in prepared.plan.exhibition:
        terminal.warning(f"exhibition, can never be a record: {reason}")
    announce(prepared, terminal)
    if dry_run:
        if as_json:
            terminal.json(prepared.plan.model_dump(mode="json"))
        return 0
    paths, ledger = open_bundle(prepared)
    terminal.info(f"bundle {paths.root}, plan {prepared.plan.sha256()[:16]} fixed before run 1")
    with locked(paths):
        return carry_out(paths, prepared.plan, prepared.track, ledger, terminal, as_json)


def carry_on(folder: Path, terminal: Terminal, as_json: bool) -> int:
    """Continue the series in `folder` under its own plan. Returns the exit code.

    Raises EvidenceError when the bundle was changed meanwhile, UnfitError on another node.
    """
    if not is_bundle(folder):
        raise UsageError(f"{folder} is no bundle", fix="give a folder that speedrun submit made")
    paths = BundlePaths(folder)
    with locked(paths):
        ledger = Ledger.open(paths.ledger)
        bundle = read_bundle(folder)
        bundle.require_unchanged("continued", fix="restore it, or start a new series")
        if not bundle.closed:
            _take_up(bundle, paths, ledger, terminal)
        return carry_out(paths, bundle.plan, bundle.track, ledger, terminal, as_json)


def _take_up(bundle: Bundle, paths: BundlePaths, ledger: Ledger, terminal: Terminal) -> None:
    """On the same node only: what was left open is closed, and the ledger says it goes on."""
    plan, track = bundle.plan, bundle.track
    needs = ("torch",) if track.hardware.launcher == "torchrun" else ()
    here = describe_machine(probe_interpreter(plan.launch.python, require=needs), repository())
    before = _environment(paths)
    differences = same_node(before, here)
    if differences:
        raise UnfitError(
            "this is not the node the series began on; times are never pooled across nodes",
            where=str(paths.root),
            why="; ".join(differences[:4]),
            fix="start a new series here",
        )
    mend_after_kill(paths, plan, ledger, LineWatcher(terminal, BoardState(plan, track)))
    ledger.append(Resumed, environment_sha256=here.sha256())


def _environment(paths: BundlePaths) -> Environment:
    return read_environment(paths.environment.read_text(encoding="utf-8"), str(paths.environment))


def carry_out(
    paths: BundlePaths,
    plan: Plan,
    track: Track,
    ledger: Ledger,
    terminal: Terminal,
    as_json: bool,
) -> int:
    """Run what the plan wants, judge, report. The bundle is locked by the caller. Returns the
    verdict's exit code, or that of an interruption. Raises UnfitError."""
    adopt_orphans()
    state = BoardState(plan, track)
    bundle = read_bundle(paths.root)
    state.runs = bundle.runs
    state.progress = progress(plan, track, take_samples(plan, bundle.runs))
    stop = threading.Event()
    watcher = (
        BoardWatcher(terminal, state) if terminal.interactive else LineWatcher(terminal, state)
    )
    interrupted = False
    try:
        with watcher, _stopping(stop, watcher):
            series = Series(
                paths=paths,
                plan=plan,
                track=track,
                ledger=ledger,
                watcher=watcher,
                parent_environment=dict(os.environ),
                caches=compile_caches(track, plan, _environment(paths)),
                stop=stop,
                protection=None if bundle.closed else planned_protection(plan, track, paths.root),
            )
            series.run()
            _audit(paths, plan, track, ledger, watcher, stop)
    except (SeriesInterruptedError, AuditInterruptedError):
        interrupted = True
    verdict = publish(paths, terminal, as_json)
    if interrupted:
        terminal.failure("stopped by Ctrl-C; a run that was going on is in the ledger as lost")
        terminal.info(f"continue with: {_continue(plan, paths)}")
        return EXIT_INTERRUPTED
    return verdict.exit_code


def _continue(plan: Plan, paths: BundlePaths) -> str:
    if plan.rerun is None:
        return f"speedrun submit --resume {paths.root}"
    return f"speedrun verify <{plan.rerun.bundle}> --rerun --resume {paths.root}"


def _audit(
    paths: BundlePaths,
    plan: Plan,
    track: Track,
    ledger: Ledger,
    watcher: BoardWatcher | LineWatcher,
    stop: threading.Event,
) -> None:
    """The audit run of a series that is over, where the track asks for one. A series that cannot
    be audited here keeps its evidence; its verdict says what is missing."""
    bundle = read_bundle(paths.root)
    if not track.audit.required or not bundle.closed or bundle.audit is not None:
        return
    watcher.note("the series is over; one more run of the candidate, untimed, to audit it")
    try:
        record_audit(paths, plan, track, ledger, stop)
    except UnfitError as error:
        watcher.note(f"the audit run could not be made: {error.what} ({error.why})")


@contextmanager
def _stopping(stop: threading.Event, watcher: BoardWatcher | LineWatcher) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask the run to stop; a second one does not tear the ledger."""

    def ask(signum: int, frame: FrameType | None) -> None:
        if not stop.is_set():
            watcher.note("stopping: the run is being ended and recorded")
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def announce(prepared: Prepared, terminal: Terminal) -> None:
    """What will be run, and what it costs at least and at most."""
    plan, track = prepared.plan, prepared.track
    design = plan.design
    most = plan.warm_up_runs + 2 * design.looks[-1]
    least = plan.warm_up_runs + 2 * design.looks[0]
    run_s = track.design.expected_run_s
    price = track.hardware.reference_price_per_hour
    terminal.info(f"track {track.name}: {track.contest.title}")
    terminal.info(
        f"candidate {plan.candidate.origin} ({plan.candidate.source_sha256[:12]}) against "
        f"{plan.baseline.origin} ({plan.baseline.source_sha256[:12]})"
    )
    looks = "/".join(str(look) for look in design.looks)
    terminal.info(
        f"{design.kind}: looks after {looks} runs, p ≤ {design.loss_p:g} for the loss and "
        f"≤ {design.timing_p:g} for the time (true level {design.alpha:g})"
    )
    hours = least * run_s / 3600, most * run_s / 3600
    cost = f", {_span(*(f'${h * price:.0f}' for h in hours))}" if price else ""
    terminal.info(
        f"{_span(str(least), str(most))} runs with {plan.launch.processes} process(es), about "
        f"{_span(*(f'{h * 60:.0f}' for h in hours))} min{cost}"
    )


def _span(least: str, most: str) -> str:
    return least if least == most else f"{least} to {most}"
