"""An audit in a bundle: hashed into the ledger, once, and read back as it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.audit import AuditJob
from harness.audit_bundle import AuditInterruptedError, record_audit
from harness.audit_report import AuditReport, Mark
from harness.bundle import BundlePaths, read_bundle
from harness.canonical import sha256_file
from harness.ledger import Audited, Ledger
from tests.support.tamper import Copy

LINES = (
    "step:0/2 val_loss:10.8 train_time:0ms step_avg:0.00ms\n"
    "step:2/2 val_loss:3.27 train_time:9ms step_avg:4.50ms\n"
)


def put_audit(copy: Copy, report: AuditReport, log: str = LINES) -> None:
    """A recorded audit in a copy of a bundle."""
    paths = BundlePaths(copy.root)
    source = read_bundle(copy.root).plan.candidate.source_sha256
    marks = tuple(
        Mark(step=step, at_s=1.0 + step, train_ms=0.0, loss_nats=loss, final=step == 2)
        for step, loss in ((0, 10.8), (2, 3.27))
    )
    report = report.model_copy(update={"source_sha256": source, "marks": marks})
    paths.audit.mkdir()
    (paths.audit / "audit.json").write_text(report.text(), encoding="utf-8")
    (paths.audit / "run.log").write_text(log)
    Ledger.open(paths.ledger).append(
        Audited,
        source_sha256=source,
        files={path.name: sha256_file(path) for path in paths.audit.iterdir()},
    )


@pytest.fixture
def audited(accepted: Path, honest_audit: AuditReport, tmp_path: Path) -> Copy:
    copy = Copy(accepted, tmp_path)
    put_audit(copy, honest_audit)
    return copy


def test_it_may_follow_the_end_of_the_series(audited: Copy) -> None:
    bundle = read_bundle(audited.root)
    assert bundle.problems == ()
    assert bundle.closed
    assert bundle.audit is not None
    assert bundle.audit.final is not None
    assert bundle.audit.final.loss_nats == 3.27
    assert read_bundle(audited.root) == bundle


DOCTORED: dict[str, tuple[Callable[[Copy], Any], str]] = {
    "an edited report": (
        lambda c: c.edit("audit/audit.json", '"leftover": 0', '"leftover": 1'),
        "audit/audit.json: differs from what the ledger recorded",
    ),
    "an edited log": (
        lambda c: c.edit("audit/run.log", "3.27", "3.26"),
        "audit/run.log: differs from what the ledger recorded",
    ),
    "a file more": (
        lambda c: c.write("audit/more.txt", "x"),
        "audit/more.txt: was not there when the audit ended",
    ),
    "a file less": (
        lambda c: c.path("audit/run.log").unlink(),
        "audit/run.log: audit/run.log is missing",
    ),
    "no folder": (
        lambda c: shutil.rmtree(c.path("audit")),
        "audit/audit.json: audit/audit.json is missing",
    ),
    "a report that is none": (
        lambda c: c.write("audit/audit.json", "[]"),
        "audit/audit.json: audit.json breaks its schema",
    ),
    "two audits": (
        lambda c: c.rechain(lambda events: [*events, dict(events[-1])]),
        "ledger.jsonl: records more than one audit",
    ),
    "an audit that is in no ledger": (
        lambda c: c.rechain(lambda events: events[:-1]),
        "audit: is in no ledger",
    ),
    "an audit of another source": (
        lambda c: c.rechain(lambda events: events[-1].update(source_sha256="1" * 64)),
        "audit/audit.json: not of the source that the ledger names",
    ),
}


@pytest.mark.parametrize("what", DOCTORED)
def test_what_does_not_fit_is_named(what: str, audited: Copy) -> None:
    change, words = DOCTORED[what]
    change(audited)
    found = [f"{problem.where}: {problem.what}" for problem in read_bundle(audited.root).problems]
    assert any(line.startswith(words) or words in line for line in found), found
    assert "evidence" in audited.failing()


def test_the_log_must_end_as_the_report_says(
    accepted: Path, honest_audit: AuditReport, tmp_path: Path
) -> None:
    copy = Copy(accepted, tmp_path)
    put_audit(copy, honest_audit, LINES.replace("3.27", "3.29"))
    assert any("ends otherwise" in p.what for p in read_bundle(copy.root).problems)


def test_recording_a_crashed_run_takes_two_attempts(
    accepted: Path,
    honest_audit: AuditReport,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy = Copy(accepted, tmp_path)
    paths, bundle = BundlePaths(copy.root), read_bundle(copy.root)
    ends = [-6, 0]

    def audit(job: AuditJob, out: Path, stop: object) -> AuditReport:
        out.mkdir(exist_ok=True)
        end = honest_audit.end.model_copy(update={"exit_code": ends.pop(0)})
        report = honest_audit.model_copy(
            update={"end": end, "source_sha256": job.source_sha256, "marks": ()}
        )
        (out / "audit.json").write_text(report.text(), encoding="utf-8")
        return report

    monkeypatch.setattr("harness.audit_bundle.audit", audit)
    report = record_audit(paths, bundle.plan, bundle.track, Ledger.open(paths.ledger))
    assert report.attempts == 2
    after = read_bundle(copy.root)
    assert after.problems == ()
    assert after.audit == report


def test_an_interrupted_audit_records_nothing(
    accepted: Path, honest_audit: AuditReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Copy(accepted, tmp_path)
    paths, bundle = BundlePaths(copy.root), read_bundle(copy.root)
    end = honest_audit.end.model_copy(update={"reason": "stopped"})
    stopped = honest_audit.model_copy(update={"end": end})
    monkeypatch.setattr("harness.audit_bundle.audit", lambda *_: stopped)
    monkeypatch.setattr("harness.audit_bundle.audit_twice", lambda *_: stopped)
    before = copy.text("ledger.jsonl")
    with pytest.raises(AuditInterruptedError):
        record_audit(paths, bundle.plan, bundle.track, Ledger.open(paths.ledger))
    assert copy.text("ledger.jsonl") == before
    assert not paths.audit.exists()
