"""What a parameter may hold: whatever any call of its function passes."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from harness.scan.apply import Arguments
from harness.scan.values import (
    ANYTHING,
    Bound,
    Class,
    Dict,
    Function,
    Items,
    Values,
    merge,
)

if TYPE_CHECKING:
    from harness.scan.resolve import Resolver
    from harness.scan.scopes import Binding, FunctionNode, Scope

MAX_CALL_SITES = 64


def parameter_values(r: Resolver, binding: Binding) -> Values:
    """Union over all call sites and the default; unknown where nobody calls, or anyone may."""
    function = binding.node
    assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    sites = _call_sites(r).get(id(function), [])
    if not sites or len(sites) > MAX_CALL_SITES:
        return merge(_default(r, function, binding), ANYTHING)
    found = merge(*(_passed(r, function, binding, given, skip) for given, skip in sites))
    escapes = not isinstance(function, ast.Lambda) and function.name in r.program.escaping
    return merge(found, ANYTHING if escapes else ()) or ANYTHING


def _call_sites(r: Resolver) -> dict[int, list[tuple[Arguments, int]]]:
    """Function -> (arguments, how many leading parameters are bound already) of every call.

    Found with a resolver of its own, in which parameters are unknown, so that no answer given
    while the table is being made is remembered.
    """
    if r.call_sites is None:
        r.call_sites = {}
        scout = type(r)(r.program)
        scout.call_sites = {}
        for node, scope in r.program.calls:
            for value in scout.values(node.func, scope):
                _enter(r, value, node, scope)
    return r.call_sites


def _enter(r: Resolver, value: object, node: ast.Call, scope: Scope) -> None:
    assert r.call_sites is not None
    if isinstance(value, Bound):
        for inner in value.function:
            if isinstance(inner, Function):
                given = _Later(r, node, scope, value)
                r.call_sites.setdefault(id(inner.node), []).append((given, 0))
    elif isinstance(value, Function):
        bound = value.scope.kind == "class" and isinstance(node.func, ast.Attribute)
        given = _Later(r, node, scope)
        r.call_sites.setdefault(id(value.node), []).append((given, 1 if bound else 0))
    elif isinstance(value, Class):
        body = r.program.class_scopes.get(id(value.node))
        for binding in body.bindings.get("__init__", ()) if body is not None else ():
            given = _Later(r, node, scope)
            r.call_sites.setdefault(id(binding.node), []).append((given, 1))


class _Later(Arguments):
    """Arguments that are looked at when first asked for: by then parameters can be followed."""

    def __init__(
        self, r: Resolver, node: ast.Call, scope: Scope, bound: Bound | None = None
    ) -> None:
        self._r, self._call, self._scope, self._bound = r, node, scope, bound

    def __getattr__(self, name: str) -> object:
        if name.startswith("_"):
            raise AttributeError(name)
        given = self._r.arguments(self._call, self._scope)
        if self._bound is not None:
            given = given.after(self._bound.args, self._bound.keywords)
        return getattr(given, name)


def _passed(
    r: Resolver, function: FunctionNode, binding: Binding, given: Arguments, skip: int
) -> Values:
    names = function.args
    positional = [argument.arg for argument in (*names.posonlyargs, *names.args)]
    if binding.path in positional:
        place = positional.index(binding.path) - skip
        if place < 0:
            return ANYTHING
        if place < len(given.positional):
            return given.positional[place]
    if names.vararg is not None and binding.path == names.vararg.arg:
        extra = given.positional[max(len(positional) - skip, 0) :]
        return (Items(tuple(extra), exact=not given.open_positional),)
    if names.kwarg is not None and binding.path == names.kwarg.arg:
        named = {*positional, *(argument.arg for argument in names.kwonlyargs)}
        whole = given.as_dict()
        extra_keywords = {k: v for k, v in whole.entries.items() if k not in named}
        return (Dict(extra_keywords, whole.rest, whole.places),)
    if binding.path in given.keywords:
        return given.keywords[binding.path]
    found = _default(r, function, binding)
    if given.open_positional or given.open_keywords or not found:
        found = merge(found, given.rest, ANYTHING)
    return found


def _default(r: Resolver, function: FunctionNode, binding: Binding) -> Values:
    outer = binding.scope.parent
    assert outer is not None
    names = function.args
    positional = [*names.posonlyargs, *names.args]
    pairs = list(zip(positional[::-1], names.defaults[::-1], strict=False))
    pairs += [
        (argument, default)
        for argument, default in zip(names.kwonlyargs, names.kw_defaults, strict=True)
        if default is not None
    ]
    for argument, default in pairs:
        if argument.arg == binding.path:
            return r.values(default, outer)
    return ()
