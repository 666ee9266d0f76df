"""`speedrun board`: a static site from the bundles, recomputed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="The board: a static site from results/, every verdict judged again.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _board() -> None:
    pass


@app.command()
def build(
    out: Annotated[Path, typer.Option(help="Folder for the site; new, empty, or a board's.")] = (
        Path("site")
    ),
    results: Annotated[Path, typer.Option(help="Folder of bundles, history and nightly.")] = (
        Path("results")
    ),
    json_: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Build the site: standing records, history and nightly curves, one page a bundle.

    Every bundle is judged again from its evidence. Exhibitions are marked and never listed as
    records; a broken bundle is shown as broken, with the reason. No server, script or network is
    needed to read the pages. The same results give the same bytes.
    """
    from collections import Counter

    from harness.board import build_site
    from harness.places import repository_of
    from harness.terminal import Terminal

    terminal = Terminal()
    site = build_site(results, out, repository_of(results))
    kinds = Counter(entry.kind for entry in site.board.entries)
    for entry in site.board.entries:
        if entry.kind == "broken":
            terminal.warning(f"broken: {entry.folder}: {'; '.join(entry.reasons[:2])}")
    for name, size in site.heavy:
        terminal.warning(f"over 200 KB: {name} ({size / 1000:.0f} KB)")
    counted = ", ".join(f"{kinds[kind]} {kind.replace('_', ' ')}" for kind in sorted(kinds))
    terminal.success(
        f"{len(site.pages)} pages in {site.folder} ({len(site.written)} written, "
        f"{len(site.removed)} removed); bundles: {counted or 'none'}"
    )
    terminal.info(f"open     {site.folder / 'index.html'}")
    if json_:
        terminal.json(
            {
                "schema_version": 1,
                "folder": str(site.folder),
                "pages": list(site.pages),
                "written": list(site.written),
                "removed": list(site.removed),
                "bundles": [
                    {"folder": e.folder, "kind": e.kind, "reasons": list(e.reasons)}
                    for e in site.board.entries
                ],
                "exit_code": 0,
            }
        )
