"""What more evidence would cost: the sentences under a verdict that is not proven."""

from __future__ import annotations

import math

from harness.checks.case import Case
from harness.samples import final_loss
from harness.stats.power import Price, runs_needed
from harness.stats.power import advise as advise_loss
from harness.verdict_schema import Advice, Decision


def advise(case: Case, decision: Decision) -> Advice:
    """Runs, hours and dollars to a decision; empty for an accepted or broken submission."""
    if decision != "not_proven":
        return Advice(text=())
    return Advice(text=tuple(_loss(case) + _timing(case)))


def _loss(case: Case) -> list[str]:
    track, loss = case.bundle.track, case.loss
    if loss.decided_at is not None and loss.rule_p is not None:
        return []
    walls = [run.wall_s for run in case.bundle.runs if run.wall_s and run.counts]
    run_s = sum(walls) / len(walls) if walls else track.design.expected_run_s
    candidates = case.samples.candidates()
    losses = [final_loss(run) for run in candidates]
    last = candidates[-1].log.final if candidates and candidates[-1].log else None
    step_ms = last.train_ms / last.step if last and last.train_ms and last.step else None
    per_100 = track.contest.loss_per_100_steps_nats
    advice = advise_loss(
        losses,
        loss.target_loss_nats,
        alpha=case.bundle.plan.design.loss_p,
        price=Price(run_s / 3600, track.hardware.reference_price_per_hour),
        prior_sd=track.contest.loss_sd_nats,
        loss_per_step=per_100 / 100 if per_100 else 0.0,
        step_ms=step_ms,
    )
    if advice is None:
        return []
    lines = []
    if advice.runs is None:
        lines.append(
            f"At the observed margin ({advice.margin:+.5f} nats) no number of runs proves it: the "
            "mean is not below the target by anything that runs could show."
        )
    else:
        cost = f", {advice.node_hours:.2g} node hours" if advice.node_hours else ""
        cost += f", ${advice.dollars:.0f}" if advice.dollars else ""
        lines.append(
            f"At the observed margin ({advice.margin:+.5f} ± {advice.margin_se:.5f} nats) a fresh "
            f"series needs about {advice.runs} runs for {advice.power:.0%} power{cost}."
        )
    if advice.steps is not None:
        extra = f" (+{advice.steps.extra_ms:.0f} ms a run)" if advice.steps.extra_ms else ""
        lines.append(
            f"Or {advice.steps.steps} more steps{extra}: margin {advice.steps.margin:.4f} nats, "
            f"about {advice.steps.runs} runs in a fresh series."
        )
    lines.append(
        "These losses have been looked at: the figures are costs of a new series, not a licence "
        "to add runs to this one."
    )
    return lines


def _timing(case: Case) -> list[str]:
    timing = case.timing
    if timing.decided_at is not None or timing.ratio is None or timing.pairs < 2:
        return []
    if timing.ratio >= 1:
        return [f"The candidate is not faster here: ratio {timing.ratio:.4f}."]
    logs = [math.log(ratio) for ratio in timing.pair_ratios if ratio > 0]
    mean = sum(logs) / len(logs)
    sd = math.sqrt(sum((x - mean) ** 2 for x in logs) / (len(logs) - 1))
    need = runs_needed(-mean, sd, 0.9, case.bundle.plan.design.timing_p) if sd > 0 else None
    if need is None:
        return ["The gain in time is too small to be shown with any affordable number of pairs."]
    return [f"A gain of {1 - timing.ratio:.2%} needs about {need} pairs for 90% power."]
