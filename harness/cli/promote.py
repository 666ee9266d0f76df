"""`speedrun promote`: an accepted candidate becomes the standing record, in one commit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def promote(
    bundle: Annotated[Path, typer.Argument(help="Bundle of an accepted, official attempt.")],
    by: Annotated[
        str,
        typer.Option(help="Contributors, for the table. Default: who committed the bundle."),
    ] = "",
    note: Annotated[
        str, typer.Option(help="What changed, for the table. Default: the bundle's name.")
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would change; change nothing.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Make an accepted candidate the standing record: script, table and rules' record time.

    The bundle is judged again first. Its candidate becomes baseline/<track>.py, siblings too,
    results/history/<track>.csv gains a row, and all of it is one commit on the current branch, the
    bundle with it if it was not committed. Everything or nothing: after a failed hook, a full disk,
    Ctrl-C or kill -9 the repository is as it was, at the latest when the command is started again.

    Refused: exhibitions, other verdicts than accepted, other rules than those in force, a record
    that changed since the run, changes of your own in files it would touch.
    """
    from harness.publication.promote import promote as carry_out
    from harness.terminal import Terminal

    terminal = Terminal()
    done = carry_out(bundle, by, note, dry_run=dry_run)
    plan = done.promotion
    if done.recovered:
        terminal.warning(f"note: {done.recovered}")
    for path in sorted(plan.files):
        terminal.info(f"  write    {path}")
    for path in plan.removed:
        terminal.info(f"  remove   {path}")
    if done.adopted:
        terminal.info(f"  add      {plan.bundle} ({len(done.adopted)} files)")
    terminal.info(f"  time     {plan.seconds:.3f} s ({plan.derived})")
    terminal.info(f"  row      {plan.row}")
    if dry_run:
        terminal.info(f"would be committed on {done.branch} as: {plan.message.splitlines()[0]}")
    else:
        terminal.success(f"{done.branch} {done.commit[:10]}: {plan.message.splitlines()[0]}")
    if json_:
        terminal.json(
            {
                "schema_version": 1,
                "track": plan.track,
                "branch": done.branch,
                "commit": done.commit or None,
                "written": sorted(plan.files),
                "removed": list(plan.removed),
                "added": list(done.adopted),
                "official_seconds": plan.seconds,
                "derived": plan.derived,
                "row": plan.row,
                "message": plan.message,
                "exit_code": 0,
            }
        )
