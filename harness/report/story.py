"""What a report says, as plain text: title, decision, tables, sentences.

`tell` turns a verdict into a `Story`; the Markdown and HTML renderers lay it out and escape it.
No string in a story is escaped. The decision shown is never better than the checks: a verdict that
claims more than its own checks allow is told as the worse of the two, with the contradiction named.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from harness.checks.check import Check, Status
from harness.report import facts, tables
from harness.report import formats as fmt
from harness.report.escape import one_line
from harness.report.facts import Fact
from harness.report.tables import Table
from harness.verdict_schema import Decision, Verdict

DECISION_WORDS: dict[Decision, str] = {
    "accepted": "Accepted",
    "not_proven": "Not proven",
    "rule_broken": "Rule broken",
    "unfit": "Environment unfit",
    "runs_failed": "Runs failed",
}
DECISION_MEANS: dict[Decision, str] = {
    "accepted": "every rule holds, with evidence",
    "not_proven": "honest evidence, and not enough of it",
    "rule_broken": "at least one rule does not hold",
    "unfit": "the machine cannot carry this contest",
    "runs_failed": "runs crashed, hung or diverged; the evidence is incomplete",
}
DECISION_MARKS: dict[Decision, str] = {
    "accepted": "✓",
    "not_proven": "?",
    "rule_broken": "✗",
    "unfit": "✗",
    "runs_failed": "✗",
}
STATUS_MARKS: dict[Status, str] = {
    "pass": "✓",
    "fail": "✗",
    "unproven": "?",
    "warn": "!",
    "skip": "–",
}
STATUS_WORDS: dict[Status, str] = {
    "pass": "holds",
    "fail": "BROKEN",
    "unproven": "unproven",
    "warn": "warning",
    "skip": "not checked",
}


COMPARISON = {"training time": "Timing", "steps": "Steps"}
RERUN = (
    "Run both scripts again on a node of your own, from this folder: an independent series, judged "
    "alone and pooled with this one:"
)
MOST_PLACES = 3
"""Findings named beside the decision; the section on rules has all of them."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One headline figure: what, how much, and what to compare it with."""

    label: str
    value: str
    note: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """A check that does not pass, told where the decision stands: id, what, where, what to do."""

    id: str
    text: str
    places: tuple[str, ...]
    remedy: str


@dataclass(frozen=True, slots=True)
class Story:
    """Everything a report says. `decision` is the one shown, which checks may have worsened."""

    title: str
    decision: Decision
    headline: str
    contradictions: tuple[str, ...]
    exhibition: tuple[str, ...]
    broken: tuple[Trouble, ...]
    unproven: tuple[Trouble, ...]
    advice: tuple[str, ...]
    tiles: tuple[Tile, ...]
    result: Table
    metrics: Table
    result_notes: tuple[str, ...]
    value_lists: str
    rules_summary: str
    checks: tuple[Check, ...]
    loss_facts: tuple[Fact, ...]
    timing_facts: tuple[Fact, ...]
    looks: Table
    runs: Table
    runs_summary: str
    unfinished: int
    environment: Table
    verify_commands: str
    rerun_commands: str
    hashes: Table


def shown_decision(verdict: Verdict) -> tuple[Decision, tuple[str, ...]]:
    """The decision that the verdict's own checks allow, and where the claimed one exceeds it."""
    failing = [check.id for check in verdict.checks if check.status == "fail"]
    unproven = [check.id for check in verdict.checks if check.status == "unproven"]
    claimed = verdict.decision
    if failing and claimed in ("accepted", "not_proven"):
        shown: Decision = "rule_broken"
        because = f"these checks fail: {', '.join(failing)}"
    elif unproven and claimed == "accepted":
        shown, because = "not_proven", f"these checks are unproven: {', '.join(unproven)}"
    else:
        return claimed, ()
    said = DECISION_WORDS[claimed].lower()
    return shown, (
        f"The verdict claims “{said}”, but {because}. "
        "A verdict that contradicts its own checks was not written by this harness as it stands; "
        "`speedrun verify` recomputes it.",
    )


def title(verdict: Verdict, decision: Decision) -> str:
    """`New record 4.21 s: name (−1.90 s, −31.0 %)`, or what it is instead."""
    name = one_line(verdict.name)
    change = facts.change(verdict)
    bracket = f" ({change})" if change else ""
    if decision == "accepted":
        reached = facts.reached(verdict)
        word = "Exhibition" if verdict.exhibition else "New record"
        return f"{word}{f' {reached}' if reached else ''}: {name}{bracket}"
    prefix = DECISION_WORDS[decision]
    if verdict.exhibition:
        prefix = f"Exhibition, {prefix[0].lower()}{prefix[1:]}"
    if decision == "not_proven":
        return f"{prefix}: {name}{bracket}"
    failing = [check.id for check in verdict.checks if check.status == "fail"]
    return f"{prefix}: {name}{f' ({fmt.listed(failing, 3)})' if failing else ''}"


def troubles(checks: tuple[Check, ...], status: Status, opening: str) -> tuple[Trouble, ...]:
    """The checks of one status as sentences: the claim that fails, what was found, where."""
    return tuple(
        Trouble(
            check.id,
            f"{opening} {_fragment(check.claim)}. Found: {_fragment(check.evidence) or 'nothing'}.",
            check.details[:MOST_PLACES],
            check.remedy,
        )
        for check in checks
        if check.status == status
    )


