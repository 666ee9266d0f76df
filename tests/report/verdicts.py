"""Synthetic verdicts for the report's tests: a series of runs, judged by the real statistics.

`series` makes the run rows, `judged` makes a verdict of any run rows; `cases.py` uses both.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from typing import Any

from harness.canonical import finite
from harness.checks.check import Check, Status
from harness.plan import ArmName
from harness.stats.loss import loss_test
from harness.stats.sequential import bounded_design_p
from harness.stats.timing import paired_ratio, welch
from harness.verdict_schema import (
    Advice,
    ArmSummary,
    Curve,
    Look,
    LossResult,
    RunRow,
    TimingResult,
    Verdict,
)

TARGET = 3.28
ALPHA = 0.01
BOUND = 0.0031
CLAIMS = {
    "evidence": "every started run is in the ledger, and every log is the one that was written",
    "source": "the files that ran are the files in source/, unchanged during the series",
    "data": "training and validation tokens are the track's own",
    "flags": "no compile flag beyond those the track allows",
    "clock": "the training clock agrees with the arrival times of the lines",
    "hardware": "both arms ran on the same node, of the track's official class",
    "loss": "the mean validation loss is at or below the target",
    "timing": "the candidate is faster than the baseline on this hardware",
    "leak": "the loss was scored again from the saved weights",
}


def run_row(
    arm: ArmName,
    pair: int,
    *,
    loss: float | None = 3.2785,
    ms: float | None = 4210.0,
    state: str = "finished",
    note: str = "",
    attempt: int = 1,
    steps: int = 350,
    points: int = 9,
) -> RunRow:
    """One run whose curve falls from 6.9 nats to `loss`."""
    end_ms = 4200.0 if ms is None else ms
    end_loss = 3.3 if loss is None else loss
    share = [i / (points - 1) for i in range(points)] if points > 1 else [1.0]
    if state != "finished":
        share = share[: max(1, points // 2)]
    curve = Curve(
        steps=tuple(round(steps * s) for s in share),
        losses_nats=tuple(round(end_loss + 3.6 * (1 - s) ** 3.2, 4) for s in share),
        train_ms=tuple(round(end_ms * s, 1) for s in share),
    )
    suffix = f"-{attempt}" if attempt > 1 else ""
    return RunRow(
        run_id=f"{arm}-{pair:02d}{suffix}",
        arm=arm,
        pair=pair,
        attempt=attempt,
        counts=pair > 0,
        state=state,  # type: ignore[arg-type]
        note=note,
        steps=steps if state == "finished" else None,
        loss_nats=loss if state == "finished" else None,
        train_ms=ms if state == "finished" else None,
        wall_s=None if state == "lost" else end_ms / 1000 + 3.2,
        curve=curve if points else None,
    )


def series(
    pairs: int = 10,
    *,
    seed: int = 1,
    mean: float = 3.2782,
    sd: float = 0.0013,
    candidate_ms: float = 4210.0,
    baseline_ms: float = 6110.0,
    cv: float = 0.006,
    points: int = 9,
) -> list[RunRow]:
    """A warm-up pair and `pairs` counted ones, order drawn inside each pair."""
    draw = random.Random(seed)
    rows = []
    for pair in range(pairs + 1):
        order: list[ArmName] = ["candidate", "baseline"]
        draw.shuffle(order)
        for arm in order:
            base_ms = candidate_ms if arm == "candidate" else baseline_ms
            centre = mean if arm == "candidate" else mean + 0.0006
            rows.append(
                run_row(
                    arm,
                    pair,
                    loss=round(draw.gauss(centre, sd), 5),
                    ms=round(base_ms * math.exp(draw.gauss(0, cv)), 1),
                    steps=350 if arm == "candidate" else 500,
                    points=points,
                )
            )
    return rows


def checks(**statuses: Status) -> tuple[Check, ...]:
    """One check an id, passing unless said otherwise."""
    return tuple(
        Check(
            id=name,
            status=statuses.get(name, "pass"),
            claim=claim,
            evidence=f"evidence of {name}",
            remedy="" if statuses.get(name, "pass") == "pass" else f"remedy of {name}",
            rule=f"rule {number}",
            details=() if statuses.get(name, "pass") == "pass" else (f"runs/{name}-03.log:17",),
        )
        for number, (name, claim) in enumerate(CLAIMS.items(), start=1)
    )


def _summary(arm: ArmName, runs: Iterable[RunRow], digit: str) -> ArmSummary:
    mine = [run for run in runs if run.arm == arm and run.counts and run.state == "finished"]
    losses = [run.loss_nats for run in mine if run.loss_nats is not None]
    times = [run.train_ms for run in mine if run.train_ms is not None]
    test = loss_test(losses, TARGET, ALPHA)
    return ArmSummary(
        arm=arm,
        script="tiny.py",
        source_sha256=digit * 64,
        n=len(mine),
        steps=mine[0].steps if mine else None,
        losses_nats=tuple(losses),
        train_ms=tuple(times),
        loss_mean=finite(test.mean),
        loss_sd=finite(test.sd),
        loss_p=finite(test.p),
        time_mean_ms=finite(_mean(times)),
        time_sd_ms=finite(_sd(times)),
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _sd(values: Sequence[float]) -> float:
    if len(values) < 2:
        return math.nan
    centre = _mean(values)
    return math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (len(values) - 1))


def judged(runs: Sequence[RunRow], **changes: Any) -> Verdict:
    """A verdict of these runs; `changes` replace any of its fields."""
    candidate, baseline = _summary("candidate", runs, "c"), _summary("baseline", runs, "b")
    slots = {
        (run.pair, run.arm): run.train_ms
        for run in runs
        if run.counts and run.state == "finished" and run.train_ms is not None
    }
    whole = sorted(
        {pair for pair, _ in slots if {(pair, "candidate"), (pair, "baseline")} <= set(slots)}
    )
    times = (
        [slots[pair, "candidate"] for pair in whole],
        [slots[pair, "baseline"] for pair in whole],
    )
    test = loss_test(candidate.losses_nats, TARGET, ALPHA)
    paired = paired_ratio(*times, ALPHA)
    unpaired = welch(*times, ALPHA) if whole else None
    looks = _looks(candidate, times)
    decided = next((look.runs for look in looks if look.loss_holds), None)
    timed = next((look.runs for look in looks if look.timing_holds), None)
    unfinished = any(run.state in ("failed", "lost") for run in runs)
    fields: dict[str, Any] = {
        "harness_version": "0.1.0",
        "name": "muon-tiny",
        "track": "tiny",
        "track_title": "Tiny: a synthetic language on two CPU processes",
        "rules_version": 1,
        "created_utc": "2026-11-20T09:30:00Z",
        "decision": "accepted",
        "headline": "10 of 10 rules hold; 31 % faster than the baseline on this node.",
        "exhibition": (),
        "plan_sha256": "a" * 64,
        "ledger_sha256": "e" * 64,
        "compared_on": "training time",
        "alpha": ALPHA,
        "candidate": candidate,
        "baseline": baseline,
        "loss": LossResult(
            target_loss_nats=TARGET,
            n=candidate.n,
            mean=candidate.loss_mean,
            sd=candidate.loss_sd,
            margin=None if candidate.loss_mean is None else finite(TARGET - candidate.loss_mean),
            t=finite(test.t),
            df=finite(test.df),
            rule_p=finite(test.p),
            upper_bound=finite(test.upper_bound),
            decided_at=decided,
            look_p=_look_p(looks, "loss"),
            design_p=_design_p(looks, "loss"),
            design_p_bound=BOUND,
            worst_case_p=finite(test.p) if unfinished else None,
            floor_nats=3.0682,
        ),
        "timing": TimingResult(
            pairs=len(whole),
            ratio=finite(paired.ratio),
            low=finite(paired.low),
            high=finite(paired.high),
            upper_bound=finite(paired.upper_bound),
            p=finite(paired.p),
            decided_at=timed,
            look_p=_look_p(looks, "timing"),
            design_p=_design_p(looks, "timing"),
            design_p_bound=BOUND,
            saved_ms=finite(-paired.delta_ms),
            hodges_lehmann=finite(paired.hl_ratio),
            hodges_lehmann_low=finite(paired.hl_low),
            hodges_lehmann_high=finite(paired.hl_high),
            detectable_ratio=finite(paired.mde),
            welch_p=None if unpaired is None else finite(unpaired.p),
            worst_case_ratio_bound=finite(paired.upper_bound) if unfinished else None,
            pair_ratios=tuple(c / b for c, b in zip(*times, strict=True)),
        ),
        "looks": looks,
        "checks": checks(leak="skip"),
        "runs": tuple(runs),
        "advice": Advice(text=()),
        "environment": {
            "CPU": "Example 9000, 2 cores",
            "Python": "3.12.4",
            "torch": "2.13.0+cpu",
            "OS": "Linux 6.1",
        },
    }
    return Verdict(**(fields | changes))


def _look(n: int, candidate: ArmSummary, times: tuple[list[float], list[float]]) -> Look:
    loss_p = loss_test(candidate.losses_nats[:n], TARGET, ALPHA).p
    timing_p = paired_ratio(times[0][:n], times[1][:n], ALPHA).p if len(times[0]) > 1 else None
    return Look(
        runs=n,
        pairs=min(n, len(times[0])),
        loss_p=finite(loss_p),
        loss_holds=loss_p <= BOUND,
        timing_p=finite(timing_p),
        timing_holds=timing_p is not None and timing_p <= BOUND,
    )


def _looks(candidate: ArmSummary, times: tuple[list[float], list[float]]) -> tuple[Look, ...]:
    """Looks at 5/10/15/20 runs; a claim that is settled stays settled."""
    looks: list[Look] = []
    for n in (5, 10, 15, 20):
        if n > candidate.n:
            break
        look = _look(n, candidate, times)
        before = looks[-1] if looks else look
        settled = {
            "loss_holds": look.loss_holds or before.loss_holds,
            "timing_holds": look.timing_holds or before.timing_holds,
        }
        looks.append(look.model_copy(update=settled))
    return tuple(looks)


def _look_p(looks: tuple[Look, ...], claim: str) -> float | None:
    """p at the look that settled the claim, or at the last one."""
    settled = [look for look in looks if getattr(look, f"{claim}_holds")]
    look = settled[0] if settled else looks[-1] if looks else None
    return None if look is None else getattr(look, f"{claim}_p")


def _design_p(looks: tuple[Look, ...], claim: str) -> float | None:
    """As judged: over the looks up to the one that settled the claim."""
    values: list[float] = []
    for look in looks:
        p = getattr(look, f"{claim}_p")
        values.append(1.0 if p is None else p)
        if values[-1] <= BOUND:
            break
    return finite(bounded_design_p(values, (5, 10, 15, 20), BOUND, ALPHA))
