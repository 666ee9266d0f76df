"""`speedrun report`: write README.md, report.html and plots of a bundle anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    out: Annotated[Path | None, typer.Option(help="Write here instead of into the bundle.")] = None,
) -> None:
    """Write a bundle's report again from its evidence."""
    from harness.bundle import read_bundle
    from harness.errors import UnfitError
    from harness.report import write_report
    from harness.terminal import Terminal
    from harness.verdict import judge

    verdict = judge(read_bundle(bundle))
    target = out or bundle
    try:
        target.mkdir(parents=True, exist_ok=True)
        written = write_report(verdict, target)
    except OSError as error:
        raise UnfitError(
            "the report cannot be written", where=str(target), why=str(error.strerror or error),
            fix="choose another folder with --out",
        ) from None  # fmt: skip
    for path in written:
        Terminal().info(str(path))
