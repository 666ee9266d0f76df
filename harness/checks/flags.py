"""Rule: no extra compile or inductor flags, and nothing hidden in the source."""

from __future__ import annotations

from harness.checks.case import Case
from harness.checks.check import Check, Status
from harness.scan.finding import Finding
from harness.scan.scan import scan_baseline, scan_flags
from harness.source import Source

__all__ = ["check_flags", "scan_flags"]

CLAIM = "the source sets no compiler flag beyond the track's, and replaces nothing it is judged by"
RULE = "no extra torch.compile or inductor flags"
MOST_FINDINGS = 40


def check_flags(case: Case) -> Check:
    """Fails on what certainly breaks a rule; warns on what cannot be analysed or is odd.

    Static: what was really in force is the audit run's to say. Notes (a library loaded, a signal
    handled) are listed and change nothing.
    """
    bundle = case.bundle
    candidate = Source(bundle.plan.candidate.script, bundle.sources["candidate"])
    baseline = Source(bundle.plan.baseline.script, bundle.sources["baseline"])
    if not candidate.files:
        return Check(
            id="flags",
            status="skip",
            claim=CLAIM,
            evidence="the bundle holds no source of the candidate",
            rule=RULE,
        )
    findings = [
        *(("candidate", finding) for finding in scan_flags(candidate, bundle.track)),
        *(("baseline", finding) for finding in scan_baseline(baseline)),
    ]
    count = {
        severity: sum(1 for _, finding in findings if finding.severity == severity)
        for severity in ("fail", "warn", "note")
    }
    status: Status = "fail" if count["fail"] else "warn" if count["warn"] else "pass"
    worst = next((finding for _, finding in findings if finding.severity != "note"), None)
    shown = sorted(findings, key=lambda item: item[1].severity != "fail")
    return Check(
        id="flags",
        status=status,
        claim=CLAIM,
        evidence=_evidence(len(candidate.files), count),
        remedy="" if worst is None else worst.remedy,
        rule=RULE,
        details=tuple(_line(arm, finding) for arm, finding in shown[:MOST_FINDINGS])
        + ((f"and {len(shown) - MOST_FINDINGS} more",) if len(shown) > MOST_FINDINGS else ()),
    )


def _evidence(files: int, count: dict[str, int]) -> str:
    read = f"{files} file{'' if files == 1 else 's'} read"
    if not any(count.values()):
        return f"{read}, nothing found"
    return f"{read}: {count['fail']} broken, {count['warn']} to be looked at, {count['note']} noted"


def _line(arm: str, finding: Finding) -> str:
    mark = {"fail": "", "warn": "look: ", "note": "note: "}[finding.severity]
    where = f"source/{arm}/{finding.place}"
    return f"{where}: {mark}{finding.what} ({finding.why})"
