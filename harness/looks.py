"""Looks: the planned moments of testing, and what the plan says to run next.

Used twice on the same data: by `submit` while the series runs, and by `judge` afterwards. Loss and
timing are separate claims, each decided at the first look at which its p beats the plan's bound
and then settled (statistics of group-sequential designs: Pocock 1977; flat bounds solved for the
t-test by simulation, see stats/sequential.py). While timing is open both arms run; once it is
settled the baseline rests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from harness.bundle import Run
from harness.plan import ArmName, Plan
from harness.samples import Samples, final_loss, final_ms, final_steps, take_samples
from harness.stats.loss import loss_test, z_rule
from harness.stats.timing import paired_ratio
from harness.tracks.track import Track
from harness.verdict_schema import Look


@dataclass(frozen=True, slots=True)
class Progress:
    """State of a series under its plan.

    looks            every look reached so far
    loss_decided     candidate runs at which the loss claim was settled, None while open
    timing_decided   the same for the timing claim
    next             the run that the plan wants now, None when the series is over
    """

    looks: tuple[Look, ...]
    loss_decided: int | None
    timing_decided: int | None
    next: tuple[int, ArmName] | None
    over: Literal["", "both claims decided", "last look taken"]


@dataclass(frozen=True, slots=True)
class Slot:
    """One run the plan wants."""

    pair: int
    arm: ArmName
    counts: bool


def rule_p(track: Track, losses: list[float], target_loss_nats: float) -> float:
    """p of the track's own loss test; 1 for fewer than two losses."""
    if track.contest.loss_rule == "z-rule":
        p = z_rule(losses, target_loss_nats, sigma=track.contest.loss_sd_nats).p if losses else 1.0
    else:
        p = loss_test(losses, target_loss_nats, track.contest.alpha).p
    return 1.0 if math.isnan(p) else p


def timing_p(track: Track, samples: Samples, upto: int | None = None) -> tuple[float, int]:
    """(p of "candidate is faster", complete pairs) over the pairs of the first `upto` runs.

    On a track compared on steps there is no noise to test: p is 0 when the candidate takes fewer
    steps than the baseline in every pair, else 1.
    """
    pairs = samples.timed(upto)
    candidate = [pair.candidate for pair in pairs if pair.candidate]
    baseline = [pair.baseline for pair in pairs if pair.baseline]
    if track.contest.compared_on == "steps":
        steps = [(final_steps(c), final_steps(b)) for c, b in zip(candidate, baseline, strict=True)]
        fewer = [c is not None and b is not None and c < b for c, b in steps]
        return (0.0 if fewer and all(fewer) else 1.0), len(pairs)
    if len(pairs) < 2:
        return 1.0, len(pairs)
    times = [final_ms(run) for run in candidate], [final_ms(run) for run in baseline]
    if not all(math.isfinite(ms) and ms > 0 for ms in times[0] + times[1]):
        return 1.0, len(pairs)
    p = paired_ratio(times[0], times[1], track.contest.alpha).p
    return (1.0 if math.isnan(p) else p), len(pairs)


def progress(plan: Plan, track: Track, samples: Samples) -> Progress:
    """Where the series stands: looks taken, claims decided, the run that comes next.

    Pure and deterministic: the same samples give the same answer, before and after a resume.
    """
    design = plan.design
    looks: list[Look] = []
    loss_at: int | None = None
    timing_at: int | None = None
    upto = 0
    by_index = {pair.pair: pair for pair in samples.pairs}
    for pair in plan.pairs:
        if not pair.counts:
            continue
        have = by_index.get(pair.index)
        for arm in pair.order:
            if arm == "baseline" and timing_at is not None:
                continue
            if have is None or getattr(have, arm) is None:
                return Progress(tuple(looks), loss_at, timing_at, (pair.index, arm), "")
        upto += 1
        if upto not in design.looks:
            continue
        losses = [final_loss(run) for run in samples.candidates(upto)]
        p_loss = rule_p(track, losses, plan.target_loss_nats)
        p_time, pairs = timing_p(track, samples, upto)
        if loss_at is None and p_loss <= design.loss_p:
            loss_at = upto
        if timing_at is None and p_time <= design.timing_p:
            timing_at = upto
        looks.append(
            Look(
                runs=upto,
                pairs=pairs,
                loss_p=p_loss,
                loss_holds=loss_at is not None,
                timing_p=p_time,
                timing_holds=timing_at is not None,
            )
        )
        if loss_at is not None and timing_at is not None:
            return Progress(tuple(looks), loss_at, timing_at, None, "both claims decided")
    return Progress(tuple(looks), loss_at, timing_at, None, "last look taken")


def next_slot(plan: Plan, track: Track, runs: Sequence[Run]) -> Slot | None:
    """The run that the plan wants after these, the warm-up pair first; None when it is over.

    Pure: `submit` asks it before every run, `judge` asks it again for every run that was started.
    """
    for pair in plan.pairs:
        for arm in pair.order if not pair.counts else ():
            done = [run for run in runs if run.pair == pair.index and run.arm == arm]
            if not any(run.state in ("finished", "excluded") for run in done):
                return Slot(pair.index, arm, False)
    wanted = progress(plan, track, take_samples(plan, runs)).next
    return None if wanted is None else Slot(*wanted, True)
