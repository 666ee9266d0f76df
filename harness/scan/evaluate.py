"""One function for each kind of expression: what it may be, given what its parts may be."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from harness.scan import folding
from harness.scan.containers import (
    NOTHING,
    from_plain,
    hashable,
    joined,
    to_plain,
)
from harness.scan.values import (
    ANYTHING,
    UNKNOWN,
    Const,
    Dict,
    Function,
    Items,
    Value,
    Values,
    constants,
    is_open,
    merge,
)

if TYPE_CHECKING:
    from harness.scan.resolve import Resolver
    from harness.scan.scopes import Scope

Evaluator = Callable[["Resolver", Any, "Scope"], Values]


def _name(r: Resolver, node: ast.Name, scope: Scope) -> Values:
    return r.name(node.id, scope)


def _attribute(r: Resolver, node: ast.Attribute, scope: Scope) -> Values:
    return r.attribute(r.values(node.value, scope), node.attr)


def _subscript(r: Resolver, node: ast.Subscript, scope: Scope) -> Values:
    return r.subscript(r.values(node.value, scope), r.values(node.slice, scope), scope)


def _slice(r: Resolver, node: ast.Slice, scope: Scope) -> Values:
    parts = []
    for part in (node.lower, node.upper, node.step):
        values = r.values(part, scope) if part is not None else (Const(None),)
        if len(values) != 1 or not isinstance(values[0], Const):
            return ANYTHING
        parts.append(values[0].value)
    return (Const(slice(*parts)),)


def _call(r: Resolver, node: ast.Call, scope: Scope) -> Values:
    return r.call(r.values(node.func, scope), r.arguments(node, scope), scope)


def _sequence(r: Resolver, node: ast.List | ast.Tuple | ast.Set, scope: Scope) -> Values:
    elements: list[Values] = []
    exact = True
    for item in node.elts:
        if isinstance(item, ast.Starred):
            opened = r.exact(r.values(item.value, scope))
            exact = exact and opened is not None
            elements += opened or [r.elements(r.values(item.value, scope))]
        else:
            elements.append(r.values(item, scope))
    return (Items(tuple(elements), exact),)


def _dict(r: Resolver, node: ast.Dict, scope: Scope) -> Values:
    entries: dict[Any, Values] = {}
    places: dict[Any, ast.AST] = {}
    rest: Values = ()
    for key, value in zip(node.keys, node.values, strict=True):
        values = r.values(value, scope)
        if key is None:
            for part in values:
                if isinstance(part, Dict):
                    entries |= part.entries
                    places |= part.places
                    rest = merge(rest, part.rest)
                else:
                    rest = merge(rest, ANYTHING)
            continue
        keys = r.values(key, scope)
        for constant in constants(keys):
            if hashable(constant):
                entries[constant] = merge(entries.get(constant, ()), values)
                places[constant] = value
        if is_open(keys):
            rest = merge(rest, values, ANYTHING)
    return (Dict(entries, rest, places),)


def _binary(r: Resolver, node: ast.BinOp, scope: Scope) -> Values:
    # A sum of many strings nests to the left; its spine is followed without recursion.
    spine: list[ast.BinOp] = [node]
    while isinstance(spine[-1].left, ast.BinOp):
        spine.append(spine[-1].left)
    left = r.values(spine[-1].left, scope)
    for step in reversed(spine):
        left = _combine(r, step.op, left, r.values(step.right, scope))
    return left


def _combine(r: Resolver, op: ast.operator, left: Values, right: Values) -> Values:
    found: list[Value] = []
    for a in left:
        for b in right:
            if isinstance(a, Dict) and isinstance(b, Dict) and isinstance(op, ast.BitOr):
                found.append(joined(a, b))
            elif isinstance(a, Items) and isinstance(b, Items) and isinstance(op, ast.Add):
                found.append(Items((*a.elements, *b.elements), a.exact and b.exact))
            elif isinstance(op, ast.Div) and _path_like(a, b):
                found.append(Const(f"{to_plain(a)}/{to_plain(b)}"))
            else:
                plain = [to_plain(a), to_plain(b)]
                if isinstance(plain[1], list) and isinstance(op, ast.Mod):
                    plain[1] = tuple(plain[1])
                try:
                    if NOTHING in plain:
                        raise folding.NotKnownError
                    found.append(from_plain(folding.binary(op, *plain)))
                except folding.NotKnownError:
                    found.append(UNKNOWN)
    return merge(found) or ANYTHING


def _path_like(a: Value, b: Value) -> bool:
    """`Path("data") / "x"`: both are kept as strings."""
    return all(isinstance(v, Const) and isinstance(v.value, str) for v in (a, b))


def _unary(r: Resolver, node: ast.UnaryOp, scope: Scope) -> Values:
    found: list[Value] = []
    for value in r.values(node.operand, scope):
        try:
            if not isinstance(value, Const):
                raise folding.NotKnownError
            found.append(Const(folding.unary(node.op, value.value)))
        except folding.NotKnownError:
            found.append(UNKNOWN)
    return merge(found)


def _either(r: Resolver, node: ast.IfExp, scope: Scope) -> Values:
    return merge(r.values(node.body, scope), r.values(node.orelse, scope))


def _any_of(r: Resolver, node: ast.BoolOp, scope: Scope) -> Values:
    return merge(*(r.values(value, scope) for value in node.values))


def _named(r: Resolver, node: ast.NamedExpr, scope: Scope) -> Values:
    return r.values(node.value, scope)


def _joined(r: Resolver, node: ast.JoinedStr, scope: Scope) -> Values:
    parts = [r.values(value, scope) for value in node.values]
    combinations = r.product(parts)
    if combinations is None:
        return ANYTHING
    found: list[Value] = []
    for combination in combinations:
        text = "".join(str(part) for part in combination)
        found.append(Const(text) if len(text) <= folding.MAX_LENGTH else UNKNOWN)
    return merge(found)


def _field(r: Resolver, node: ast.FormattedValue, scope: Scope) -> Values:
    specs = r.values(node.format_spec, scope) if node.format_spec is not None else (Const(""),)
    combinations = r.product([r.values(node.value, scope), specs])
    if combinations is None:
        return ANYTHING
    try:
        return tuple(
            Const(folding.formatted(value, node.conversion, str(spec)))
            for value, spec in combinations
        )
    except folding.NotKnownError:
        return ANYTHING


def _comprehension(
    r: Resolver, node: ast.ListComp | ast.SetComp | ast.GeneratorExp, scope: Scope
) -> Values:
    turns = r.turns(node, scope)
    if turns is None:
        inner = r.program.comprehension_scopes.get(id(node), scope)
        return (Items((r.values(node.elt, inner),), exact=False),)
    return (Items(tuple(r.values(node.elt, turn) for turn in turns)),)


def _dict_comprehension(r: Resolver, node: ast.DictComp, scope: Scope) -> Values:
    entries: dict[Any, Values] = {}
    turns = r.turns(node, scope)
    if turns is None:
        inner = r.program.comprehension_scopes.get(id(node), scope)
        keys, values = r.values(node.key, inner), r.values(node.value, inner)
        known = [key for key in constants(keys) if hashable(key)]
        rest = merge(values, ANYTHING) if is_open(keys) else ()
        return (Dict(dict.fromkeys(known, values), rest),)
    for turn in turns:
        keys, values = r.values(node.key, turn), r.values(node.value, turn)
        for key in constants(keys):
            if hashable(key):
                entries[key] = values
        if is_open(keys):
            return (Dict(entries, merge(values, ANYTHING)),)
    return (Dict(entries),)


def _lambda(r: Resolver, node: ast.Lambda, scope: Scope) -> Values:
    return (Function(node, scope),)


def _awaited(r: Resolver, node: ast.Await, scope: Scope) -> Values:
    return r.values(node.value, scope)


EVALUATORS: dict[type[ast.AST], Evaluator] = {
    ast.Name: _name,
    ast.Attribute: _attribute,
    ast.Subscript: _subscript,
    ast.Slice: _slice,
    ast.Call: _call,
    ast.List: _sequence,
    ast.Tuple: _sequence,
    ast.Set: _sequence,
    ast.Dict: _dict,
    ast.BinOp: _binary,
    ast.UnaryOp: _unary,
    ast.IfExp: _either,
    ast.BoolOp: _any_of,
    ast.NamedExpr: _named,
    ast.JoinedStr: _joined,
    ast.FormattedValue: _field,
    ast.ListComp: _comprehension,
    ast.SetComp: _comprehension,
    ast.GeneratorExp: _comprehension,
    ast.DictComp: _dict_comprehension,
    ast.Lambda: _lambda,
    ast.Await: _awaited,
}
