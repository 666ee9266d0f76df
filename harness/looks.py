"""Looks: the planned moments of testing, and what the plan says to run next.

Used twice on the same data: by `submit` while the series runs, and by `judge` afterwards. Loss and
timing are separate claims, each decided at the first look at which its p beats the plan's bound
and then settled (statistics of group-sequential designs: Pocock 1977; flat bounds solved for the
t-test by simulation, see stats/sequential.py). While timing is open both arms run; once it is
settled the baseline rests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from harness.bundle import Run
from harness.claims import rule_p, timing_p, worst_loss_p, worst_ratio_bound
from harness.plan import ArmName, Plan
from harness.samples import Samples, final_loss, take_samples
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
        # What did not finish by now counts at its worst: a claim that this would undo is not
        # settled yet, and the next look may settle it with more runs.
        bad = [run for run in samples.unfinished if run.pair <= pair.index]
        if loss_at is None and p_loss <= design.loss_p:
            count = sum(run.arm == "candidate" for run in bad)
            if worst_loss_p(track, losses, count, plan.target_loss_nats) < design.alpha:
                loss_at = upto
        if timing_at is None and p_time <= design.timing_p:
            faster = worst_ratio_bound(track, samples, len(bad), upto) < 1
            timing_at = upto if faster else None
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
