"""Synthetic verdicts for the report's tests: a series of runs, judged by the real statistics.

`series` makes the run rows, `judged` makes a verdict of any run rows, `CASES` names the verdicts
that every renderer must survive.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from harness.canonical import finite
from harness.checks.check import Check, Status
from harness.plan import ArmName, draw_pairs
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
HOSTILE = (
    "<script>alert(1)</script> | [x](http://evil.example) **bold** `tick` @octocat #12 "
    "\x1b[31mred\x1b[0m \u202egnihsif \"quoted\" 'single' & www.evil.example $x$ ~~no~~"
)
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
    """A warm-up pair and `pairs` counted ones, in the order a plan would draw."""
    draw = random.Random(seed)
    rows = []
    for pair in draw_pairs(seed, pairs):
        for arm in pair.order:
            base_ms = candidate_ms if arm == "candidate" else baseline_ms
            centre = mean if arm == "candidate" else mean + 0.0006
            rows.append(
                run_row(
                    arm,
                    pair.index,
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
    unpaired = welch(candidate.train_ms, baseline.train_ms, ALPHA) if whole else None
    looks = tuple(_look(n, candidate, times) for n in (5, 10, 15, 20) if n <= candidate.n)
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


def accepted() -> Verdict:
    return judged(series())


def not_proven() -> Verdict:
    return judged(
        series(20, seed=4, mean=3.2797, candidate_ms=6090.0),
        decision="not_proven",
        headline="The loss claim needs about 34 more runs.",
        checks=checks(loss="unproven", timing="unproven", leak="skip"),
        advice=Advice(
            text=(
                "About 34 more candidate runs would prove the loss claim with 80 % power.",
                "Or 8 more steps: they buy 0.0010 nats of margin for 0.10 s.",
            )
        ),
    )


def rule_broken() -> Verdict:
    return judged(
        series(5),
        decision="rule_broken",
        headline="A rule is broken: data.",
        checks=checks(data="fail", clock="warn", leak="skip"),
    )


def runs_failed() -> Verdict:
    rows = series(3)
    rows += [
        run_row("candidate", 4, state="failed", note="exit code 1: loss is NaN at step 40"),
        run_row("candidate", 4, state="failed", note="exit code 1: loss is NaN", attempt=2),
        run_row("baseline", 4, state="lost", note="no end in the ledger"),
        run_row("candidate", 5, state="excluded", note="hw_slowdown"),
    ]
    return judged(
        rows,
        decision="runs_failed",
        headline="3 runs did not finish.",
        checks=checks(evidence="unproven", leak="skip"),
        advice=Advice(text=("Fix the divergence at step 40, then start a new series.",)),
    )


def nothing_finished() -> Verdict:
    rows = [run_row("candidate", 0, state="failed", note="exit code 1", points=0)]
    return judged(rows, decision="runs_failed", headline="No run finished.", checks=())


def no_runs() -> Verdict:
    return judged([], decision="unfit", headline="No GPU of class H100.", environment={})


def single() -> Verdict:
    return judged(series(1), decision="not_proven", headline="One pair is no evidence.")


def only_baseline() -> Verdict:
    rows = [run for run in series(3) if run.arm == "baseline"]
    return judged(rows, decision="runs_failed", headline="The candidate never ran.")


def without_curves() -> Verdict:
    return judged(series(5, points=0))


def not_a_number() -> Verdict:
    """Statistics that are NaN or infinite, as a verdict built in memory may hold them."""
    verdict = accepted()
    nan, inf = math.nan, math.inf
    rows = [row.model_copy(update={"loss_nats": nan, "train_ms": inf}) for row in verdict.runs]
    broken = Curve(steps=(0, 10), losses_nats=(nan, None), train_ms=(0.0, None))
    rows[3] = rows[3].model_copy(update={"curve": broken})
    return verdict.model_copy(
        update={
            "decision": "runs_failed",
            "runs": tuple(rows),
            "loss": verdict.loss.model_copy(
                update={"mean": nan, "rule_p": nan, "upper_bound": inf, "margin": -inf}
            ),
            "timing": verdict.timing.model_copy(
                update={"ratio": nan, "high": inf, "low": 0.0, "upper_bound": inf, "saved_ms": nan}
            ),
            "candidate": verdict.candidate.model_copy(
                update={"losses_nats": (nan, inf), "train_ms": (nan,), "loss_mean": nan}
            ),
        }
    )


def unfinished() -> Verdict:
    rows = series(10)
    rows.insert(9, run_row("candidate", 4, state="lost", note="no end in the ledger"))
    rows.insert(15, run_row("baseline", 7, state="failed", note="timeout after 60 s"))
    return judged(rows, checks=checks(evidence="warn", leak="skip"))


def forty() -> Verdict:
    return judged(series(20, seed=7, mean=3.2785))


def long_name() -> Verdict:
    return judged(series(), name="muon-" + "with-a-very-long-name" * 12)


def exhibition() -> Verdict:
    return judged(
        series(candidate_ms=86224.6, baseline_ms=86740.0, cv=0.0006),
        track="small",
        exhibition=(
            "4 GPUs instead of 8",
            "NVIDIA H200 is not the class of the board (H100)",
        ),
    )


def on_steps() -> Verdict:
    verdict = judged(series(10), compared_on="steps", track="optimization")
    return verdict.model_copy(update={"loss": verdict.loss.model_copy(update={"floor_nats": None})})


def record() -> Verdict:
    verdict = judged(
        series(13, seed=3, candidate_ms=79684.9, baseline_ms=80728.6, cv=0.0008, sd=0.0014),
        track="small",
        name="2026-11-21_fp8-down",
    )
    return verdict.model_copy(
        update={
            "timing": verdict.timing.model_copy(update={"official_seconds": 73.182}),
            "loss": verdict.loss.model_copy(update={"floor_nats": None}),
        }
    )


def hostile() -> Verdict:
    """Every string that a candidate or a submitter can reach."""
    verdict = runs_failed()
    check = verdict.checks[0].model_copy(
        update={
            "evidence": HOSTILE,
            "claim": HOSTILE,
            "remedy": HOSTILE,
            "rule": HOSTILE,
            "details": (HOSTILE, "```\n# not a heading", "</code></pre><img src=x onerror=y>"),
        }
    )
    rows = tuple(run.model_copy(update={"note": HOSTILE}) for run in verdict.runs)
    arm = verdict.candidate.model_copy(update={"script": HOSTILE, "source_sha256": HOSTILE})
    return verdict.model_copy(
        update={
            "name": HOSTILE,
            "headline": HOSTILE,
            "track": HOSTILE,
            "track_title": HOSTILE,
            "created_utc": HOSTILE,
            "harness_version": HOSTILE,
            "exhibition": (HOSTILE,),
            "advice": Advice(text=(HOSTILE,)),
            "environment": {HOSTILE: HOSTILE},
            "candidate": arm,
            "plan_sha256": HOSTILE,
            "checks": (check, *verdict.checks[1:]),
            "runs": rows,
        }
    )


CASES: dict[str, Callable[[], Verdict]] = {
    function.__name__: function
    for function in (
        accepted,
        not_proven,
        rule_broken,
        runs_failed,
        nothing_finished,
        no_runs,
        single,
        only_baseline,
        without_curves,
        not_a_number,
        unfinished,
        forty,
        long_name,
        exhibition,
        on_steps,
        record,
        hostile,
    )
}


def _look_p(looks: tuple[Look, ...], claim: str) -> float | None:
    """p at the look that settled the claim, or at the last one."""
    settled = [look for look in looks if getattr(look, f"{claim}_holds")]
    look = settled[0] if settled else looks[-1] if looks else None
    return None if look is None else getattr(look, f"{claim}_p")


def _design_p(looks: tuple[Look, ...], claim: str) -> float | None:
    p = [getattr(look, f"{claim}_p") for look in looks]
    values = [1.0 if value is None else value for value in p]
    return finite(bounded_design_p(values, (5, 10, 15, 20), BOUND, ALPHA))


GOLDEN = Path(__file__).parent / "golden" / "README.md"


def golden() -> Verdict:
    """Small and whole: three pairs, one of them with a lost run, not proven."""
    rows = series(2, seed=5, points=2)
    rows.append(run_row("candidate", 3, state="lost", note="no end in the ledger", points=0))
    return judged(
        rows,
        decision="not_proven",
        headline="not proven: significance",
        checks=checks(loss="unproven", clock="warn", leak="skip"),
        advice=Advice(text=("About 12 more runs, 2 minutes.",)),
        exhibition=("1 process instead of 2",),
    )


if __name__ == "__main__":  # python -m tests.report.verdicts: write the golden file anew
    from harness.report import render_markdown

    GOLDEN.write_text(render_markdown(golden()), encoding="utf-8")
