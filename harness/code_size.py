"""How much real code separates two sources: comments, formatting and docstrings do not count.

Two measures. Lines come from a diff of the normalised text, as a reviewer would read it. Nodes of
the syntax tree count how much is in those lines; they are compared as a multiset of statements, so
code that was only moved counts as nothing.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from harness.scan.syntax import UnparsableError, parse_script
from harness.source import Source

DIFF_LIMIT_LINES = 12_000
"""Above this many lines on a side the order of lines is ignored: a diff can take minutes."""
KERNEL_DECORATORS = ("triton.jit", "jit", "triton.heuristics", "cute.kernel", "cute.jit")
_BOUNDS = r"(?:__launch_bounds__\s*\([^)]*\)\s*)?"
_CUDA = re.compile(rf"__global__\s+{_BOUNDS}void\s+{_BOUNDS}(\w+)")


@dataclass(frozen=True, slots=True)
class CodeSize:
    """Candidate against baseline, normalised code.

    moved_ignored   True when the files were too long for a diff and lines were compared as a set
    """

    nodes_added: int
    nodes_removed: int
    lines_added: int
    lines_removed: int
    functions_added: tuple[str, ...]
    functions_removed: tuple[str, ...]
    kernels_added: tuple[str, ...]
    kernels_removed: tuple[str, ...]
    candidate_lines: int
    baseline_lines: int
    moved_ignored: bool = False

    @property
    def same(self) -> bool:
        return not (self.nodes_added or self.nodes_removed)

    def text(self) -> str:
        """One line: +212 -80 lines, +1,930 -611 nodes, 4 new functions, 2 new kernels."""
        if self.same:
            moved = " (moved code only)" if self.lines_added else ""
            return f"the same code{moved}, {self.candidate_lines:,} lines"
        parts = [
            f"+{self.lines_added:,} -{self.lines_removed:,} lines",
            f"+{self.nodes_added:,} -{self.nodes_removed:,} nodes",
        ]
        parts += [f"{_count(len(self.functions_added), 'new function')}"]
        if self.kernels_added:
            parts += [_count(len(self.kernels_added), "new kernel")]
        return ", ".join(parts) + f" ({self.baseline_lines:,} → {self.candidate_lines:,} lines)"


def compare_code(candidate: Source, baseline: Source) -> CodeSize:
    """The difference in real code. Raises UnparsableError where a file is no Python."""
    new, old = _measure(candidate), _measure(baseline)
    added, removed, ignored = _changed_lines(old.lines, new.lines)
    return CodeSize(
        nodes_added=_surplus(new.statements, old.statements),
        nodes_removed=_surplus(old.statements, new.statements),
        lines_added=added,
        lines_removed=removed,
        functions_added=tuple(sorted(set(new.functions) - set(old.functions))),
        functions_removed=tuple(sorted(set(old.functions) - set(new.functions))),
        kernels_added=tuple(sorted(set(new.kernels) - set(old.kernels))),
        kernels_removed=tuple(sorted(set(old.kernels) - set(new.kernels))),
        candidate_lines=len(new.lines),
        baseline_lines=len(old.lines),
        moved_ignored=ignored,
    )


@dataclass(slots=True)
class _Measured:
    lines: list[str]
    statements: Counter[tuple[str, int]]
    functions: list[str]
    kernels: list[str]


def _measure(source: Source) -> _Measured:
    measured = _Measured([], Counter(), [], [])
    # The started script first: its name may differ between the arms.
    for path in sorted(source.files, key=lambda p: (p != source.script, p)):
        tree = parse_script(source.files[path])
        try:
            measured.lines += normal_lines(tree)
            _count_statements(tree, measured)
        except RecursionError:
            raise UnparsableError(0, "nested too deeply to be measured") from None
    return measured


def normal_lines(tree: ast.Module) -> list[str]:
    """The code as `ast.unparse` writes it, docstrings and blank lines left out."""
    hidden = {id(node) for node in _docstrings(tree)}
    return [
        line
        for statement in tree.body
        if id(statement) not in hidden
        for line in ast.unparse(_without(statement, hidden)).splitlines()
        if line.strip()
    ]


def _without(node: ast.stmt, hidden: set[int]) -> ast.stmt:
    """A copy of a definition without its docstring, and so for the definitions inside it.

    The tree itself stays as it is: it is shared.
    """
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return node
    body = [_without(child, hidden) for child in node.body if id(child) not in hidden]
    fields = {name: value for name, value in ast.iter_fields(node) if name != "body"}
    copy = type(node)(**fields, body=body or [ast.Pass()])
    return ast.copy_location(copy, node)


def _docstrings(tree: ast.Module) -> Iterator[ast.stmt]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                yield first


def _count_statements(tree: ast.Module, measured: _Measured) -> None:
    """Every statement by what it says (its own head, not the statements inside it)."""
    hidden = {id(node) for node in _docstrings(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            measured.functions.append(node.name)
            names = {_dotted(decorator) for decorator in node.decorator_list}
            if names.intersection(KERNEL_DECORATORS):
                measured.kernels.append(node.name)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            measured.kernels += _CUDA.findall(node.value) if "__global__" in node.value else []
        if isinstance(node, ast.stmt) and id(node) not in hidden:
            parts = [ast.dump(part) for part in _head(node)]
            nodes = 1 + sum(1 for part in _head(node) for _ in ast.walk(part))
            measured.statements[(type(node).__name__ + "|".join(parts), nodes)] += 1


def _head(node: ast.stmt) -> Iterator[ast.AST]:
    """The expressions of a statement; a definition's name counts with its arguments."""
    for name, value in ast.iter_fields(node):
        if isinstance(value, ast.AST):
            yield value
        elif isinstance(value, str):
            yield ast.Name(f"{name}:{value}", ast.Load())
        elif isinstance(value, list) and name not in ("body", "orelse", "finalbody", "handlers"):
            yield from (item for item in value if isinstance(item, ast.AST))


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Call):
        return _dotted(node.func)
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _surplus(mine: Counter[tuple[str, int]], theirs: Counter[tuple[str, int]]) -> int:
    return sum(nodes * count for (_, nodes), count in (mine - theirs).items())


def _changed_lines(old: list[str], new: list[str]) -> tuple[int, int, bool]:
    """(added, removed, order ignored)"""
    if max(len(old), len(new)) > DIFF_LIMIT_LINES:
        before, after = Counter(old), Counter(new)
        return (after - before).total(), (before - after).total(), True
    # Lines that stand in one file only cannot match: taking them out first makes the diff quick.
    common = set(old) & set(new)
    kept_old = [line for line in old if line in common]
    kept_new = [line for line in new if line in common]
    matcher = difflib.SequenceMatcher(None, kept_old, kept_new)
    same = sum(block.size for block in matcher.get_matching_blocks())
    return len(new) - same, len(old) - same, False


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
