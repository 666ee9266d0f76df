"""report.html: one self-contained page, readable on a phone, in the dark, on paper and offline.

No script, no font, no request: the plots are inline SVG, the style is inline CSS, and the page's
own Content-Security-Policy forbids everything else. Jinja2 escapes every value (autoescape), an
unknown name is an error (StrictUndefined), and control characters are shown instead of sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from harness.report import plots
from harness.report import story as told
from harness.report.escape import one_line
from harness.report.svg import inline_markup
from harness.report.tables import Table
from harness.terminal import visible
from harness.verdict_schema import Verdict

if TYPE_CHECKING:
    from jinja2 import Template


@dataclass(frozen=True, slots=True)
class _Columns:
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
    text: str = _template().render(
        verdict=verdict,
        story=story,
        css=Markup(_resource("report.css")),
        figures=figures,
        missing={plot.name: plot.missing for plot in plots.PLOTS},
        decision_mark=told.DECISION_MARKS[story.decision],
        decision_word=told.DECISION_WORDS[story.decision],
        status_marks=told.STATUS_MARKS,
        status_words=told.STATUS_WORDS,
        rerun=told.RERUN,
        comparison=told.COMPARISON[verdict.compared_on],
        metrics=_columns(story.metrics),
        looks=_columns(story.looks),
        runs=_columns(story.runs),
        environment=_columns(story.environment, numeric=False),
        value_lists=_lines(story.value_lists),
        verify_commands=_lines(story.verify_commands),
        rerun_commands=_lines(story.rerun_commands),
    )
    return text.rstrip() + "\n"


def _columns(table: Table, *, numeric: bool = True) -> _Columns:
    flags = table.numeric() if numeric else (False,) * len(table.head)
    return _Columns(table.head, table.rows, flags)


def _lines(text: str) -> Any:
    """Text whose line breaks are meant; all else in it is shown and escaped."""
    from markupsafe import Markup, escape

    return Markup("\n").join(escape(visible(line)) for line in text.split("\n"))


def _shown(value: object) -> object:
    """Jinja2's finalize: untrusted text on one line, no control characters; None is a mistake."""
    from markupsafe import Markup

    if value is None:
        raise TypeError("the report would print None")
    return one_line(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _resource(name: str) -> str:
    return resources.files("harness.report").joinpath("templates", name).read_text("utf-8")


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, finalize=_shown)
    return environment.from_string(_resource("report.html.j2"))
