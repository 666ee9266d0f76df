"""Judge a bundle, write verdict and report into it, tell the person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.bundle import BundlePaths, read_bundle
from harness.canonical import dumps_line, sha256_text
from harness.errors import UnfitError
from harness.report import write_report
from harness.report.write import replace_file
from harness.terminal import Terminal
from harness.verdict import judge, verdict_text
from harness.verdict_schema import Verdict

if TYPE_CHECKING:
    from rich.text import Text

    from harness.checks.check import Check

MARKS = {"pass": "✓", "fail": "✗", "unproven": "?", "warn": "!", "skip": "-"}
STYLES = {
    "pass": "green",
    "fail": "bold red",
    "unproven": "yellow",
    "warn": "yellow",
    "skip": "dim",
}
WORDS = {
    "accepted": "ACCEPTED",
    "not_proven": "NOT PROVEN",
    "rule_broken": "RULE BROKEN",
    "unfit": "UNFIT ENVIRONMENT",
    "runs_failed": "RUNS FAILED",
}


def write_verdict(paths: BundlePaths) -> Verdict:
    """Judge what is on disk and write verdict.json and the report beside it.

    Raises UnfitError when they cannot be written; the evidence is then untouched.
    """
    verdict = judge(read_bundle(paths.root))
    try:
        replace_file(paths.verdict, verdict_text(verdict))
    except OSError as error:
        raise UnfitError(
            "the verdict cannot be written",
            where=str(paths.verdict),
            why=str(error.strerror or error),
            fix=f"make room, then: speedrun submit --resume {paths.root}",
        ) from None
    write_report(verdict, paths.root)
    return verdict


def publish(paths: BundlePaths, terminal: Terminal, as_json: bool) -> Verdict:
    """`write_verdict`, then print it: a summary for people, JSON on stdout when asked."""
    verdict = write_verdict(paths)
    show_verdict(verdict, terminal)
    terminal.info(f"report   {paths.root / 'README.md'} and {paths.root / 'report.html'}")
    terminal.info(f"digest   {bundle_digest(verdict)}  (post it where others see it)")
    terminal.info(f"verify   speedrun verify {paths.root}")
    if as_json:
        terminal.json(verdict.model_dump(mode="json"))
    return verdict


def bundle_digest(verdict: Verdict, claimed: str | None = None) -> str:
    """One hash that fixes plan, ledger (and through it every log) and verdict: the text that the
    bundle claims, else that of `verdict`."""
    text = verdict_text(verdict) if claimed is None else claimed
    return sha256_text(dumps_line([verdict.plan_sha256, verdict.ledger_sha256, text]))


def show_verdict(verdict: Verdict, terminal: Terminal) -> None:
    """Decision, checks and advice, as a person reads them."""
    from rich.text import Text

    from harness.terminal import hanging, visible

    text = Text()
    style = "bold green" if verdict.decision == "accepted" else "bold red"
    if verdict.decision == "not_proven":
        style = "bold yellow"
    kind = "EXHIBITION " if verdict.exhibition else ""
    text.append(f"\n{kind}{WORDS[verdict.decision]}", style)
    text.append(f"  {visible(verdict.headline)}\n")
    for check in verdict.checks:
        append_check(text, check, terminal.columns)
    for line in verdict.advice.text:
        text.append(f"  {hanging(visible(line), 2, terminal.columns)}\n")
    terminal.console.print(text, soft_wrap=True, end="")


def append_check(text: Text, check: Check, columns: int | None) -> None:
    """One check as a person reads it: its evidence, what was found, what to do. `columns` is the
    terminal's width, None where lines are not to be broken."""
    from harness.terminal import hanging, visible

    text.append(f"  {MARKS[check.status]} ", STYLES[check.status])
    text.append(f"{check.id:<13}", "bold")
    text.append(f"{hanging(visible(check.evidence), 17, columns)}\n")
    if check.status in ("fail", "unproven", "warn"):
        for detail in check.details[:6]:
            text.append(f"      {hanging(visible(detail), 6, columns)}\n", "dim")
        if len(check.details) > 6:
            text.append(f"      and {len(check.details) - 6} more\n", "dim")
        if check.remedy:
            text.append(f"      → {hanging(visible(check.remedy), 8, columns)}\n", "italic")
