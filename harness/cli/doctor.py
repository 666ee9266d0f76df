"""`speedrun doctor`: what this machine is, what it could run, what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
    json_: Annotated[
        bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")
    ] = False,
) -> None:
    """Say what this machine is, which tracks it could run, and what is missing.

    Exit code 0 if at least one track can be run (officially or as an exhibition), else 4.
    """
    import os
    import sys

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
