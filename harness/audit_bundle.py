"""The audit of a bundle's candidate: run it, put it into the bundle, hash it into the ledger."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from pathlib import Path

from harness.audit import AuditJob, audit
from harness.audit_report import AuditReport
from harness.bundle import BundlePaths
from harness.canonical import sha256_file
from harness.environment import read_environment
from harness.errors import UnfitError
from harness.ledger import Audited, Ledger
from harness.places import repository
from harness.plan import Plan
from harness.protection import planned_protection
from harness.submission import compile_caches
from harness.tracks.track import Track


class AuditInterruptedError(Exception):
    """Ctrl-C: nothing was recorded; the audit can be started again."""


def bundle_job(paths: BundlePaths, plan: Plan, track: Track) -> AuditJob:
    """The candidate as it was timed: same interpreter, processes, data and compile caches."""
    environment = read_environment(
        paths.environment.read_text(encoding="utf-8"), str(paths.environment)
    )
    return AuditJob(
        source=paths.source("candidate"),
        script=plan.candidate.script,
        source_sha256=plan.candidate.source_sha256,
        track=track,
        python=plan.launch.python,
        processes=plan.launch.processes,
        data_root=Path(plan.launch.data_root),
        timeout_s=plan.launch.timeout_s,
        stall_s=plan.launch.stall_s,
        parent_environment=dict(os.environ),
        caches=compile_caches(track, plan, environment)["candidate"],
        contest=contest_folders(paths.root),
        protection=planned_protection(plan, track, paths.root),
    )


def contest_folders(*more: Path) -> tuple[Path, ...]:
    """Folders in which a candidate has no business while it runs."""
    root = repository()
    own = (root / "baseline", root / "results") if root is not None else ()
    return (*own, *more)


def audit_twice(job: AuditJob, out: Path, stop: threading.Event | None = None) -> AuditReport:
    """A run that crashes is made once more: torch aborts at exit now and then (1 of 30 seen).

    Raises UnfitError.
    """
    report = audit(job, out, stop)
    stopped = stop is not None and stop.is_set()
    if stopped or (report.end.reason == "exit" and report.end.exit_code == 0):
        return report
    report = audit(job, out, stop).model_copy(update={"attempts": 2})
    (out / "audit.json").write_text(report.text(), encoding="utf-8")
    return report


def record_audit(
    paths: BundlePaths,
    plan: Plan,
    track: Track,
    ledger: Ledger,
    stop: threading.Event | None = None,
) -> AuditReport:
    """Audit the candidate and record it. The bundle is locked by the caller.

    Raises UnfitError where it cannot be run or written, AuditInterruptedError when `stop` was set.
    """
    with tempfile.TemporaryDirectory(prefix="speedrun-audited-") as folder:
        out = Path(folder) / "audit"
        report = audit_twice(bundle_job(paths, plan, track), out, stop)
        if report.end.reason == "stopped" or (stop is not None and stop.is_set()):
            raise AuditInterruptedError
        try:
            shutil.rmtree(paths.audit, ignore_errors=True)  # left by a killed audit, in no ledger
            shutil.copytree(out, paths.audit)
            ledger.append(
                Audited,
                source_sha256=report.source_sha256,
                files={p.name: sha256_file(p) for p in sorted(paths.audit.iterdir())},
            )
        except OSError as error:
            raise UnfitError(
                "the audit cannot be written into the bundle",
                where=str(paths.audit),
                why=str(error.strerror or error),
                fix=f"make room, then: speedrun audit {paths.root}",
            ) from None
    return report
