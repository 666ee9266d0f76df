"""`speedrun audit`: one extra, untimed run under a shim, the weights scored again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def audit(
    what: Annotated[Path, typer.Argument(help="A bundle, or a training script.")],
    track: Annotated[
        str | None, typer.Option(help="For a script: track name or .toml file.")
    ] = None,
    python: Annotated[str, typer.Option(help="For a script: interpreter that runs it.")] = "",
    data: Annotated[Path | None, typer.Option(help="For a script: root of the data.")] = None,
    nproc: Annotated[
        int | None, typer.Option("--nproc", "--gpus", help="For a script: processes, one a GPU.")
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Folder to keep the run's log and report in.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Report and checks as JSON.")] = False,
) -> None:
    """Run a candidate once more, untimed, and look at everything it does.

    Files, processes, gradient steps outside the clock, compiler flags in force; its final weights
    are scored by the harness's own loop and probed for leaks. A bundle without an audit gets it;
    one that has it is audited again, and what it holds stays.
    """
    from harness.auditing import audit_command
    from harness.request import Request
    from harness.terminal import Terminal

    request = Request(
        candidate=what, track=track, python=python or sys.executable, data=data, processes=nproc
    )
    raise typer.Exit(audit_command(what, request, keep, Terminal(), json_))
