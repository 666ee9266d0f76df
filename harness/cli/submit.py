"""`speedrun submit`: from a script to a verdict, in one command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def submit(
    candidate: Annotated[
        Path | None, typer.Argument(help="Training script that challenges the record.")
    ] = None,
    track: Annotated[
        str | None, typer.Option(help="Track name or .toml file; default: by the script's name.")
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="Standing record; default: the track's.")
    ] = None,
    plan: Annotated[
        str, typer.Option(help="'sequential': looks that may stop early. 'fixed': one test at N.")
    ] = "sequential",
    runs: Annotated[
        int | None, typer.Option(help="Counted candidate runs at most (default: the track's 20).")
    ] = None,
    looks: Annotated[
        str | None,
        typer.Option(help="Counted runs after which the series is tested, such as 5,10,15."),
    ] = None,
    nproc: Annotated[
        int | None, typer.Option("--nproc", "--gpus", help="Processes a run, one a GPU.")
    ] = None,
    python: Annotated[str, typer.Option(help="Interpreter that runs the scripts.")] = "",
    data: Annotated[
        Path | None, typer.Option(help="Root of the data; DATA_PATH of the runs.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the bundle.")] = Path("results"),
    name: Annotated[str | None, typer.Option(help="Name of the bundle.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the run order.")] = None,
    target: Annotated[
        float | None, typer.Option(help="Another target loss, nats (makes it an exhibition).")
    ] = None,
    exhibition: Annotated[
        bool, typer.Option(help="Allow other hardware, data or target than the track's.")
    ] = False,
    data_set: Annotated[
        str | None, typer.Option(help="What other data this is (makes it an exhibition).")
    ] = None,
    warm_up: Annotated[
        bool,
        typer.Option(
            help="Begin with a pair that fills the compile caches and never counts (the default); "
            "without it they must be warm."
        ),
    ] = True,
    timeout: Annotated[float | None, typer.Option(help="Longest life of one run, seconds.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue the series in this bundle.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and its cost; run nothing.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Verdict as JSON on stdout.")] = False,
) -> None:
    """Run a candidate against the standing record and judge it.

    Runs both interleaved on this machine, tests loss and time at the planned looks, and writes a
    bundle with all evidence and a report that can be a pull request's text.
    """
    from harness.errors import UsageError
    from harness.request import parse_looks
    from harness.submission import Request
    from harness.submit import carry_on, start
    from harness.terminal import Terminal

    terminal = Terminal()
    if resume is not None:
        if candidate is not None or dry_run:
            raise UsageError(
                "--resume continues the plan that is in the bundle",
                why="a candidate or --dry-run was given beside it",
                fix=f"speedrun submit --resume {resume}",
            )
        raise typer.Exit(carry_on(resume, terminal, json_))
    if plan not in ("sequential", "fixed"):
        raise UsageError(f"no plan named {plan!r}", fix="--plan sequential or --plan fixed")
    request = Request(
        candidate=candidate,
        baseline=baseline,
        track=track,
        design="fixed" if plan == "fixed" else "group-sequential",
        runs=runs,
        looks=None if looks is None else parse_looks(looks),
        processes=nproc,
        python=python or sys.executable,
        data=data,
        out=out,
        name=name,
        seed=seed,
        target=target,
        timeout_s=timeout,
        exhibition=exhibition,
        data_set=data_set,
        warm_up=warm_up,
    )
    raise typer.Exit(start(request, terminal, json_, dry_run))
