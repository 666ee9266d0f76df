"""judge(bundle) -> Verdict: pure, deterministic, everything recomputed from the evidence."""

from __future__ import annotations

from harness import __version__
from harness.advice import advise
from harness.bundle import Bundle, Run
from harness.canonical import dumps, finite
from harness.checks.audited import check_audited
from harness.checks.buffer import check_buffer
from harness.checks.case import Case
from harness.checks.check import Check
from harness.checks.clock import check_clock
from harness.checks.code_size import check_code_size
from harness.checks.compiler import check_compiler
from harness.checks.conduct import check_conduct
from harness.checks.convergence import check_convergence
from harness.checks.data import check_data
from harness.checks.design import check_design
from harness.checks.evidence import check_completion, check_evidence, check_runs
from harness.checks.flags import check_flags
from harness.checks.hardware import check_hardware
from harness.checks.leak import check_leak
from harness.checks.loss import check_loss
from harness.checks.significance import check_significance
from harness.checks.source import check_source
from harness.checks.timing import check_timing
from harness.checks.untimed import check_untimed
from harness.environment import environment_lines
from harness.looks import progress
from harness.results import arm_summary, loss_result, timing_result
from harness.samples import final_loss, final_ms, final_steps, take_samples
from harness.verdict_schema import Curve, Decision, Look, RunRow, Verdict

CHECKS = (
    check_significance,
    check_timing,
    check_evidence,
    check_runs,
    check_completion,
    check_design,
    check_conduct,
    check_source,
    check_flags,
    check_audited,
    check_compiler,
    check_data,
    check_clock,
    check_untimed,
    check_loss,
    check_leak,
    check_convergence,
    check_code_size,
    check_hardware,
    check_buffer,
)


def judge(bundle: Bundle) -> Verdict:
    """Every check and the decision. The same bundle gives the same bytes."""
    plan, track = bundle.plan, bundle.track
    samples = take_samples(plan, bundle.runs)
    state = progress(plan, track, samples)
    loss = loss_result(plan, track, samples, state)
    timing = timing_result(plan, track, samples, state)
    case = Case(bundle, samples, state, loss, timing)
    checks = tuple(check(case) for check in CHECKS)
    decision = decide(checks)
    return Verdict(
        harness_version=__version__,
        name=bundle.name,
        track=track.name,
        track_title=track.contest.title,
        rules_version=track.contest.rules_version,
        created_utc=plan.created_utc,
        decision=decision,
        headline=_headline(case, checks, decision),
        exhibition=plan.exhibition,
        plan_sha256=plan.sha256(),
        ledger_sha256=bundle.ledger_sha256,
        compared_on=track.contest.compared_on,
        alpha=track.contest.alpha,
        candidate=arm_summary(plan, track, "candidate", samples.candidates()),
        baseline=arm_summary(plan, track, "baseline", samples.baselines()),
        loss=loss,
        timing=timing,
        looks=tuple(_rounded(look) for look in state.looks),
        checks=checks,
        runs=tuple(_row(run) for run in bundle.runs),
        advice=advise(case, decision),
        environment=_surroundings(bundle),
    )


def verdict_text(verdict: Verdict) -> str:
    """verdict.json as it stands in the bundle."""
    return dumps(verdict.model_dump(mode="json"))


def decide(checks: tuple[Check, ...]) -> Decision:
    """One failing check fails the verdict; an unproven one makes it "not proven"."""
    failing = [check.id for check in checks if check.status == "fail"]
    if [check for check in failing if check != "runs"]:
        return "rule_broken"
    if failing:
        return "runs_failed"
    return "not_proven" if any(c.status == "unproven" for c in checks) else "accepted"


def _surroundings(bundle: Bundle) -> dict[str, str]:
    """Node and software; of a re-run also what it runs again, and under which protection."""
    lines = environment_lines(bundle.environment) if bundle.environment else {}
    rerun = bundle.plan.rerun
    if rerun is None:
        return lines
    of = f"{rerun.bundle}, digest {rerun.digest}"
    return {"Re-run of": of, "Protection": rerun.protection_says, **lines}


def _headline(case: Case, checks: tuple[Check, ...], decision: Decision) -> str:
    timing, loss = case.timing, case.loss
    if decision in ("rule_broken", "runs_failed"):
        broken = next(check for check in checks if check.status == "fail")
        first = f" ({broken.details[0]})" if broken.details else ""
        return f"{broken.id}: not so that {broken.claim}{first}"
    if decision == "not_proven":
        missing = [check.id for check in checks if check.status == "unproven"]
        return f"open: {', '.join(missing)}"
    if timing.ratio is None or timing.saved_ms is None:
        return f"loss {loss.mean:.4f} at or below {loss.target_loss_nats:g}"
    return (
        f"{timing.saved_ms / 1e3:.2f} s faster ({timing.ratio - 1:+.1%}) at loss {loss.mean:.4f}, "
        f"target {loss.target_loss_nats:g}"
    )


def _rounded(look: Look) -> Look:
    return look.model_copy(
        update={"loss_p": finite(look.loss_p), "timing_p": finite(look.timing_p)}
    )


def _row(run: Run) -> RunRow:
    points = run.log.validations if run.log is not None else ()
    return RunRow(
        run_id=run.run_id,
        arm=run.arm,
        pair=run.pair,
        attempt=run.started.attempt,
        counts=run.counts,
        state=run.state,
        note=run.note,
        steps=final_steps(run),
        loss_nats=finite(final_loss(run)),
        train_ms=finite(final_ms(run)),
        wall_s=finite(run.wall_s),
        curve=Curve(
            steps=tuple(point.step for point in points),
            losses_nats=tuple(finite(point.loss_nats) for point in points),
            train_ms=tuple(finite(point.train_ms) for point in points),
        )
        if points
        else None,
    )
