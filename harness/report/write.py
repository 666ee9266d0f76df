"""Writes the report into a bundle, each file whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from harness.errors import UnfitError
from harness.report import plots
from harness.report.html import render_html
from harness.report.markdown import render_markdown
from harness.verdict_schema import Verdict


def write_report(verdict: Verdict, folder: Path) -> tuple[Path, ...]:
    """README.md, report.html and plots/*.svg under `folder`; returns the paths written.

    When `folder` is the bundle itself, the commands in the report carry its name.
    A plot that this verdict has no data for, left by an earlier report, is removed. Raises
    UnfitError when the folder cannot be written; what stood there before then still stands.
    """
    bundle = folder.resolve().name if (folder / "plan.json").is_file() else None
    drawings = plots.render_plots(verdict)
    files = {Path("plots") / f"{name}.svg": text for name, text in drawings.items()}
    files[Path("README.md")] = render_markdown(verdict, bundle)
    files[Path("report.html")] = render_html(verdict, bundle, drawings)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for relative, text in files.items():
            replace_file(folder / relative, text)
        for plot in plots.PLOTS:
            if plot.name not in drawings:
                (folder / "plots" / f"{plot.name}.svg").unlink(missing_ok=True)
    except OSError as error:
        raise UnfitError(
            "the report cannot be written",
            where=str(folder),
            why=error.strerror or str(error),
            fix="free some space or choose a folder you may write to; the evidence is untouched",
        ) from None
    return tuple(folder / relative for relative in files)


def replace_file(path: Path, text: str) -> None:
    """Write `text` to a temporary file beside `path`, then rename it over `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
