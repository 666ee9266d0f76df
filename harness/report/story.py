"""What a report says, as plain text: title, decision, tables, sentences.

`tell` turns a verdict into a `Story`; the Markdown and HTML renderers lay it out and escape it.
No string in a story is escaped. The decision shown is never better than the checks: a verdict that
claims more than its own checks allow is told as the worse of the two, with the contradiction named.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from harness.checks.check import Check, Status
from harness.report import formats as f
from harness.report import sections
from harness.report.escape import one_line
from harness.report.sections import Fact, Table
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


@dataclass(frozen=True, slots=True)
class Tile:
    """One headline figure: what, how much, and what to compare it with."""

    label: str
    value: str
    note: str


@dataclass(frozen=True, slots=True)
class Story:
    """Everything a report says. `decision` is the one shown, which checks may have worsened."""

    title: str
    decision: Decision
    headline: str
    contradictions: tuple[str, ...]
    exhibition: tuple[str, ...]
    broken: tuple[Check, ...]
    unproven: tuple[Check, ...]
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
    change = sections.change(verdict)
    bracket = f" ({change})" if change else ""
    if decision == "accepted":
        reached = sections.reached(verdict)
        word = "Exhibition" if verdict.exhibition else "New record"
        return f"{word}{f' {reached}' if reached else ''}: {name}{bracket}"
    prefix = DECISION_WORDS[decision]
    if verdict.exhibition:
        prefix = f"Exhibition, {prefix[0].lower()}{prefix[1:]}"
    if decision == "not_proven":
        return f"{prefix}: {name}{bracket}"
    failing = [check.id for check in verdict.checks if check.status == "fail"]
    return f"{prefix}: {name}{f' ({f.listed(failing, 3)})' if failing else ''}"


def rules_summary(checks: tuple[Check, ...]) -> str:
    """`12 of 14 hold; 1 BROKEN; 1 warning`. Skipped checks count as not holding."""
    if not checks:
        return "No rule was checked."
    counts = {status: sum(c.status == status for c in checks) for status in STATUS_WORDS}
    parts = [f"{counts['pass']} of {len(checks)} hold"]
    for status in ("fail", "unproven", "warn", "skip"):
        if number := counts[status]:
            word = STATUS_WORDS[status]
            parts.append(f.many(number, word) if status == "warn" else f"{number} {word}")
    return "; ".join(parts)


def tiles(verdict: Verdict) -> tuple[Tile, ...]:
    """The figures a reader looks for first."""
    loss, timing = verdict.loss, verdict.timing
    found: list[Tile] = []
    if verdict.compared_on == "steps":
        arms = verdict.candidate.steps, verdict.baseline.steps
        found.append(Tile("Steps", f.count(arms[0]), f"baseline {f.count(arms[1])}"))
    else:
        interval = f"{f.ratio(timing.low)} to {f.ratio(timing.high)}"
        found.append(
            Tile("Time, candidate / baseline", f.ratio(timing.ratio), f"interval {interval}")
        )
        found.append(
            Tile(
                "Time saved a run",
                f.seconds(timing.saved_ms, 3 if abs(timing.saved_ms or 0) < 1000 else 2)
                + (" s" if f.known(timing.saved_ms) else ""),
                f"mean of {f.many(timing.pairs, 'pair')}",
            )
        )
    target = f.plain(loss.target_loss_nats)
    margin = f.signed(loss.margin, f.LOSS_DECIMALS)
    found.append(
        Tile(
            "Mean validation loss",
            f.nats(loss.mean, bound=loss.target_loss_nats),
            f"target {target}, margin {margin} nats",
        )
    )
    found.append(
        Tile(
            "Rule p of the loss",
            f.p_value(loss.rule_p, verdict.alpha),
            f"below {f.plain(verdict.alpha)} passes; n = {loss.n}",
        )
    )
    return tuple(found)


def bundle_folder(verdict: Verdict) -> str:
    """`results/<date>_<name>`, where `speedrun submit` puts the bundle unless told otherwise."""
    date = one_line(verdict.created_utc)[:10]
    name = one_line(verdict.name)
    return f"results/{name}" if name.startswith(date) else f"results/{date}_{name}"


def commands(verdict: Verdict) -> tuple[str, str]:
    """(verify, run again) as a shell takes them."""
    folder = bundle_folder(verdict)
    scripts = {
        arm.arm: shlex.quote(f"{folder}/source/{arm.arm}/{one_line(arm.script)}")
        for arm in (verdict.candidate, verdict.baseline)
    }
    quoted = shlex.quote(folder)
    rerun = (
        f"seed=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[\"seed\"])' "
        f"{shlex.quote(folder + '/plan.json')})\n"
        f"speedrun submit {scripts['candidate']} \\\n"
        f"  --baseline {scripts['baseline']} \\\n"
        f'  --track {shlex.quote(one_line(verdict.track))} --seed "$seed"'
    )
    return f"speedrun verify {quoted}", rerun


def tell(verdict: Verdict) -> Story:
    """The whole report in plain text."""
    decision, contradictions = shown_decision(verdict)
    verify, rerun = commands(verdict)
    headline = one_line(verdict.headline)
    if contradictions:
        headline = f"{DECISION_MEANS[decision][0].upper()}{DECISION_MEANS[decision][1:]}."
    return Story(
        title=title(verdict, decision),
        decision=decision,
        headline=headline,
        contradictions=contradictions,
        exhibition=verdict.exhibition,
        broken=tuple(check for check in verdict.checks if check.status == "fail"),
        unproven=tuple(check for check in verdict.checks if check.status == "unproven"),
        advice=() if decision == "accepted" else verdict.advice.text,
        tiles=tiles(verdict),
        result=sections.result_table(verdict),
        metrics=sections.metrics_table(verdict),
        result_notes=sections.result_notes(verdict),
        value_lists=sections.value_lists(verdict),
        rules_summary=rules_summary(verdict.checks),
        checks=verdict.checks,
        loss_facts=sections.loss_facts(verdict),
        timing_facts=sections.timing_facts(verdict),
        looks=sections.looks_table(verdict),
        runs=sections.runs_table(verdict),
        runs_summary=sections.runs_summary(verdict),
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
