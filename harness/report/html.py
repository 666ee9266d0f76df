"""report.html: one self-contained page, readable on a phone, in the dark, on paper and offline.

No script, no font, no request; how that is held to, and how values are escaped, says page.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.report import page, plots
from harness.report import story as told
from harness.report.svg import inline_markup
from harness.report.tables import Table
from harness.terminal import visible
from harness.verdict_schema import Verdict


@dataclass(frozen=True, slots=True)
class Columns:
    """A table and which of its columns hold numbers only, to be set flush right."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]


def render_html(
    verdict: Verdict, bundle: str | None = None, drawings: dict[str, str] | None = None
) -> str:
    """report.html from a verdict. `bundle` is the name of the bundle's folder, for the commands
    that name it; `drawings` are the SVG files of `plots.render_plots`, drawn here when not given.
    """
    from markupsafe import Markup

    drawings = plots.render_plots(verdict) if drawings is None else drawings
    story = told.tell(verdict, bundle)
    captions = {plot.name: plot.describe(verdict) for plot in plots.PLOTS if plot.name in drawings}
    figures = {
        name: {"markup": Markup(inline_markup(text, name)), "caption": captions[name]}
        for name, text in drawings.items()
    }
    text: str = page.template("report.html.j2").render(
        verdict=verdict,
        story=story,
        css=page.style("report.css"),
        figures=figures,
        missing={plot.name: plot.missing for plot in plots.PLOTS},
        decision_mark=told.DECISION_MARKS[story.decision],
        decision_word=told.DECISION_WORDS[story.decision],
        status_marks=told.STATUS_MARKS,
        status_words=told.STATUS_WORDS,
        rerun=told.RERUN,
        comparison=told.COMPARISON[verdict.compared_on],
        metrics=columns(story.metrics),
        looks=columns(story.looks),
        runs=columns(story.runs),
        environment=columns(story.environment, numeric=False),
        value_lists=_lines(story.value_lists),
        verify_commands=_lines(story.verify_commands),
        rerun_commands=_lines(story.rerun_commands),
    )
    return text.rstrip() + "\n"


def columns(table: Table, *, numeric: bool = True) -> Columns:
    flags = table.numeric() if numeric else (False,) * len(table.head)
    return Columns(table.head, table.rows, flags)


def _lines(text: str) -> Any:
    """Text whose line breaks are meant; all else in it is shown and escaped."""
    from markupsafe import Markup, escape

    return Markup("\n").join(escape(visible(line)) for line in text.split("\n"))
