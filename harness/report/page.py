"""What every HTML page of the project shares: templates, style, escaping.

No script, no font, no request: style is inline CSS, plots are inline SVG, and each page's own
Content-Security-Policy forbids everything else. Jinja2 escapes every value (autoescape), an
unknown name is an error (StrictUndefined), and control characters are shown instead of sent.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from harness.report.escape import one_line

if TYPE_CHECKING:
    from jinja2 import Environment, Template
    from markupsafe import Markup


def template(name: str) -> Template:
    """A template of `report/templates`; it may import macros from another one."""
    return _environment().get_template(name)


def style(*names: str) -> Markup:
    """The text of CSS files, one after the other, for a <style> element."""
    from markupsafe import Markup

    return Markup("".join(_resource(name) for name in names))


def _shown(value: object) -> object:
    """Jinja2's finalize: untrusted text on one line, no control characters; None is a mistake."""
    from markupsafe import Markup

    if value is None:
        raise TypeError("the page would print None")
    return one_line(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _resource(name: str) -> str:
    return resources.files("harness.report").joinpath("templates", name).read_text("utf-8")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    return Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        loader=FunctionLoader(_resource),
        auto_reload=False,
    )
