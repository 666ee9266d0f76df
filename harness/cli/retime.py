"""`speedrun retime`: does the record still take what it took?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def retime(
    track: Annotated[str, typer.Option(help="Whose record: a track's name or .toml file.")] = (
        "small"
    ),
    runs: Annotated[
        int, typer.Option(help="Counted runs of the record; 0 runs nothing and reads the table.")
    ] = 3,
    out: Annotated[Path, typer.Option(help="Folder of the tables <track>.csv and the nights.")] = (
        Path("results/nightly")
    ),
    reference: Annotated[
        Path | None,
        typer.Option(help="Workload beside the record; default: baseline/reference_….py."),
    ] = None,
    python: Annotated[str, typer.Option(help="Interpreter that runs the scripts.")] = "",
    data: Annotated[
        Path | None, typer.Option(help="Root of the data; DATA_PATH of the runs.")
    ] = None,
    nproc: Annotated[
        int | None, typer.Option("--nproc", "--gpus", help="Processes a run, one a GPU.")
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Longest life of one run, seconds.")] = None,
    issue_text: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write an issue: title, empty line, body in Markdown."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Time the standing record again, beside a reference workload, and say what has changed.

    Adds a row a run to results/nightly/<track>.csv and says whether the record got slower or
    faster and whether hardware, software or its own code did it. Exit code 0 nothing changed,
    1 tonight raised an alarm, 4 unfit machine, 5 runs failed.
    """
    from harness.retime import retime as carry_out
    from harness.retime_setup import RetimeRequest
    from harness.terminal import Terminal

    request = RetimeRequest(
        track=track,
        runs=runs,
        out=out,
        reference=reference,
        python=python or sys.executable,
        data=data,
        processes=nproc,
        timeout_s=timeout,
        issue_text=issue_text,
    )
    raise typer.Exit(carry_out(request, Terminal(), json_))
