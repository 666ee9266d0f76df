"""Text of a script -> syntax tree, for text that nobody vouches for.

Python's parser may use hundreds of bytes a token and stops with four kinds of exception. What it
would choke on is refused before, and what it refuses becomes one kind of error with a line.
"""

from __future__ import annotations

import ast
import re
import sys
import warnings
from functools import lru_cache

MAX_TOKENS = 250_000
"""candidates/small.py, 3,600 lines, has 45,000. The worst 400,000 took 5.5 s and 0.5 GB."""
MAX_DEPTH = 150
"""Nesting of the syntax tree. The deepest of our own scripts is 24."""

_TOKEN = re.compile(r"\w+|[^\w\s]")


class UnparsableError(Exception):
    """Text that is not a script we can read: line (0 if unknown) and the reason."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(why)
        self.line = line
        self.why = why


@lru_cache(maxsize=4)
def parse_script(text: str) -> ast.Module:
    """The syntax tree, not to be changed by the caller; raises UnparsableError."""
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UnparsableError(line, "a NUL byte: Python refuses it")
    tokens = count_tokens(text)
    if tokens > MAX_TOKENS:
        raise UnparsableError(
            0, f"{tokens:,} tokens, more than the {MAX_TOKENS:,} that are analysed"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except SyntaxError as error:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise UnparsableError(error.lineno or 0, f"{error.msg} (Python {version})") from None
    except (RecursionError, MemoryError):
        raise UnparsableError(0, "nested too deeply for Python's parser") from None
    except ValueError as error:
        raise UnparsableError(0, str(error)) from None
    deepest = _too_deep(tree)
    if deepest is not None:
        raise UnparsableError(deepest, f"nested more than {MAX_DEPTH} deep")
    return tree


def count_tokens(text: str) -> int:
    """At least as many tokens as Python finds; 0 for text too short to pass the limit.

    Words inside strings count too. A binary carried as base64 has one "token" in 16 characters, so
    6 MB of it still pass.
    """
    if len(text) < MAX_TOKENS:
        return 0
    return sum(1 for _ in _TOKEN.finditer(text))


def _too_deep(tree: ast.Module) -> int | None:
    """Line of a node below MAX_DEPTH, None if there is none.

    An `elif` is written flat and parsed as nesting, so a long chain of them is not deep; sums of
    many terms are: they nest to the left, and such a chain gets a limit of its own.
    """
    layer: list[tuple[ast.AST, int]] = [(tree, 0)]
    while layer:
        node, depth = layer.pop()
        if depth > MAX_DEPTH:
            return getattr(node, "lineno", 0)
        for child in ast.iter_child_nodes(node):
            flat = isinstance(node, ast.If) and isinstance(child, ast.If)
            chain = isinstance(node, ast.BinOp | ast.Attribute | ast.Call) and isinstance(
                child, ast.BinOp | ast.Attribute | ast.Call
            )
            layer.append((child, depth + (0 if flat else 0.25 if chain else 1)))  # type: ignore[arg-type]
    return None


def code_text(node: ast.AST) -> str:
    """The code of a node on few lines; "…" where it is nested too deeply to be written."""
    try:
        return ast.unparse(node)
    except RecursionError:
        return "…"
