"""Untrusted text made safe for Markdown.

Names, notes and evidence may quote a candidate's own output. In README.md they must not become a
link, a mention, HTML or a table cell of their own; in no output may they move a terminal's cursor
or reorder the line (bidirectional controls). HTML escaping is jinja2's autoescape; control
characters are shown in both by `one_line`.
"""

from __future__ import annotations

import re

from harness.terminal import visible

_MARKDOWN = re.compile(r"([\\`*_\[\]|~$])")
_MENTION = re.compile(r"([@#])(?=[0-9A-Za-z])")
_URL = re.compile(r"(?i)\b(https?:/|ftp:/|www)([/.])")
_BLOCK = re.compile(r"^(\d{1,9})([.)])(?=\s|$)|^()([-+=#])(?=[-=#\s]|$)")
EMPTY_COMMENT = "<!-- -->"


def one_line(text: str) -> str:
    """`text` on one line, control and bidirectional characters shown as escapes."""
    return visible(" ".join(text.split()))


def inline(text: str) -> str:
    """Untrusted text as Markdown that renders as exactly that text, on one line."""
    line = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = _MARKDOWN.sub(r"\\\1", line)
    line = _MENTION.sub(rf"\1{EMPTY_COMMENT}", line)
    line = _URL.sub(rf"\1{EMPTY_COMMENT}\2", line)
    return _BLOCK.sub(lambda m: f"{m[1] or ''}\\{m[2] or m[4]}", line)


def code(text: str, *, table: bool = False) -> str:
    """Untrusted text as a Markdown code span; inside a table a pipe needs a backslash."""
    line = one_line(text)
    if not line:
        return ""
    longest = max((len(run) for run in re.findall(r"`+", line)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if "`" in (line[0], line[-1]) else ""
    span = f"{fence}{pad}{line}{pad}{fence}"
    return span.replace("|", "\\|") if table else span


def block(text: str, language: str = "") -> str:
    """A fenced code block whose fence is longer than any inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{visible(text).rstrip()}\n{fence}"