def _fragment(text: str) -> str:
    return one_line(text).removesuffix(".")


def rules_summary(checks: tuple[Check, ...]) -> str:
    """`12 of 14 hold; 1 BROKEN; 1 warning`. Skipped checks count as not holding."""
    if not checks:
        return "No rule was checked."
    counts = {status: sum(c.status == status for c in checks) for status in STATUS_WORDS}
    parts = [f"{counts['pass']} of {len(checks)} hold"]
    for status in ("fail", "unproven", "warn", "skip"):
        if number := counts[status]:
            word = STATUS_WORDS[status]
            parts.append(fmt.many(number, word) if status == "warn" else f"{number} {word}")
    return "; ".join(parts)


def tiles(verdict: Verdict) -> tuple[Tile, ...]:
    """The figures a reader looks for first."""
    loss, timing = verdict.loss, verdict.timing
    found: list[Tile] = []
    if verdict.compared_on == "steps":
        arms = verdict.candidate.steps, verdict.baseline.steps
        found.append(Tile("Steps", fmt.count(arms[0]), f"baseline {fmt.count(arms[1])}"))
    else:
        interval = f"{fmt.ratio(timing.low)} to {fmt.ratio(timing.high)}"
        found.append(
            Tile("Time, candidate / baseline", fmt.ratio(timing.ratio), f"interval {interval}")
        )
        found.append(
            Tile(
                "Time saved a run",
                fmt.seconds(timing.saved_ms, 3 if abs(timing.saved_ms or 0) < 1000 else 2)
                + (" s" if fmt.known(timing.saved_ms) else ""),
                f"mean of {fmt.many(timing.pairs, 'pair')}",
            )
        )
    if timing.official_seconds is not None:
        official = f"{fmt.fixed(timing.official_seconds, 3)} s"
        found.append(Tile("Official time", official, "standing record's × ratio, proposed"))
    target = fmt.plain(loss.target_loss_nats)
    margin = fmt.signed(loss.margin, fmt.LOSS_DECIMALS)
    found.append(
        Tile(
            "Mean validation loss",
            fmt.nats(loss.mean, bound=loss.target_loss_nats),
            f"target {target}, margin {margin} nats",
        )
    )
    found.append(
        Tile(
            "Rule p of the loss",
            fmt.p_value(loss.rule_p, verdict.alpha),
            f"below {fmt.plain(verdict.alpha)} passes; n = {loss.n}",
        )
    )
    return tuple(found)


def bundle_name(verdict: Verdict) -> str:
    """`<date>_<name>`, as `speedrun submit` names the bundle's folder unless that is taken."""
    return f"{one_line(verdict.created_utc)[:10]}_{one_line(verdict.name)}"


def commands(verdict: Verdict, bundle: str | None) -> tuple[str, str]:
    """(verify, run again) as a shell takes them in the repository's root."""
    folder = shlex.quote(f"results/{bundle or bundle_name(verdict)}")
    return f"speedrun verify {folder}", f"speedrun verify {folder} --rerun"


def tell(verdict: Verdict, bundle: str | None = None) -> Story:
    """The whole report in plain text. `bundle` is the name of the bundle's folder under results/,
    where it is known."""
    decision, contradictions = shown_decision(verdict)
    verify, rerun = commands(verdict, bundle)
    headline = one_line(verdict.headline)
    if contradictions:
        headline = f"{DECISION_MEANS[decision][0].upper()}{DECISION_MEANS[decision][1:]}."
    return Story(
        title=title(verdict, decision),
        decision=decision,
        headline=headline,
        contradictions=contradictions,
        exhibition=verdict.exhibition,
        broken=troubles(verdict.checks, "fail", "It does not hold that"),
        unproven=troubles(verdict.checks, "unproven", "It is not shown that"),
        advice=() if decision == "accepted" else verdict.advice.text,
        tiles=tiles(verdict),
        result=tables.result_table(verdict),
        metrics=tables.metrics_table(verdict),
        result_notes=tables.result_notes(verdict),
        value_lists=tables.value_lists(verdict),
        rules_summary=rules_summary(verdict.checks),
        checks=verdict.checks,
        loss_facts=facts.loss_facts(verdict),
        timing_facts=facts.timing_facts(verdict),
        looks=tables.looks_table(verdict),
        runs=tables.runs_table(verdict),
        runs_summary=tables.runs_summary(verdict),
        unfinished=sum(run.state in ("failed", "lost") for run in verdict.runs),
        environment=Table(("what", "value"), tuple(verdict.environment.items())),
        verify_commands=verify,
        rerun_commands=rerun,
        hashes=Table(
            ("what", "sha256"),
            (
                ("plan.json", verdict.plan_sha256),
                ("last line of ledger.jsonl", verdict.ledger_sha256),
                (f"candidate source ({verdict.candidate.script})", verdict.candidate.source_sha256),
                (f"baseline source ({verdict.baseline.script})", verdict.baseline.source_sha256),
            ),
        ),
    )
