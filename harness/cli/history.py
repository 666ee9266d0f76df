"""`speedrun history`: the world records of a track, as table, plot, CSV or JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def history(
    track: Annotated[
        str, typer.Option("--track", help="Whose records: small or medium.")
    ] = "small",
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Write a plot to FILE (.svg or .png)."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="A table of your own, in the same columns.")
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="The table as CSV on stdout.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Show the world records of a track: time, date, what changed, who did it.

    Times are of 8 H100s and their rules of the day; a repeated number is a re-timing.
    """
    import shutil

    from harness import history as records
    from harness.errors import UsageError
    from harness.history_plot import save_plot, text_plot
    from harness.terminal import Terminal

    if csv and json_:
        raise UsageError("--csv and --json are two forms of one stdout", fix="choose one of them")
    path = file if file is not None else records.table_path(track)
    rows = records.read_table(path)
    name = path.stem if file is not None else track
    terminal = Terminal()
    if plot is not None:
        save_plot(rows, f"World records, track {name}", plot)
        terminal.success(f"plot written to {plot}")
    if json_:
        terminal.json({"schema_version": 1, "track": name, "records": records.as_json(rows)})
    elif csv:
        terminal.data(records.frame(rows).to_csv(index=False, date_format="%Y-%m-%d"))
    elif plot is None:
        width = shutil.get_terminal_size((100, 24)).columns
        columns, cells = records.table_cells(rows, width)
        terminal.table(f"World records, track {name}", columns, cells, out=True)
        terminal.data(text_plot(rows, width=max(20, min(90, width - 14))))
        terminal.data(records.summary_line(rows))
