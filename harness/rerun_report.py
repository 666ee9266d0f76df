"""What a re-run and its pooling say: lines on the terminal, RERUN.md in the re-run's bundle."""

from __future__ import annotations

from harness.pooling import Alone, Outcome, Pooled, Together
from harness.report import formats as fmt
from harness.report.escape import block, code, inline
from harness.terminal import Terminal

WORDS: dict[Outcome, tuple[str, str]] = {
    "confirmed": ("CONFIRMED", "the re-run is accepted by itself"),
    "other_class": (
        "CONFIRMED ON OTHER HARDWARE",
        "the re-run is accepted by itself, on another hardware class: its loss speaks for the "
        "bundle's, its time does not",
    ),
    "supported": (
        "SUPPORTED",
        "the re-run by itself speaks for both claims and proves not both; together with the first "
        "series they hold",
    ),
    "contradicted": (
        "CONTRADICTED",
        "the re-run does not measure what the first series states, and is worse",
    ),
    "not_confirmed": ("NOT CONFIRMED", "the re-run does not prove both claims"),
}
CAVEATS = (
    "The re-run's own verdict decides, and the exit code follows it. Pooled figures are valid if "
    "the first series was the only one that its author made; a re-run alone needs no such trust.",
    "p: each series' own, valid under its stopping rule, unfinished runs at their worst; combined "
    "by Fisher. It rejects that a claim holds in neither series. e-values multiply. Raw values are "
    "never thrown into one test, as a series that stopped early stopped on a lucky mean.",
    "The difference is Welch's two-sided test. Where the first series stopped early it calls "
    "honest series different in up to 2.5 % of cases, not 1 %.",
    "Means weighted by inverse variance are estimates and decide nothing.",
)


def show_pooled(pooled: Pooled, terminal: Terminal) -> None:
    """Outcome, both claims, what was in force."""
    word, means = WORDS[pooled.outcome]
    say = terminal.success if pooled.outcome == "confirmed" else terminal.warning
    say(f"\n{word}  {means}")
    for name, lines in _claims(pooled):
        for i, line in enumerate(lines):
            terminal.info(f"  {name if i == 0 else '':<8}{line}")
    for line in _notes(pooled):
        terminal.warning(f"  ! {line}")
    terminal.info(f"  under   {pooled.protection}")


def render_rerun(pooled: Pooled, first: str, second: str) -> str:
    """RERUN.md. `first` and `second` are names of folders."""
    word, means = WORDS[pooled.outcome]
    parts = [
        f"# Re-run of {inline(first)}",
        f"**{word.capitalize()}.** {means[0].upper()}{means[1:]}.",
    ]
    if pooled.exhibition:
        reasons = "\n".join(f"> - {inline(reason)}" for reason in pooled.exhibition)
        parts.append(f"> **Exhibition, not a record attempt**, because:\n{reasons}")
    notes = [f"- {inline(line)}" for line in _notes(pooled)]
    parts += ["\n".join(notes)] if notes else []
    parts.append(f"Protection in force: {inline(pooled.protection)}.")
    parts.append(_table(pooled))
    for name, lines in _claims(pooled):
        parts.append(f"## {name.capitalize()}\n\n" + "\n".join(f"- {inline(x)}" for x in lines))
    if pooled.nodes:
        rows = "\n".join(f"- {inline(line)}" for line in pooled.nodes[:20])
        parts.append(f"## Nodes\n\nThe two series ran on nodes that differ:\n\n{rows}")
    parts.append("## How to read this\n\n" + "\n".join(f"- {text}" for text in CAVEATS))
    again = f"speedrun verify results/{first} --rerun --resume results/{second}"
    parts.append(f"Recomputed from both bundles, nothing executed:\n\n{block(again, 'sh')}")
    return "\n\n".join(parts) + "\n"


def _table(pooled: Pooled) -> str:
    rows = [
        "| series | decision | plan | last line of ledger |",
        "| --- | --- | --- | --- |",
        f"| the submitter's | {inline(pooled.first_decision)} "
        f"| {code(pooled.first_plan_sha256[:16])} | {code(pooled.first_ledger_sha256[:16])} |",
        f"| the re-run | {inline(pooled.second_decision)} "
        f"| {code(pooled.second_plan_sha256[:16])} | {code(pooled.second_ledger_sha256[:16])} |",
    ]
    return "\n".join(rows)


def _claims(pooled: Pooled) -> list[tuple[str, list[str]]]:
    found = [("loss", _claim(pooled.loss, pooled.alpha))]
    if pooled.time is not None:
        found.append(("time", _claim(pooled.time, pooled.alpha)))
    return found


def _claim(claim: Together, alpha: float) -> list[str]:
    lines = [
        f"first {_alone(claim, claim.first, alpha)}; re-run {_alone(claim, claim.second, alpha)}"
    ]
    if claim.difference is not None:
        places = fmt.LOSS_DECIMALS
        gap = fmt.signed(claim.difference, places)
        if claim.unit == "ratio":
            gap = f"factor {fmt.ratio(claim.difference)}"
        verdict = {True: "alike", False: "DIFFERENT", None: "no test"}[claim.alike]
        lines.append(f"re-run against first: {gap}, p {fmt.p_value(claim.difference_p, alpha)}: "
                     f"{verdict}")  # fmt: skip
    if claim.note:
        return [*lines, f"not combined: {claim.note}"]
    lines.append(
        f"together: p {fmt.p_value(claim.fisher_p, alpha)} against “in neither”, "
        f"{fmt.p_value(claim.both_p, alpha)} against “not in both”; "
        f"e {_rounded(claim.e_product)}"
    )
    if claim.mean is not None:
        lines.append(
            f"estimate {_mean(claim, claim.mean)}, 98 % {_mean(claim, claim.mean_low)} to "
            f"{_mean(claim, claim.mean_high)}"
        )
    return lines


def _alone(claim: Together, alone: Alone, alpha: float) -> str:
    text = f"{_mean(claim, alone.mean)} (n {alone.n}, p {fmt.p_value(alone.p, alpha)}"
    return text + (f", {alone.unfinished} unfinished)" if alone.unfinished else ")")


def _rounded(value: float | None) -> str:
    return fmt.DASH if value is None else f"{value:.3g}"


def _mean(claim: Together, value: float | None) -> str:
    return fmt.ratio(value) if claim.unit == "ratio" else fmt.nats(value)


def _notes(pooled: Pooled) -> list[str]:
    notes = []
    for name, claim in (("loss", pooled.loss), ("time", pooled.time)):
        if claim is not None and claim.alike is False:
            worse = "worse" if claim.worse else "better"
            notes.append(
                f"the two series do not measure the same {name} (p "
                f"{fmt.p_value(claim.difference_p)}): the re-run is {worse}"
            )
    p = pooled.baseline_difference_p
    if p is not None and p < pooled.alpha:
        notes.append(
            f"nor do the baselines' losses agree ({fmt.signed(pooled.baseline_difference, 5)}, p "
            f"{fmt.p_value(p)}): data, software or hardware differ, or the logs do"
        )
    if not pooled.same_class:
        one, two = pooled.classes
        notes.append(f"another hardware class: first on {one}, re-run on {two}")
    notes += [f"same random numbers: {line}" for line in pooled.repeated[:3]]
    return notes
