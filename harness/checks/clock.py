"""Rule: the script's own milliseconds agree with the time that passed outside.

The clock lives inside the untrusted script. Outside, each line's arrival is known. Between two
lines the script's clock may stand still for a validation, and for nothing else: it may never run
faster than the world, never backwards, and what it leaves out must be a validation's worth.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from harness.checks.case import Case
from harness.checks.check import Check, Status
from harness.plan import ARMS, ArmName
from harness.stamps import Stamp

FAST_SLACK_S = 0.1
"""Lines wait in the pipe while the reader is busy; 30 ms was the most seen on a loaded machine."""
FAST_SHARE = 0.01
STEP_HIDDEN_SHARE = 0.02
STEP_HIDDEN_S = 0.5
VALIDATION_FACTOR = 1.5
VALIDATION_SLACK_S = 0.5


@dataclass(frozen=True, slots=True)
class ClockAudit:
    """One run's clock against the world's.

    outside_s        from the first to the last result line
    inside_s         what the script's clock says of the same span
    hidden_steps_s   left out between lines where nothing was validated
    hidden_validation_s  median left out at a validation
    faults           contradictions, one sentence each
    """

    outside_s: float
    inside_s: float
    hidden_steps_s: float
    hidden_validation_s: float
    faults: tuple[str, ...]


def audit_clock(stamps: tuple[Stamp, ...]) -> ClockAudit | None:
    """Compare the two clocks over one run; None with fewer than two stamped lines."""
    if len(stamps) < 2:
        return None
    faults: list[str] = []
    hidden_steps = 0.0
    hidden_validation: list[float] = []
    for before, after in pairwise(stamps):
        inside = (after.train_ms - before.train_ms) / 1e3
        outside = after.arrival_s - before.arrival_s
        if inside < 0:
            faults.append(f"the clock runs backwards at step {after.step} ({inside:.3f} s)")
            continue
        # The line of a validation is printed after it, so its making lies before `after`.
        if after.validates:
            hidden_validation.append(max(outside - inside, 0.0))
        else:
            hidden_steps += outside - inside
    outside = stamps[-1].arrival_s - stamps[0].arrival_s
    inside = (stamps[-1].train_ms - stamps[0].train_ms) / 1e3
    if inside > outside * (1 + FAST_SHARE) + FAST_SLACK_S:
        faults.append(f"the clock counts {inside:.3f} s in a span of {outside:.3f} s")
    if hidden_steps > STEP_HIDDEN_S + STEP_HIDDEN_SHARE * inside:
        faults.append(f"{hidden_steps:.3f} s passed between steps that the clock does not count")
    return ClockAudit(
        outside,
        inside,
        hidden_steps,
        median(hidden_validation) if hidden_validation else 0.0,
        tuple(dict.fromkeys(faults[:3])),
    )


def check_clock(case: Case) -> Check:
    """Fails on a clock that contradicts the arrivals; warns where the candidate's validations
    leave out far more time than the baseline's."""
    audits = {
        run.run_id: (run.arm, audit)
        for run in case.bundle.runs
        if run.state == "finished" and (audit := audit_clock(run.stamps)) is not None
    }
    finished = [run for run in case.bundle.runs if run.state == "finished"]
    findings = [
        f"runs/{run_id}.log: {fault}"
        for run_id, (_, audit) in audits.items()
        for fault in audit.faults
    ]
    hidden = {arm: _typical(arm, audits) for arm in ARMS}
    odd = hidden["candidate"] > hidden["baseline"] * VALIDATION_FACTOR + VALIDATION_SLACK_S
    if odd and hidden["baseline"] > 0:
        findings.append(
            f"a validation takes {hidden['candidate']:.2f} s off the candidate's clock, "
            f"{hidden['baseline']:.2f} s off the baseline's"
        )
    status: Status = "pass"
    if any(audit.faults for _, audit in audits.values()):
        status = "fail"
    elif findings:
        status = "warn"
    elif not audits:
        status = "skip"
    return Check(
        id="clock",
        status=status,
        claim="the script's clock agrees with the time that passed outside",
        evidence=(
            f"{len(audits)} of {len(finished)} finished runs compared; outside the clock a "
            f"validation: candidate {hidden['candidate']:.2f} s, baseline "
            f"{hidden['baseline']:.2f} s"
        ),
        remedy=(
            "nothing but validation may lie outside the clock between the first line and the last"
            if findings
            else ""
        ),
        rule="training time counts everything but validation",
        details=tuple(findings),
    )


def _typical(arm: ArmName, audits: dict[str, tuple[ArmName, ClockAudit]]) -> float:
    values = [audit.hidden_validation_s for owner, audit in audits.values() if owner == arm]
    return median(values) if values else 0.0
