"""`speedrun plan`: the design and its cost, before anything is bought."""

from __future__ import annotations

from typing import Annotated

import typer


def plan(
    margin: Annotated[
        float, typer.Option(help="Margin you expect below the target, nats.")
    ] = 0.0015,
    track: Annotated[str, typer.Option(help="Track name or .toml file.")] = "small",
    sd: Annotated[
        float | None, typer.Option(help="Run-to-run sd of the final loss; default: the track's.")
    ] = None,
    price: Annotated[float | None, typer.Option(help="Dollars a node hour.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """How many runs, hours and dollars a margin costs under each design."""
    from harness.cost import cost_table
    from harness.errors import UsageError
    from harness.terminal import Terminal
    from harness.tracks.track import load_track

    for option, value in (("--margin", margin), ("--sd", sd), ("--price", price)):
        if value is not None and not 0 < value < 1e6:
            raise UsageError(
                f"{option} must be a positive number",
                why=f"it is {value:g}",
                fix="--margin 0.0015 means 0.0015 nats below the target",
            )
    terminal = Terminal()
    rules = load_track(track)
    rows = cost_table(rules, margin, sd or rules.contest.loss_sd_nats, price)
    if json_:
        terminal.json([row.__dict__ for row in rows])
        return
    terminal.table(
        f"track {rules.name}: margin {margin:g} nats, sd {sd or rules.contest.loss_sd_nats:g}",
        ("design", ">power", ">mean candidate runs", ">node hours", ">dollars"),
        [
            (
                row.design,
                f"{row.power:.3f}",
                f"{row.mean_runs:.1f}",
                f"{row.node_hours:.2f}",
                "" if row.dollars is None else f"{row.dollars:.0f}",
            )
            for row in rows
        ],
        out=True,
    )
