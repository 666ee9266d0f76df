"""`speedrun doctor`: what this machine is, what it could run, what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from harness.terminal import Terminal


def doctor(
    track: Annotated[
        str | None, typer.Option("--track", help="One track, by name or .toml file. Default: all.")
    ] = None,
    python: Annotated[
        str | None,
        typer.Option("--python", help="The candidate's interpreter. Default: this one."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder that holds data/<dataset>/. Default: DATA_PATH or ."),
    ] = None,
    aa: Annotated[
        bool,
        typer.Option(
            "--aa", help="Run a track's standing record against itself: the noise of this node."
        ),
    ] = False,
    runs: Annotated[int | None, typer.Option(help="A/A test: counted pairs; default 5.")] = None,
    nproc: Annotated[
        int | None, typer.Option("--nproc", "--gpus", help="A/A test: processes a run.")
    ] = None,
    out: Annotated[Path, typer.Option(help="A/A test: folder for its bundle.")] = Path("results"),
    json_: Annotated[
        bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")
    ] = False,
) -> None:
    """Say what this machine is, which tracks it could run, and what is missing.

    Exit code 0 if at least one track can be run (officially or as an exhibition), else 4. With
    --aa: 0 if the same script took the same time, 1 if it did not, 5 if runs failed.
    """
    import os
    import sys

    if aa:
        from harness.terminal import Terminal

        code = _noise_floor(track, python, data, runs, nproc, out, Terminal(), json_)
        raise typer.Exit(code)
    if runs is not None or nproc is not None:
        from harness.errors import UsageError

        raise UsageError(
            "--runs and --nproc belong to the A/A test", fix="speedrun doctor --aa --runs 5"
        )

    from harness.doctor import diagnose
    from harness.facts import gather_facts
    from harness.terminal import Terminal
    from harness.tracks.track import load_track, track_names

    names = (track,) if track is not None else track_names()
    tracks = tuple(load_track(name) for name in names)
    root = data if data is not None else Path(os.environ.get("DATA_PATH") or ".")
    diagnosis = diagnose(gather_facts(python or sys.executable, tracks, root))
    terminal = Terminal()
    if json_:
        terminal.json({**diagnosis.model_dump(mode="json"), "exit_code": diagnosis.exit_code})
        raise typer.Exit(diagnosis.exit_code)
    lines = {
        **diagnosis.machine,
        "Attention": f"{diagnosis.attention.backend}: {diagnosis.attention.why}",
        "Disk": f"{diagnosis.disk_free_gib:g} GiB free",
    }
    terminal.table("", ("machine", ""), list(lines.items()))
    terminal.table(
        "",
        ("track", "here", "why", "command"),
        [(t.track, t.standing, t.why, t.command) for t in diagnosis.tracks],
    )
    for finding in diagnosis.findings:
        say = terminal.failure if finding.status == "missing" else terminal.warning
        say(f"{finding.status}: {finding.what} ({', '.join(finding.tracks)})")
        terminal.info(f"  why:   {finding.why}\n  fix:   {finding.fix}")
    if not diagnosis.findings:
        terminal.success("nothing is missing")
    raise typer.Exit(diagnosis.exit_code)


def _noise_floor(
    track: str | None,
    python: str | None,
    data: Path | None,
    runs: int | None,
    nproc: int | None,
    out: Path,
    terminal: Terminal,
    as_json: bool,
) -> int:
    import sys

    from harness.noise_floor import document, measure_noise_floor
    from harness.submission import Request

    request = Request(
        track=track,
        runs=runs,
        processes=nproc,
        python=python or sys.executable,
        data=data,
        out=out,
    )
    code, floor = measure_noise_floor(request, terminal)
    if floor is not None:
        terminal.info("not proven is the right verdict here: both arms are the same script")
        for line in floor.lines():
            terminal.info(line)
        if not floor.fair:
            terminal.failure("the same script took different times: see what else runs here")
    if as_json:
        terminal.json(document(code, floor))
    return code
