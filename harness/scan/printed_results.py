"""Rule: the loss and the time that are printed were measured. Looks at the printed expressions."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator

from harness.scan.analysis import Analysis
from harness.scan.finding import excerpt
from harness.scan.scopes import Scope
from harness.scan.syntax import code_text
from harness.scan.values import Const, paths
from harness.scan.words import words

FIELD = re.compile(r"(?:^|[\s|,;])(val_loss|train_time)\s*[:=]\s*$")
RESULT_LINE = re.compile(r"^\s*step:\d+/\d+ val_loss:\d+\.\d+", re.MULTILINE)
PRINTERS = words("print print0 printr log log0 info say write writelines puts echo emit")
CUTS_LOSS = words(
    "builtins.min builtins.round builtins.int math.floor math.trunc numpy.floor numpy.trunc "
    "numpy.minimum numpy.round numpy.clip torch.floor torch.trunc torch.minimum torch.clamp"
)
CUTS_TIME = words("builtins.min math.floor numpy.minimum numpy.clip torch.clamp")
CUTTING_METHODS = words(
    "floor floor_ trunc trunc_ clamp clamp_ clamp_max clamp_max_ clip round round_"
)
MAX_NODES = 400


def find_printed_results(analysis: Analysis) -> None:
    """Constants and shaped values where a loss or a time is printed, and whole lines as text."""
    for node, scope in analysis.program.expressions:
        if isinstance(node, ast.JoinedStr):
            for name, field in _fields(node):
                _judge(analysis, name, field, scope)
    printed = {
        id(inner): call
        for call, _ in analysis.program.calls
        for argument in call.args
        for inner in (argument, *ast.iter_child_nodes(argument))
        if isinstance(inner, ast.Constant)
    }
    for node, scope in analysis.program.expressions:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            call = printed.get(id(node))
            if call is not None and RESULT_LINE.search(node.value):
                _whole_line(analysis, node, call, scope)


def _fields(node: ast.JoinedStr) -> Iterator[tuple[str, ast.expr]]:
    """(val_loss or train_time, the expression printed behind it)."""
    before = ""
    for part in node.values:
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            before = part.value
        elif isinstance(part, ast.FormattedValue):
            found = FIELD.search(before)
            if found:
                yield found.group(1), part.value
            before = ""


def _judge(analysis: Analysis, name: str, field: ast.expr, scope: Scope) -> None:
    values = analysis.resolver.values(field, scope)
    what = "loss" if name == "val_loss" else "time"
    numbers = [v.value for v in values if isinstance(v, Const)]
    if (
        len(numbers) == len(values) > 0
        and all(_is_number(number) for number in numbers)
        and not _counts(analysis, field, scope)
    ):
        shown = ", ".join(excerpt(str(number), 20) for number in numbers[:3])
        analysis.add(
            field,
            scope,
            f"constant-{what}",
            "fail",
            f"{name} is printed from a constant: {shown}",
            f"the {what} must be measured in the run",
            f"print the {what} that the run measured",
        )
        return
    for place, how in _shaping(analysis, name, field, scope):
        analysis.add(
            place if hasattr(place, "lineno") else field,
            scope,
            f"shaped-{what}",
            "warn",
            f"the printed {name} goes through {how}",
            f"a printed {what} that is not the measured one",
            f"print the measured {what} with its decimals",
        )


def _counts(analysis: Analysis, field: ast.expr, scope: Scope) -> bool:
    """A name that is also counted up or runs through a loop may well be measured."""
    if not isinstance(field, ast.Name):
        return False
    owner = scope.owner(field.id)
    kinds = {b.kind for b in owner.bindings[field.id]} if owner is not None else set()
    return not kinds <= {"value", "parameter"}


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or value is None:
        return False
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return False
    return math.isfinite(number) and number != 0


def _shaping(
    analysis: Analysis, name: str, field: ast.expr, scope: Scope
) -> Iterator[tuple[ast.AST, str]]:
    """What cuts, shifts or scales the value on its way to the print, through names and returns."""
    waiting: list[tuple[ast.AST, Scope]] = [(field, scope)]
    seen: set[int] = set()
    while waiting and len(seen) < MAX_NODES:
        node, here = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        match node:
            case ast.Call():
                yield from _cut(analysis, name, node, here)
                if isinstance(node.func, ast.Attribute):
                    waiting.append((node.func.value, here))
                waiting += [(argument, here) for argument in node.args]
            case ast.BinOp():
                yield from _scaled(analysis, name, node, here)
                waiting += [(node.left, here), (node.right, here)]
            case ast.UnaryOp():
                waiting.append((node.operand, here))
            case ast.IfExp():
                waiting += [(node.body, here), (node.orelse, here)]
            case ast.Name():
                owner = here.owner(node.id)
                bindings = owner.bindings[node.id] if owner is not None else []
                waiting += [
                    (b.node, b.scope) for b in bindings if b.kind == "value" and b.node is not None
                ]


def _cut(
    analysis: Analysis, name: str, node: ast.Call, scope: Scope
) -> Iterator[tuple[ast.AST, str]]:
    cuts = CUTS_LOSS if name == "val_loss" else CUTS_TIME
    found = paths(analysis.resolver.values(node.func, scope))
    for path in found:
        if path not in cuts:
            continue
        if path.endswith((".min", ".minimum", ".clip", ".clamp")) and not _constant_among(
            analysis, node, scope
        ):
            continue
        yield node, f"{path.removeprefix('builtins.')}()"
    if not found and isinstance(node.func, ast.Attribute) and node.func.attr in CUTTING_METHODS:
        yield node, f".{node.func.attr}()"


def _constant_among(analysis: Analysis, node: ast.Call, scope: Scope) -> bool:
    return any(_number(analysis, argument, scope) is not None for argument in node.args)


def _scaled(
    analysis: Analysis, name: str, node: ast.BinOp, scope: Scope
) -> Iterator[tuple[ast.AST, str]]:
    right = _number(analysis, node.right, scope)
    left = _number(analysis, node.left, scope)
    if left is not None and right is not None:
        return
    match node.op:
        case ast.Sub() if right is not None and right > 0:
            yield node, f"a subtraction of {right:g}"
        case ast.Add() if right is not None and right < 0:
            yield node, f"a subtraction of {-right:g}"
        case ast.Mult():
            factor = right if right is not None else left
            if factor is not None and 0.5 < factor < 1:
                yield node, f"a factor of {factor:g}"
        case ast.Div() if right is not None and 1 < right < 2:
            yield node, f"a division by {right:g}"


def _number(analysis: Analysis, node: ast.AST, scope: Scope) -> float | None:
    """A number written in the source (not one that is counted), else None."""
    if not isinstance(node, ast.Constant | ast.UnaryOp | ast.Name | ast.BinOp | ast.Attribute):
        return None
    values = analysis.resolver.values(node, scope)
    if len(values) != 1 or not isinstance(values[0], Const) or not _is_number(values[0].value):
        return None
    return float(values[0].value)


def _whole_line(analysis: Analysis, node: ast.Constant, call: ast.Call, scope: Scope) -> None:
    name = code_text(call.func).rpartition(".")[2]
    analysis.add(
        node,
        scope,
        "constant-loss",
        "fail" if name in PRINTERS else "warn",
        "a whole result line stands in the script as text",
        "the loss must be measured in the run",
        "print what the run measured",
    )
