"""`speedrun check`: all that needs no run, in under two seconds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from harness.static_check import StaticReport
    from harness.terminal import Terminal

FORMATS = ("text", "github", "json")


def check(
    candidate: Annotated[Path, typer.Argument(help="Training script to look at.")],
    baseline: Annotated[
        Path | None, typer.Option(help="Script to compare its size with; default: the record.")
    ] = None,
    track: Annotated[
        str | None, typer.Option(help="Track name or .toml file; default: by the script's name.")
    ] = None,
    format_: Annotated[
        str, typer.Option("--format", help="text, github (annotations) or json, on stdout.")
    ] = "text",
    json_: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Look at a script without running it: flags, clocks, contract, size.

    Exit code 0 if no rule is broken (warnings may remain), 3 if one is, 2 if there is no script.
    """
    from harness.errors import UsageError
    from harness.static_check import check_candidate, choose_track
    from harness.terminal import Terminal

    chosen = "json" if json_ else format_
    if chosen not in FORMATS:
        raise UsageError(f"no format named {chosen!r}", fix=f"one of {', '.join(FORMATS)}")
    terminal = Terminal()
    report = check_candidate(candidate, choose_track(candidate, track), baseline)
    if chosen == "json":
        terminal.json(report.document())
    elif chosen == "github":
        for line in workflow_lines(report):
            terminal.data(line)
    else:
        _show(report, terminal)
    raise typer.Exit(report.exit_code)


def workflow_lines(report: StaticReport) -> list[str]:
    """GitHub workflow commands, one a finding.

    Values are escaped as the runner reads them, so that a name in the script can neither end an
    annotation nor begin another command.
    """
    kinds = {"fail": "error", "warn": "warning", "note": "notice"}
    folder = Path(report.script).parent
    lines = []
    for finding in report.findings:
        place = f"file={_property(str(folder / finding.path))}"
        if finding.line:
            place += f",line={finding.line}"
            place += f",col={finding.column}" if finding.column else ""
        message = f"{finding.what} ({finding.why}). {finding.remedy}"
        title = _property(f"speedrun {finding.rule}")
        lines.append(f"::{kinds[finding.severity]} {place},title={title}::{_message(message)}")
    return lines


def _message(text: str) -> str:
    from harness.terminal import visible

    shown = visible(text.replace("\r", " ").replace("\n", " "))
    return shown.replace("%", "%25")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")


def _show(report: StaticReport, terminal: Terminal) -> None:
    marks = {"fail": "✗", "warn": "!", "note": "·"}
    say = {"fail": terminal.failure, "warn": terminal.warning, "note": terminal.info}
    folder = Path(report.script).parent
    for finding in report.findings:
        where = f"{folder / finding.path}" + (f":{finding.line}" if finding.line else "")
        say[finding.severity](f"{marks[finding.severity]} {where}: {finding.what} [{finding.rule}]")
        terminal.info(f"    why: {finding.why}\n    fix: {finding.remedy}")
    if report.size is not None:
        terminal.info(f"code     {report.size.text()}, against {report.baseline}")
    terminal.info(f"strong checks {'available' if report.strong else 'not available'}")
    summary = (
        f"{report.script}, track {report.track}: {report.count('fail')} broken, "
        f"{report.count('warn')} to be looked at, {report.count('note')} noted"
    )
    (terminal.failure if report.exit_code else terminal.success)(summary)
