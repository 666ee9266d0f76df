"""`speedrun docs`: docs/commands.md, written from the help texts, which are its only source."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def docs(
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of stdout.")] = None,
) -> None:
    """Print the reference of all commands in Markdown, made from these help texts.

    docs/commands.md is kept equal to it by a test: speedrun docs --out docs/commands.md
    """
    from harness.cli.main import app
    from harness.command_reference import render_reference
    from harness.terminal import Terminal

    text = render_reference(app)
    if out is None:
        Terminal().data(text)
    else:
        out.write_text(text, encoding="utf-8", newline="\n")
        Terminal().info(str(out))


if __name__ == "__main__":
    typer.run(docs)
