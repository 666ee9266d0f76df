"""Rule: every number follows from the evidence, and every started run is accounted for."""

from __future__ import annotations

import math
from collections import Counter

from harness.bundle import Run
from harness.checks.case import Case
from harness.checks.check import Check, Status
from harness.samples import final_loss, final_ms, final_steps
from harness.stats.loss import pseudo_replicates


def check_evidence(case: Case) -> Check:
    """Fails on any contradiction inside the bundle: hashes, strangers under runs/, runs counted
    twice, several step counts in an arm, finished runs without a complete log."""
    findings = [f"{problem.where}: {problem.what}" for problem in case.bundle.problems]
    findings += _incomplete(case)
    findings += _repeated_slots(case)
    findings += _replicates(case)
    findings += _step_counts(case)
    started = Counter(run.state for run in case.bundle.runs)
    tally = ", ".join(f"{count} {state}" for state, count in sorted(started.items()))
    return Check(
        id="evidence",
        status="fail" if findings else "pass",
        claim="every number follows from the logs and every started run is accounted for",
        evidence=f"{len(case.bundle.runs)} started runs: {tally or 'none'}",
        remedy="restore the bundle as `speedrun submit` wrote it" if findings else "",
        rule="enough run logs that the claim can be checked",
        details=tuple(findings),
    )


def check_runs(case: Case) -> Check:
    """Fails when more runs failed or were lost than the plan allows, or when the series stands
    still after a failure."""
    bundle = case.bundle
    bad = [run for run in bundle.runs if run.state in ("failed", "lost")]
    allowed = bundle.plan.design.max_unfinished
    latest = bundle.runs[-1] if bundle.runs else None
    stuck = not bundle.closed and latest is not None and latest.state == "failed"
    status: Status = "fail" if len(bad) > allowed or stuck else "warn" if bad else "pass"
    return Check(
        id="runs",
        status=status,
        claim="the runs that were started came to their end",
        evidence=f"{len(bad)} failed or lost of {len(bundle.runs)}, {allowed} allowed by the plan",
        remedy=(
            "mend the cause, then speedrun submit --resume; a new script needs a new series"
            if status == "fail"
            else ""
        ),
        rule="every started run counts",
        details=tuple(f"{run.run_id} {run.state}: {run.note}" for run in bad),
    )


def check_completion(case: Case) -> Check:
    """Unproven while the plan still wants runs."""
    state, closed = case.progress, case.bundle.closed
    done = state.next is None
    return Check(
        id="completion",
        status="pass" if done else "unproven",
        claim="the series ran as long as its plan says",
        evidence=(
            state.over
            if done
            else f"stopped before its end; the plan's next run is {state.next[1]} of pair "
            f"{state.next[0]}"
            if state.next
            else ""
        ),
        remedy="" if done else "speedrun submit --resume continues the same plan",
        rule="the design is fixed before run 1",
        details=() if closed or not done else ("the ledger was not closed",),
    )


def _incomplete(case: Case) -> list[str]:
    return [
        f"runs/{run.run_id}.log: recorded as finished, but its final validation is missing"
        for run in case.bundle.runs
        if run.state in ("finished", "excluded") and not _whole(run)
    ]


def _whole(run: Run) -> bool:
    return (
        run.log is not None
        and run.log.complete
        and math.isfinite(final_loss(run))
        and math.isfinite(final_ms(run))
    )


def _repeated_slots(case: Case) -> list[str]:
    slots = Counter((run.pair, run.arm) for run in case.bundle.runs if run.state == "finished")
    return [
        f"ledger.jsonl: {arm} of pair {pair} finished {count} times; one slot gives one value"
        for (pair, arm), count in sorted(slots.items())
        if count > 1
    ]


def _replicates(case: Case) -> list[str]:
    """Runs with the same losses all along: one run filed twice, or the same seed repeated."""
    findings = []
    for arm in ("candidate", "baseline"):
        runs = [
            run
            for run in case.bundle.runs
            if run.arm == arm and run.state == "finished" and run.log is not None
        ]
        curves = [[point.loss_nats for point in run.log.validations] for run in runs if run.log]
        findings += [
            f"runs/{runs[a].run_id}.log and runs/{runs[b].run_id}.log: identical losses; the same "
            "run twice, or the same seed, is one piece of evidence"
            for a, b in pseudo_replicates(curves)
        ]
    return findings


def _step_counts(case: Case) -> list[str]:
    findings = []
    for arm in ("candidate", "baseline"):
        counts = Counter(
            final_steps(run)
            for run in case.bundle.runs
            if run.arm == arm and run.state == "finished"
        )
        if len(counts) > 1:
            shown = ", ".join(f"{step} ({n} runs)" for step, n in counts.items())
            findings.append(f"{arm}: runs end at different steps: {shown}")
    return findings
