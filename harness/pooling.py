"""Two series of the same two scripts, a submitter's and a re-run: each alone, then together.

The re-run's own verdict decides. It is the one series that nobody could choose: of candidates that
are no better than the target and passed by luck, 1 % pass a re-run alone, but a third would pass
"together with" their lucky first series (tests/stats/test_combine.py). Pooled figures are evidence
on top, valid if the submitter's series was the only one made.

What is pooled, and why it may be:
* p-values that hold under each series' own stopping rule, by Fisher; an unfinished run at its worst
  first. Raw values are never thrown into one test.
* e-values of each series, which hold however its stream was stopped, by multiplication.
* times only as each node's own paired log ratios, and only within one hardware class.
* not at all, where both series drew the same random numbers.
Before it stands a test whether the two measure the same; estimates stand apart and decide nothing.
Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from harness.canonical import dumps, finite
from harness.errors import EXIT_ACCEPTED, EXIT_NOT_PROVEN
from harness.plan import ArmName, Record
from harness.stats.anytime import t_e_value
from harness.stats.combine import difference, fisher_p, inverse_variance
from harness.stats.loss import loss_test, pseudo_replicates
from harness.stats.unfinished import unfinished_value
from harness.verdict_schema import Verdict

Unit = Literal["nats", "ratio"]
Outcome = Literal["confirmed", "other_class", "supported", "contradicted", "not_confirmed"]


class Alone(Record):
    """What one series says of a claim by itself."""

    n: int
    mean: float | None = Field(description="nats, or geometric mean ratio candidate / baseline")
    sd: float | None = Field(description="nats, or sd of the log ratios")
    p: float = Field(description="of its whole design, unfinished runs at their worst; 1: no look")
    e_value: float = Field(description="of all its values, unfinished runs at their worst")
    unfinished: int


class Together(Record):
    """Both series on one claim. None where it is not combined; `note` then says why."""

    unit: Unit
    first: Alone
    second: Alone
    difference: float | None = Field(description="second minus first; ratio of ratios for times")
    difference_low: float | None = Field(description="two-sided 98 % interval")
    difference_high: float | None
    difference_p: float | None = Field(description="Welch, two-sided: do they measure the same?")
    alike: bool | None = Field(description="difference_p ≥ alpha; None: cannot be tested")
    worse: bool = Field(description="not alike, and the re-run is the worse one")
    fisher_p: float | None = Field(description="rejects: the claim holds in neither series")
    both_p: float | None = Field(description="rejects: it fails in at least one (the larger p)")
    e_product: float | None
    mean: float | None = Field(description="weighted by inverse variance: an estimate, no test")
    mean_low: float | None
    mean_high: float | None
    holds: bool = Field(description="alike, and fisher_p below alpha")
    note: str = ""


class Pooled(Record):
    """A submitter's series and its re-run: rerun.json of the re-run's bundle."""

    schema_version: Literal[1] = 1
    first_plan_sha256: str
    first_ledger_sha256: str
    second_plan_sha256: str
    second_ledger_sha256: str
    alpha: float
    first_decision: str
    second_decision: str
    exhibition: tuple[str, ...]
    protection: str
    same_class: bool
    classes: tuple[str, str] = Field(description="hardware class of each series")
    nodes: tuple[str, ...] = Field(description="differences between the nodes; empty for the same")
    repeated: tuple[str, ...] = Field(description="runs of both series with the same randomness")
    loss: Together
    time: Together | None = Field(description="None where steps are compared")
    baseline_difference: float | None = Field(description="mean loss, second minus first")
    baseline_difference_p: float | None
    outcome: Outcome
    exit_code: int

    def text(self) -> str:
        return dumps(self.model_dump(mode="json"))


def pool(
    first: Verdict,
    second: Verdict,
    *,
    classes: tuple[str, str],
    nodes: tuple[str, ...],
    protection: str,
) -> Pooled:
    """The submitter's series and its re-run, from their verdicts."""
    repeated = _repeated(first, second)
    why = "both series drew the same random numbers, so the second is no new evidence"
    refused = why if repeated else ""
    same_class = classes[0] == classes[1]
    loss = _loss(first, second, refused)
    time = None
    if second.compared_on != "steps":
        other = f"times of two hardware classes ({' and '.join(classes)}) are not combined"
        time = _time(first, second, refused or ("" if same_class else other))
    base = difference(first.baseline.losses_nats, second.baseline.losses_nats)
    outcome = _outcome(second, loss, time, same_class)
    code = {"confirmed": EXIT_ACCEPTED, "other_class": EXIT_NOT_PROVEN}
    return Pooled(
        first_plan_sha256=first.plan_sha256,
        first_ledger_sha256=first.ledger_sha256,
        second_plan_sha256=second.plan_sha256,
        second_ledger_sha256=second.ledger_sha256,
        alpha=second.alpha,
        first_decision=first.decision,
        second_decision=second.decision,
        exhibition=second.exhibition,
        protection=protection,
        same_class=same_class,
        classes=classes,
        nodes=nodes,
        repeated=repeated,
        loss=loss,
        time=time,
        baseline_difference=finite(base.difference),
        baseline_difference_p=finite(base.p),
        outcome=outcome,
        exit_code=code.get(outcome, second.exit_code),
    )


