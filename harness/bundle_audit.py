"""The audit in a bundle: its report, when it is what the ledger recorded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from harness.audit_report import AuditReport, read_audit_report
from harness.bundle_files import LOG_LIMIT_BYTES, files_below, safe_path, safe_sha256, safe_text
from harness.errors import EvidenceError, LogError
from harness.ledger import Audited, Event
from harness.logs import read_log

Fault = tuple[str, str]


def read_audit(root: Path, events: Iterable[Event]) -> tuple[AuditReport | None, list[Fault]]:
    """(report, what does not fit as (where, what)). No report where the ledger records none."""
    recorded = [event for event in events if isinstance(event, Audited)]
    present = files_below(root, "audit")
    if not recorded:
        return None, [("audit", "is in no ledger; remove the folder and audit again")] * bool(
            present
        )
    faults: list[Fault] = []
    if len(recorded) > 1:
        faults.append(("ledger.jsonl", "records more than one audit"))
    event = recorded[0]
    for name in sorted(event.files):
        try:
            if safe_sha256(root, f"audit/{name}") != event.files[name]:
                faults.append((f"audit/{name}", "differs from what the ledger recorded"))
        except EvidenceError as error:
            faults.append((f"audit/{name}", error.what))
    faults += [
        (f"audit/{name}", "was not there when the audit ended")
        for name in present
        if name not in event.files
    ]
    try:
        report = read_audit_report(safe_text(root, "audit/audit.json"), "audit/audit.json")
    except EvidenceError as error:
        return None, [*faults, ("audit/audit.json", f"{error.what} {error.why}".strip())]
    if report.source_sha256 != event.source_sha256:
        faults.append(("audit/audit.json", "not of the source that the ledger names"))
    return report, faults + _log_faults(root, report)


def _log_faults(root: Path, report: AuditReport) -> list[Fault]:
    """The run's own log must say what the report says of it."""
    try:
        (log,) = read_log(safe_path(root, "audit/run.log"), max_bytes=LOG_LIMIT_BYTES)
    except (EvidenceError, LogError, ValueError) as error:
        if not report.marks:
            return []
        return [("audit/run.log", f"cannot be read as one run: {error}".split("\n")[0])]
    final, said = log.final, report.final
    ends = (final.step, final.loss_nats) if final is not None else None
    if ends != ((said.step, said.loss_nats) if said is not None else None):
        return [("audit/run.log", "ends otherwise than audit.json says")]
    return []
