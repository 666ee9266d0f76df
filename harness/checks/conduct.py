"""Rule: the series was conducted as its plan says, run by run.

The plan fixes the order of the runs, the looks, when the baseline rests and what excludes a run. It
is pure (`looks.next_slot`), so it can be asked again, before every run that the ledger names, what
it wanted then.
"""

from __future__ import annotations

from harness.canonical import finite
from harness.checks.case import Case
from harness.checks.check import Check
from harness.exclusions import exclusion
from harness.ledger import Looked
from harness.looks import next_slot

SHOWN_DIGITS = 6
"""A look's p as recorded by `submit` may come from another machine's libm; six digits agree."""


def check_conduct(case: Case) -> Check:
    """Fails on a run that the plan did not want at that moment, a look that the evidence does not
    yield, or an exclusion that the run's telemetry does not show."""
    findings = _unwanted_runs(case) + _other_looks(case) + _unfounded_exclusions(case)
    looked = sum(isinstance(event, Looked) for event in case.bundle.events)
    excluded = sum(run.state == "excluded" for run in case.bundle.runs)
    return Check(
        id="conduct",
        status="fail" if findings else "pass",
        claim="runs, looks and exclusions followed the plan",
        evidence=f"{len(case.bundle.runs)} runs in the plan's order; looks taken: {looked}, "
        f"runs excluded: {excluded}",
        remedy="run the series again; speedrun submit follows its plan by itself"
        if findings
        else "",
        rule="the design is fixed before run 1",
        details=tuple(findings),
    )


def _unwanted_runs(case: Case) -> list[str]:
    plan, track, runs = case.bundle.plan, case.bundle.track, case.bundle.runs
    findings = []
    for i, run in enumerate(runs):
        wanted = next_slot(plan, track, runs[:i])
        if wanted is None:
            findings.append(f"{run.run_id}: started after the plan was through")
        elif (wanted.pair, wanted.arm) != (run.pair, run.arm):
            findings.append(
                f"{run.run_id}: the plan wanted {wanted.arm} of pair {wanted.pair} at that moment"
            )
    return findings


def _other_looks(case: Case) -> list[str]:
    """Looks are recorded when they are taken; an interruption may leave the last one unrecorded."""
    recorded = [event for event in case.bundle.events if isinstance(event, Looked)]
    yielded = {look.runs: look for look in case.progress.looks}
    findings = []
    for event in recorded:
        look = yielded.get(event.runs)
        if look is None:
            findings.append(f"ledger.jsonl:{event.seq + 1}: no look is planned or reached there")
            continue
        for name in ("loss_p", "timing_p"):
            said, found = getattr(event, name), getattr(look, name)
            if finite(said, SHOWN_DIGITS) != finite(found, SHOWN_DIGITS):
                findings.append(
                    f"ledger.jsonl:{event.seq + 1}: {name} {said:.6g} recorded at the look of "
                    f"{event.runs} runs, the evidence gives {found:.6g}"
                    if said is not None and found is not None
                    else f"ledger.jsonl:{event.seq + 1}: {name} is missing"
                )
    if len({event.runs for event in recorded}) != len(recorded):
        findings.append("ledger.jsonl: a look was recorded twice")
    return findings


def _unfounded_exclusions(case: Case) -> list[str]:
    named = {criterion.id for criterion in case.bundle.plan.exclusions}
    findings = []
    for run in case.bundle.runs:
        if run.state != "excluded":
            continue
        met = exclusion(run.telemetry) if run.telemetry is not None else None
        if run.exclusion not in named:
            findings.append(f"{run.run_id}: excluded by {run.exclusion!r}, which is not planned")
        elif met is None or met[0] != run.exclusion:
            findings.append(
                f"{run.run_id}: excluded by {run.exclusion!r}, which its telemetry does not show"
            )
    return findings
