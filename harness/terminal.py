"""The only place that prints. Humans' text goes to stderr, data to stdout.

With `--json` stdout carries one JSON document and nothing else. Everything that came out of a
candidate is escaped before it is shown: a log line may hold terminal control codes.
"""

from __future__ import annotations

import io
import json
import math
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from harness.errors import SpeedrunError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def visible(text: str) -> str:
    """`text` with control characters shown instead of obeyed (ESC becomes \\x1b)."""
    return "".join(
        c if c == "\n" or c == "\t" or (c.isprintable()) else repr(c)[1:-1] for c in text
    )


def hanging(text: str, indent: int, columns: int | None) -> str:
    """`text`, which begins at column `indent`, broken between words so that it stays right of it.

    As it is where `columns` is None (no terminal: a line stays a line) or leaves too little room.
    """
    if columns is None or columns - indent < 30:
        return text
    lines = textwrap.wrap(text, columns - indent, break_long_words=False, break_on_hyphens=False)
    return ("\n" + " " * indent).join(lines)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _widths(wanted: Sequence[int], elastic: Sequence[bool], room: int) -> list[int]:
    """Widths of a table's columns: those that give way share what the others leave, at least
    eight characters each."""
    given = list(wanted)
    left = room - sum(width for width, gives in zip(wanted, elastic, strict=True) if not gives)
    # The narrowest first, so that what they do not need goes to the others.
    order = sorted((i for i, gives in enumerate(elastic) if gives), key=lambda i: wanted[i])
    for n, i in enumerate(order):
        given[i] = min(wanted[i], max(8, left // (len(order) - n)))
        left -= given[i]
    return given


class Terminal:
    """Doors to the person in front of it: colours on a terminal, plain text elsewhere."""

    def __init__(self) -> None:
        self._console: Console | None = None
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A locale without "≤" is no reason to fail; Python treats stderr so by itself.
            sys.stdout.reconfigure(errors="backslashreplace")

    @property
    def console(self) -> Console:
        """Rich console on stderr, made when first needed (importing rich costs 60 ms)."""
        if self._console is None:
            from rich.console import Console

            self._console = Console(stderr=True, highlight=False)
        return self._console

    @property
    def interactive(self) -> bool:
        return self.console.is_terminal

    @property
    def columns(self) -> int | None:
        """Width of the terminal; None where there is none."""
        return self.console.width if self.interactive else None

    def data(self, text: str) -> None:
        """To stdout, as it is."""
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()

    def json(self, value: Any) -> None:
        """One JSON document to stdout; NaN and infinities, which are not JSON, become null."""
        utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        self.data(json.dumps(_finite(value), indent=2, sort_keys=True, ensure_ascii=not utf8))

    def info(self, text: str) -> None:
        self._line(text, "")

    def success(self, text: str) -> None:
        self._line(text, "bold green")

    def warning(self, text: str) -> None:
        self._line(text, "yellow")

    def failure(self, text: str) -> None:
        self._line(text, "bold red")

    def show(self, renderable: RenderableType) -> None:
        """A rich renderable (table, panel) to stderr."""
        self.console.print(renderable)

    def table(
        self,
        title: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[str]],
        *,
        out: bool = False,
    ) -> None:
        """A table; columns whose name starts with `>` are aligned right.

        Columns that start with `~` give way: they are cut with an ellipsis, and all others keep
        their width, so that a row stays one line.
        """
        from rich import box
        from rich.cells import cell_len
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(
            title=Text(visible(title)) if title else None,
            box=box.SIMPLE_HEAD,
            title_justify="left",
            padding=(0, 1, 0, 0),
            pad_edge=False,
        )
        cells = [[visible(cell) for cell in row] for row in rows]
        console = Console() if out else self.console
        elastic = [name.startswith("~") for name in columns]
        headings = [visible(name.lstrip(">~")) for name in columns]
        wanted = [
            max([cell_len(heading), *(cell_len(row[i]) for row in cells)])
            for i, heading in enumerate(headings)
        ]
        # An edge at both sides, a blank and a border between two columns.
        given = _widths(wanted, elastic, console.width - 1 - 2 * len(columns))
        for i, name in enumerate(columns):
            table.add_column(
                Text(headings[i]),
                justify="right" if name.startswith(">") else "left",
                no_wrap=any(elastic),
                overflow="ellipsis" if elastic[i] else "fold",
                width=given[i] if any(elastic) else None,
            )
        for row in cells:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)

    def error(self, error: SpeedrunError) -> None:
        """A user's error: what, where, why, how to fix, exit code."""
        from rich.text import Text

        text = Text()
        text.append("error: ", "bold red")
        text.append(visible(error.what))
        for label, value in (("where", error.where), ("why", error.why), ("fix", error.fix)):
            if value:
                text.append(f"\n  {label + ':':<7}", "bold")
                text.append(visible(value))
        text.append(f"\n  exit code {error.exit_code}", "dim")
        self.console.print(text, soft_wrap=True)

    def _line(self, text: str, style: str) -> None:
        from rich.text import Text

        self.console.print(Text(visible(text), style), soft_wrap=True)