def _outcome(second: Verdict, loss: Together, time: Together | None, same_class: bool) -> Outcome:
    if second.decision == "accepted":
        return "confirmed" if same_class else "other_class"
    claims = [loss] if time is None else [loss, time]
    if any(claim.worse for claim in claims):
        return "contradicted"
    # A first series of p = .00001 carries any second one: the re-run must itself speak for it.
    speaks = all(claim.second.p < 1 < claim.second.e_value for claim in claims)
    holds = speaks and all(claim.holds for claim in claims)
    if second.decision == "not_proven" and same_class and holds:
        return "supported"
    return "not_confirmed"


def _loss(first: Verdict, second: Verdict, refused: str) -> Together:
    def alone(verdict: Verdict) -> tuple[Alone, list[float]]:
        losses, target = list(verdict.candidate.losses_nats), verdict.loss.target_loss_nats
        bad = _unfinished(verdict, ("candidate",))
        p = _valid(verdict.loss.design_p, verdict.loss.worst_case_p)
        return _alone(losses, target, p, bad, "nats"), losses

    return _together(alone(first), alone(second), second.alpha, refused, "nats")


def _time(first: Verdict, second: Verdict, refused: str) -> Together:
    def alone(verdict: Verdict) -> tuple[Alone, list[float]]:
        logs = [math.log(ratio) for ratio in verdict.timing.pair_ratios if ratio > 0]
        bad = _unfinished(verdict, ("candidate", "baseline"))
        worst = loss_test(_with_worst(logs, 0.0, bad), 0.0).p if bad else None
        p = _valid(verdict.timing.design_p, worst)
        return _alone(logs, 0.0, p, bad, "ratio"), logs

    return _together(alone(first), alone(second), second.alpha, refused, "ratio")


def _unfinished(verdict: Verdict, arms: Sequence[ArmName]) -> int:
    return sum(
        run.counts and run.arm in arms and run.state in ("failed", "lost") for run in verdict.runs
    )


def _valid(design_p: float | None, worst_p: float | None) -> float:
    """The larger of the two, which is no less valid; 1 where no look was reached."""
    if design_p is None or (worst_p is not None and math.isnan(worst_p)):
        return 1.0
    return max(design_p, worst_p if worst_p is not None else 0.0)


def _with_worst(values: list[float], bar: float, bad: int) -> list[float]:
    return values + [unfinished_value(values, bar)] * bad if len(values) > 1 else values


def _alone(values: list[float], bar: float, p: float, bad: int, unit: Unit) -> Alone:
    """`values` in nats, or log ratios; both claim to lie below `bar`."""
    test = loss_test(values, bar)
    e = min(t_e_value(values, bar), t_e_value(_with_worst(values, bar, bad), bar))
    mean = math.exp(test.mean) if unit == "ratio" and values else test.mean
    return Alone(
        n=len(values),
        mean=finite(mean) if values else None,
        sd=finite(test.sd),
        p=finite(p) or 0.0,
        e_value=finite(e) or 0.0,
        unfinished=bad,
    )


def _together(
    first: tuple[Alone, list[float]],
    second: tuple[Alone, list[float]],
    alpha: float,
    refused: str,
    unit: Unit,
) -> Together:
    (one, values), (two, others) = first, second

    def shown(value: float) -> float | None:
        return finite(math.exp(min(value, 700.0)) if unit == "ratio" else value)

    gap = difference(values, others)
    alike = None if math.isnan(gap.p) else gap.p >= alpha
    common = inverse_variance([values, others])
    together = math.nan if refused else fisher_p([one.p, two.p])
    return Together(
        unit=unit,
        first=one,
        second=two,
        difference=shown(gap.difference),
        difference_low=shown(gap.low) if math.isfinite(gap.low) else None,
        difference_high=shown(gap.high) if math.isfinite(gap.high) else None,
        difference_p=finite(gap.p),
        alike=alike,
        worse=alike is False and gap.difference > 0,
        fisher_p=finite(together),
        both_p=None if refused else max(one.p, two.p),
        e_product=None if refused else finite(one.e_value * two.e_value),
        mean=None if refused else shown(common.mean),
        mean_low=None if refused else shown(common.low),
        mean_high=None if refused else shown(common.high),
        holds=alike is True and together < alpha,
        note=refused,
    )


def _repeated(first: Verdict, second: Verdict) -> tuple[str, ...]:
    """Runs of the two series that printed the same losses: one seed, run twice."""

    def curves(verdict: Verdict) -> list[tuple[str, list[float]]]:
        return [
            (run.run_id, [x if x is not None else math.inf for x in run.curve.losses_nats])
            for run in verdict.runs
            if run.arm == "candidate" and run.counts and run.curve is not None
        ]

    one, two = curves(first), curves(second)
    same = pseudo_replicates([losses for _, losses in (*one, *two)])
    return tuple(
        f"{one[i][0]} of the first and {two[j - len(one)][0]} of the second"
        for i, j in same
        if i < len(one) <= j
    )
