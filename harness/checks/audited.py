"""Rule: the candidate has been audited, and it behaved under audit as it did when it was timed."""

from __future__ import annotations

import math
from statistics import fmean, stdev

from harness.audit_report import AuditReport
from harness.checks.case import Case
from harness.checks.check import Check, Status
from harness.samples import final_loss, final_steps

SIGMAS = 6.0
"""The audit run is one more draw; six standard deviations off, it is another program."""
CLAIM = "one extra run under audit ended as the timed runs did"
RULE = "nothing trusted that can be recomputed"


def without_audit(case: Case, check: str, claim: str, rule: str) -> Check | None:
    """The check that stands in where there is no audit; None where there is one."""
    if case.bundle.audit is not None:
        return None
    return Check(
        id=check, status="skip", claim=claim, evidence="not known: no audit run", rule=rule
    )


def check_audited(case: Case) -> Check:
    """Unproven without the audit that the track asks for, or with one that did not come to its
    end; fails when the audited program is not the timed one."""
    report, rule = case.bundle.audit, case.bundle.track.audit
    if report is None:
        return Check(
            id="audit",
            status="unproven" if rule.required else "skip",
            claim=CLAIM,
            evidence="no audit run" + ("" if rule.required else "; the track asks for none"),
            remedy="speedrun audit <bundle>, on the node of the series" if rule.required else "",
            rule=RULE,
        )
    other = _another_program(case, report)
    incomplete = _incomplete(case, report)
    watched = [f"files and children: {report.observer}"] * (report.observer != "procfs")
    left_out = sum(rank.left_out for rank in report.ranks)
    if left_out:
        watched.append(f"{left_out} events were beyond the shim's limits and are not counted")
    status: Status = "pass"
    if other:
        status = "fail"
    elif incomplete:
        status = "unproven"
    elif watched:
        status = "warn"
    final = report.final
    return Check(
        id="audit",
        status=status,
        claim=CLAIM,
        evidence=(
            f"step {final.step}, loss {final.loss_nats:.5f}, {len(report.ranks)} process(es), "
            f"{report.end.wall_s:.0f} s"
            if final is not None and final.loss_nats is not None
            else f"ended without a result ({report.end.reason}, exit code {report.end.exit_code})"
        ),
        remedy=(
            "audit the script that was timed; it must not ask whether it is audited"
            if other
            else "see audit/run.err, then: speedrun audit <bundle>"
            if incomplete
            else ""
        ),
        rule=RULE,
        details=tuple(other + incomplete + watched),
    )


def _another_program(case: Case, report: AuditReport) -> list[str]:
    findings = []
    if report.source_sha256 != case.bundle.plan.candidate.source_sha256:
        findings.append("audit/audit.json: another source than the plan's candidate")
    final = report.final
    runs = case.samples.candidates()
    if final is None or final.loss_nats is None or not runs:
        return findings
    steps = {final_steps(run) for run in runs}
    if final.step not in steps:
        findings.append(
            f"audit/run.log ends at step {final.step}, the timed runs at "
            f"{', '.join(str(step) for step in sorted(filter(None, steps)))}"
        )
    losses = [loss for run in runs if math.isfinite(loss := final_loss(run))]
    if losses:
        spread = stdev(losses) if len(losses) > 1 else 0.0
        spread = max(spread, case.bundle.track.contest.loss_sd_nats)
        away = abs(final.loss_nats - fmean(losses)) / (spread * math.sqrt(1 + 1 / len(losses)))
        if away > SIGMAS:
            findings.append(
                f"audit/run.log ends at loss {final.loss_nats:.5f}, {away:.1f} standard deviations "
                f"from the timed runs' {fmean(losses):.5f}"
            )
    return findings


def _incomplete(case: Case, report: AuditReport) -> list[str]:
    findings = []
    if report.end.reason != "exit" or report.end.exit_code != 0:
        told = f"{report.end.reason}, exit code {report.end.exit_code} {report.end.detail}".rstrip()
        findings.append(f"the audit run failed: {told}")
    elif report.final is None or not report.final.final:
        findings.append("audit/run.log: the final validation is missing")
    seen = {rank.rank for rank in report.ranks if rank.ended}
    missing = [str(r) for r in range(case.bundle.plan.launch.processes) if r not in seen]
    if missing:
        findings.append(f"the shim saw no end of rank {', '.join(missing)}")
    return findings
