"""The verdicts that every renderer must survive, by name in `CASES`."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from harness.verdict_schema import Advice, Curve, Verdict
from tests.report.verdicts import checks, judged, run_row, series

GOLDEN = Path(__file__).parent / "golden" / "README.md"
HOSTILE = (
    "<script>alert(1)</script> | [x](http://evil.example) **bold** `tick` @octocat #12 "
    "\x1b[31mred\x1b[0m \u202egnihsif \"quoted\" 'single' & www.evil.example $x$ ~~no~~"
)


def accepted() -> Verdict:
    return judged(series())


def not_proven() -> Verdict:
    return judged(
        series(20, seed=6, mean=3.2797, candidate_ms=6090.0),
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
    """NaN and infinities past the schema, which refuses them: the renderers must not rely on it."""
    verdict = accepted()
    nan, inf = math.nan, math.inf
    rows = [row.model_copy(update={"loss_nats": nan, "train_ms": inf}) for row in verdict.runs]
    broken = Curve.model_construct(steps=(0, 10), losses_nats=(nan, None), train_ms=(0.0, None))
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


def baseline_rests() -> Verdict:
    """Timing settled after five pairs: 15 candidate runs, 5 baseline runs; one was run again."""
    rows = [run for run in series(15, seed=8) if run.arm == "candidate" or run.pair <= 5]
    rows.insert(0, run_row("candidate", 1, state="failed", note="exit code 1"))
    return judged(rows)


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
        baseline_rests,
        long_name,
        exhibition,
        on_steps,
        record,
        hostile,
    )
}


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


if __name__ == "__main__":  # python -m tests.report.cases: write the golden file anew
    from harness.report import render_markdown

    GOLDEN.write_text(render_markdown(golden()), encoding="utf-8")
