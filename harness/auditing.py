"""What `audit` does: of a bundle or of a script, and how the findings are told."""

from __future__ import annotations

import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

from harness.audit_bundle import (
    AuditInterruptedError,
    audit_twice,
    bundle_job,
    record_audit,
)
from harness.audit_report import AuditReport
from harness.bundle import Bundle, BundlePaths, is_bundle, read_bundle
from harness.checks.audited import check_audited
from harness.checks.case import Case
from harness.checks.check import Check
from harness.checks.compiler import check_compiler
from harness.checks.data import check_data
from harness.checks.leak import check_leak
from harness.checks.loss import check_loss
from harness.checks.untimed import check_untimed
from harness.errors import (
    EXIT_ACCEPTED,
    EXIT_INTERRUPTED,
    EXIT_NOT_PROVEN,
    EXIT_RULE_BROKEN,
)
from harness.ledger import Ledger
from harness.looks import progress
from harness.publish import append_check, write_verdict
from harness.recovery import locked
from harness.request import Request
from harness.results import loss_result, timing_result
from harness.runner.processes import adopt_orphans
from harness.samples import take_samples
from harness.submission import open_bundle, prepare
from harness.terminal import Terminal

AUDIT_CHECKS = (
    check_audited,
    check_loss,
    check_leak,
    check_data,
    check_untimed,
    check_compiler,
)


def audit_command(
    what: Path, request: Request, keep: Path | None, terminal: Terminal, as_json: bool
) -> int:
    """Audit a bundle or a script, tell the findings. Returns the exit code.

    keep   folder for the run's log and report; None keeps none (a bundle's own audit lies in it)
    Raises SpeedrunError.
    """
    adopt_orphans()
    try:
        with tempfile.TemporaryDirectory(prefix="speedrun-audit-") as folder, _stopping() as stop:
            out = keep or Path(folder) / "audit"
            if is_bundle(what):
                bundle, report = _of_bundle(what, out, terminal, stop)
            else:
                bundle, report = _of_script(request, Path(folder), out, stop)
    except AuditInterruptedError:
        terminal.failure("stopped by Ctrl-C; nothing was recorded")
        return EXIT_INTERRUPTED
    checks = audit_checks(replace(bundle, audit=report))
    _tell(checks, terminal)
    if keep is not None:
        terminal.info(f"kept     {keep}")
    code = _exit_code(checks)
    if as_json:
        terminal.json(
            {
                "report": report.model_dump(mode="json"),
                "checks": [check.model_dump(mode="json") for check in checks],
                "exit_code": code,
            }
        )
    return code


def audit_checks(bundle: Bundle) -> tuple[Check, ...]:
    """The checks that rest on the audit run, of a bundle that may hold no series yet."""
    samples = take_samples(bundle.plan, bundle.runs)
    state = progress(bundle.plan, bundle.track, samples)
    case = Case(
        bundle,
        samples,
        state,
        loss_result(bundle.plan, bundle.track, samples, state),
        timing_result(bundle.plan, bundle.track, samples, state),
    )
    return tuple(check(case) for check in AUDIT_CHECKS)


def _of_bundle(
    root: Path, out: Path, terminal: Terminal, stop: threading.Event
) -> tuple[Bundle, AuditReport]:
    """Recorded in a bundle that has no audit; beside one that has."""
    paths = BundlePaths(root)
    bundle = read_bundle(root)
    bundle.require_unchanged("audited")
    if bundle.audit is not None:
        terminal.info("the bundle has its audit; this one is made anew and not recorded")
        report = audit_twice(bundle_job(paths, bundle.plan, bundle.track), out, stop)
        if stop.is_set():
            raise AuditInterruptedError
        return bundle, report
    with locked(paths):
        ledger = Ledger.open(paths.ledger)
        report = record_audit(paths, bundle.plan, bundle.track, ledger, stop)
        write_verdict(paths)
    return bundle, report


def _of_script(
    request: Request, folder: Path, out: Path, stop: threading.Event
) -> tuple[Bundle, AuditReport]:
    """The script as a candidate against itself: a plan, no series."""
    prepared = prepare(
        replace(request, baseline=request.candidate, exhibition=True, out=folder / "results")
    )
    paths, _ = open_bundle(prepared)
    report = audit_twice(bundle_job(paths, prepared.plan, prepared.track), out, stop)
    if stop.is_set():
        raise AuditInterruptedError
    return read_bundle(paths.root), report


def _tell(checks: tuple[Check, ...], terminal: Terminal) -> None:
    from rich.text import Text

    text = Text()
    for check in checks:
        append_check(text, check, terminal.columns)
    terminal.console.print(text, soft_wrap=True, end="")


def _exit_code(checks: tuple[Check, ...]) -> int:
    statuses = {check.status for check in checks}
    if "fail" in statuses:
        return EXIT_RULE_BROKEN
    return EXIT_NOT_PROVEN if "unproven" in statuses else EXIT_ACCEPTED


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM end the run, which is then cleaned up after."""
    stop = threading.Event()

    def ask(signum: int, frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
