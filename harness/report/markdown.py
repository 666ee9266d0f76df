"""README.md of a bundle: the text of a pull request in the field's own form."""

from __future__ import annotations

from collections.abc import Sequence

from harness.checks.check import Check
from harness.report import plots
from harness.report import story as told
from harness.report.escape import block, code, inline
from harness.report.facts import Fact
from harness.report.tables import Table
from harness.verdict_schema import Verdict


def render_markdown(verdict: Verdict, bundle: str | None = None) -> str:
    """README.md from a verdict: decision first, then evidence, in GitHub's Markdown.

    `bundle` is the name of the bundle's folder, for the commands that name it. Links only to
    `plots/*.svg` beside it. All text that came from outside is escaped.
    """
    story = told.tell(verdict, bundle)
    figures = {plot.name: _figure(plot, verdict) for plot in plots.available(verdict)}
    mark, word = told.DECISION_MARKS[story.decision], told.DECISION_WORDS[story.decision]
    parts = [f"# {inline(story.title)}"]
    if story.exhibition:
        parts.append(_exhibition(story.exhibition))
    parts.append(f"**{mark} {word}.** {inline(story.headline)}")
    parts += [f"> **Contradiction.** {inline(text)}" for text in story.contradictions]
    if story.broken:
        parts.append("**Broken:**\n\n" + "\n".join(map(_trouble, story.broken)))
    if story.unproven:
        parts.append("**Unproven:**\n\n" + "\n".join(map(_trouble, story.unproven)))
    if story.advice:
        parts.append("**What to do:**\n\n" + _bullets(story.advice))
    about = f"Track {code(verdict.track)}, rules version {verdict.rules_version}: "
    about += f"{inline(verdict.track_title)}. Plan fixed {inline(verdict.created_utc)}."
    parts += [about, "## Result", _table(story.result), *map(inline, story.result_notes)]
    parts += [figures.get("loss_curves", "")]
    parts += ["## Losses and times", block(story.value_lists, "python")]
    parts += ["## Rules", inline(story.rules_summary), _checks(story.checks)]
    parts += ["## Loss", _facts(story.loss_facts), figures.get("final_losses", "")]
    if story.looks.rows:
        parts += ["### Looks", _table(story.looks)]
    parts += [f"## {told.COMPARISON[verdict.compared_on]}"]
    parts += [_facts(story.timing_facts), figures.get("paired_times", "")]
    parts += ["## Runs", inline(story.runs_summary)]
    if story.runs.rows:
        opening = "<details open>" if story.unfinished else "<details>"
        table = _table(story.runs)
        parts.append(f"{opening}\n<summary>Every started run</summary>\n\n{table}\n\n</details>")
    if story.environment.rows:
        parts += ["## Environment", _table(story.environment)]
    parts += [
        "## Verify and reproduce",
        "Recompute every figure above from the evidence (no GPU needed):",
        block(story.verify_commands, "sh"),
        told.RERUN,
        block(story.rerun_commands, "sh"),
        _hashes(story.hashes),
        f"Written by speedrun {inline(verdict.harness_version)} from `verdict.json`. "
        "With curves and colours: `report.html`.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _exhibition(reasons: Sequence[str]) -> str:
    lines = "\n".join(f"> - {inline(reason)}" for reason in reasons)
    return (
        f"> **Exhibition, not a record attempt.** This can never enter the table, because:\n{lines}"
    )


def _trouble(trouble: told.Trouble) -> str:
    lines = [f"- **{inline(trouble.id)}**: {inline(trouble.text)}"]
    lines += [f"  - {inline(place)}" for place in trouble.places if place.strip()]
    lines += [f"  - **Fix:** {inline(trouble.remedy)}"] if trouble.remedy else []
    return "\n".join(lines)


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {inline(line)}" for line in lines)


def _table(table: Table) -> str:
    """Markdown table; columns that hold numbers only are set flush right."""
    rule = ["---:" if flag else "---" for flag in table.numeric()]
    rows = [[inline(cell) for cell in row] for row in (table.head, *table.rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:]))


def _facts(facts: Sequence[Fact]) -> str:
    return "\n".join(
        f"- **{inline(fact.term)}: {inline(fact.value)}** — {inline(fact.meaning)}"
        for fact in facts
    )


def _checks(checks: Sequence[Check]) -> str:
    """One entry a check: mark, id, status in words; claim; evidence; what to do; findings."""
    entries = []
    for check in checks:
        mark, word = told.STATUS_MARKS[check.status], told.STATUS_WORDS[check.status]
        lines = [f"- {mark} **{inline(check.id)}** {word}: {inline(check.claim)}"]
        rule = f"Rule: {check.rule}" if check.rule else ""
        said = " · ".join(part for part in (check.evidence, rule) if part)
        lines += [f"  - {inline(said)}"] if said else []
        if check.remedy and check.status != "pass":
            lines.append(f"  - **Fix:** {inline(check.remedy)}")
        lines += [f"  - {inline(detail)}" for detail in check.details if detail.strip()]
        entries.append("\n".join(lines))
    return "\n".join(entries)


def _hashes(table: Table) -> str:
    rows = [f"| {inline(what)} | {code(value, table=True)} |" for what, value in table.rows]
    return "\n".join([f"| {' | '.join(table.head)} |", "| --- | --- |", *rows])


def _figure(plot: plots.Plot, verdict: Verdict) -> str:
    return f"![{inline(plot.describe(verdict))}](plots/{plot.name}.svg)"
