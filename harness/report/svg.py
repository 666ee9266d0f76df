"""From a matplotlib figure to an SVG that a README and a page can both carry.

`canvas` opens a figure under the project's own style and nothing of the user's. `file_text` gives
the standalone file: plain hex colours that hold 3:1 contrast on white and on near-black alike.
`inline_markup` gives the same drawing for a page: colours become CSS variables with those hex
values as fall-back, ids get a prefix (several drawings share one document), and a title and a
description make it readable to a screen reader.

Bytes are the same for the same figure and the same matplotlib: no date, salted ids.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Literal

from harness.plan import ArmName

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#7a828b"
EDGE = "#8d959e"
GRID = "#8d959f"
CANDIDATE = "#2f81c7"
BASELINE = "#cf7313"
TARGET = "#c2417c"
TROUBLE = "#8f8fa3"

# One variable a role; two roles never share a hex, or the page could not tell them apart.
VARIABLES = {
    INK: "--plot-ink",
    EDGE: "--plot-edge",
    GRID: "--plot-grid",
    CANDIDATE: "--plot-candidate",
    BASELINE: "--plot-baseline",
    TARGET: "--plot-target",
    TROUBLE: "--plot-trouble",
}
COLOURS: dict[ArmName, str] = {"candidate": CANDIDATE, "baseline": BASELINE}
MARKERS: dict[ArmName, str] = {"candidate": "o", "baseline": "s"}
LINES: dict[ArmName, Literal["-", "--"]] = {"candidate": "-", "baseline": "--"}
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


@contextmanager
def canvas(height_in: float | None = None) -> Iterator[Figure]:
    """A figure of the report's width under `speedrun.mplstyle`; `height_in` in inches."""
    import matplotlib
    from matplotlib.figure import Figure

    style = resources.files("harness.report").joinpath("speedrun.mplstyle")
    with matplotlib.rc_context(), resources.as_file(style) as path:
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(matplotlib.rc_params_from_file(path, use_default_template=False))
        figure = Figure()
        if height_in is not None:
            figure.set_figheight(height_in)
        yield figure


def file_text(figure: Figure, title: str, description: str) -> str:
    """The figure as a standalone SVG file; call it inside `canvas`."""
    buffer = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"'DejaVu Sans'(, [-a-zA-Z' ]+)*", FONTS, text)
    opening, rest = text.split(">", 1)
    opening += ' role="img" aria-labelledby="title desc"'
    head = f'<title id="title">{escape(title)}</title><desc id="desc">{escape(description)}</desc>'
    return f"{opening}>\n {head}{rest.rstrip()}\n"


def inline_markup(text: str, prefix: str) -> str:
    """A `file_text` for use inside HTML: themed, responsive, ids prefixed with `prefix`."""
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r'(url\(#|href="#)', rf"\1{prefix}-", text)
    text = text.replace(
        'aria-labelledby="title desc"', f'aria-labelledby="{prefix}-title {prefix}-desc"'
    )
    text = re.sub(r'(<svg[^>]*?) width="[^"]+" height="[^"]+"', r"\1", text, count=1)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable}, {colour})")
    return text.rstrip()
