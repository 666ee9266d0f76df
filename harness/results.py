"""The measured claims of a series as figures: loss against the target, time against the baseline.

Pure functions of samples; formulae live in `stats/`.
"""

from __future__ import annotations

import math

from harness.bundle import Run
from harness.canonical import finite
from harness.claims import paired_ms, rule_p, worst_loss_p, worst_ratio_bound
from harness.looks import Progress
from harness.plan import ArmName, Plan
from harness.samples import Samples, final_loss, final_ms, final_steps
from harness.stats.loss import loss_test
from harness.stats.sequential import bounded_design_p
from harness.stats.timing import paired_ratio, rebased_ms, welch
from harness.tracks.track import Track
from harness.verdict_schema import ArmSummary, LossResult, TimingResult


def loss_result(plan: Plan, track: Track, samples: Samples, state: Progress) -> LossResult:
    """The loss claim over all counted, finished candidate runs."""
    losses = [final_loss(run) for run in samples.candidates()]
    test = loss_test(losses, plan.target_loss_nats, track.contest.alpha)
    worst_p = worst_loss_p(track, losses, samples.unfinished_candidates, plan.target_loss_nats)
    at_look = [look for look in state.looks if look.runs == state.loss_decided]
    shown = at_look or list(state.looks[-1:])
    return LossResult(
        target_loss_nats=plan.target_loss_nats,
        n=len(losses),
        mean=finite(test.mean) if losses else None,
        sd=finite(test.sd),
        margin=finite(test.margin_nats) if losses else None,
        t=finite(test.t),
        df=finite(float(test.df)) if len(losses) > 1 else None,
        rule_p=finite(rule_p(track, losses, plan.target_loss_nats)) if len(losses) > 1 else None,
        upper_bound=finite(test.upper_bound),
        decided_at=state.loss_decided,
        look_p=finite(shown[0].loss_p) if shown else None,
        design_p=_design_p(plan, [look.loss_p for look in state.looks], plan.design.loss_p),
        design_p_bound=plan.design.loss_p,
        worst_case_p=finite(worst_p) if samples.unfinished and losses else None,
        floor_nats=track.contest.loss_floor_nats,
    )


def timing_result(plan: Plan, track: Track, samples: Samples, state: Progress) -> TimingResult:
    """The timing claim over all complete pairs."""
    candidate_ms, baseline_ms = paired_ms(samples.timed())
    at_look = [look for look in state.looks if look.runs == state.timing_decided]
    shown = at_look or list(state.looks[-1:])
    common = {
        "pairs": len(candidate_ms),
        "decided_at": state.timing_decided,
        "look_p": finite(shown[0].timing_p) if shown else None,
        "design_p": _design_p(plan, [look.timing_p for look in state.looks], plan.design.timing_p),
        "design_p_bound": plan.design.timing_p,
        "pair_ratios": tuple(
            finite(c / b) or 0.0 for c, b in zip(candidate_ms, baseline_ms, strict=True)
        ),
    }
    if len(candidate_ms) < 2:
        return TimingResult.model_validate(
            {
                **dict.fromkeys(name for name in TimingResult.model_fields if name not in common),
                **common,
            }
        )
    alpha = track.contest.alpha
    paired = paired_ratio(candidate_ms, baseline_ms, alpha)
    unpaired = welch(candidate_ms, baseline_ms, alpha)
    record = track.contest.record_seconds
    return TimingResult.model_validate(
        {
            **common,
            "ratio": finite(paired.ratio),
            "low": finite(paired.low),
            "high": finite(paired.high),
            "upper_bound": finite(paired.upper_bound),
            "p": finite(paired.p),
            "saved_ms": finite(-paired.delta_ms),
            "hodges_lehmann": finite(paired.hl_ratio),
            "hodges_lehmann_low": finite(paired.hl_low),
            "hodges_lehmann_high": finite(paired.hl_high),
            "detectable_ratio": finite(paired.mde),
            "welch_p": finite(unpaired.p),
            "worst_case_ratio_bound": (
                finite(worst_ratio_bound(track, samples, len(samples.unfinished)))
                if samples.unfinished and track.contest.compared_on != "steps"
                else None
            ),
            "official_seconds": (
                finite(rebased_ms(record * 1e3, paired.ratio) / 1e3) if record else None
            ),
        }
    )


def arm_summary(plan: Plan, track: Track, arm: ArmName, runs: list[Run]) -> ArmSummary:
    """All counted, finished runs of one arm in a row of the report's table."""
    losses = [final_loss(run) for run in runs if math.isfinite(final_loss(run))]
    times = [final_ms(run) for run in runs if math.isfinite(final_ms(run))]
    steps = {final_steps(run) for run in runs}
    test = loss_test(losses, plan.target_loss_nats, track.contest.alpha)
    spread = loss_test(times, 0.0)
    return ArmSummary(
        arm=arm,
        script=plan.arm(arm).script,
        source_sha256=plan.arm(arm).source_sha256,
        n=len(runs),
        steps=steps.pop() if len(steps) == 1 else None,
        losses_nats=tuple(losses),
        train_ms=tuple(times),
        loss_mean=finite(test.mean) if losses else None,
        loss_sd=finite(test.sd),
        loss_p=finite(test.p) if len(losses) > 1 else None,
        time_mean_ms=finite(spread.mean) if times else None,
        time_sd_ms=finite(spread.sd),
    )


def _design_p(plan: Plan, at_looks: list[float | None], bound: float) -> float | None:
    """p of the whole procedure, from the looks up to the one that decided."""
    values: list[float] = []
    for p in at_looks:
        values.append(1.0 if p is None else p)
        if values[-1] <= bound:
            break
    return finite(bounded_design_p(values, plan.design.looks, bound, plan.design.alpha))
