"""What a parameter may hold: whatever any call of its function passes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.scan.arguments import Arguments
from harness.scan.values import (
    ANYTHING,
    Bound,
    Class,
    Dict,
    Function,
    Instance,
    Items,
    Values,
    merge,
)

if TYPE_CHECKING:
    from harness.scan.resolve import Resolver
    from harness.scan.scopes import Binding, FunctionNode, Scope

MAX_CALL_SITES = 64


@dataclass(frozen=True, slots=True)
class CallSite:
    """One call of a function of the script; `skip` leading parameters are bound already."""

    node: ast.Call
    scope: Scope
    skip: int
    bound: Bound | None = None

    def given(self, r: Resolver) -> Arguments:
        given = r.arguments(self.node, self.scope)
        return given.after(self.bound.args, self.bound.keywords) if self.bound else given


def parameter_values(r: Resolver, binding: Binding) -> Values:
    """Union over all call sites and the default; unknown where nobody calls, or anyone may."""
    function = binding.node
    assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    sites = _call_sites(r).get(id(function), [])
    if _is_self(function, binding):
        home = binding.scope.parent
        assert home is not None
        assert home.parent is not None
        assert isinstance(home.node, ast.ClassDef)
        return (Instance(Class(home.node, home.parent)),)
    if not sites or len(sites) > MAX_CALL_SITES:
        return merge(_default(r, function, binding), ANYTHING)
    found = merge(*(_passed(r, function, binding, site.given(r), site.skip) for site in sites))
    escapes = not isinstance(function, ast.Lambda) and function.name in r.program.escaping
    return merge(found, ANYTHING if escapes else ()) or ANYTHING


def _is_self(function: FunctionNode, binding: Binding) -> bool:
    """Is it the first parameter of a method?"""
    home = binding.scope.parent
    if home is None or home.kind != "class" or isinstance(function, ast.Lambda):
        return False
    positional = [*function.args.posonlyargs, *function.args.args]
    static = any(
        isinstance(d, ast.Name) and d.id == "staticmethod" for d in function.decorator_list
    )
    return bool(positional) and not static and positional[0].arg == binding.path


def _call_sites(r: Resolver) -> dict[int, list[CallSite]]:
    """Function -> every call of it.

    Found with a resolver of its own, in which parameters are unknown, so that no answer given
    while the table is being made is remembered.
    """
    if r.call_sites is None:
        r.call_sites = {}
        scout = type(r)(r.program)
        scout.call_sites = {}
        for node, scope in r.program.calls:
            for value in scout.values(node.func, scope):
                for function, site in _sites(r, value, node, scope):
                    r.call_sites.setdefault(id(function), []).append(site)
    return r.call_sites


def _sites(
    r: Resolver, value: object, node: ast.Call, scope: Scope
) -> Iterator[tuple[ast.AST | None, CallSite]]:
    if isinstance(value, Bound):
        for inner in value.function:
            if isinstance(inner, Function):
                yield inner.node, CallSite(node, scope, 0, value)
    elif isinstance(value, Function):
        bound = value.scope.kind == "class" and isinstance(node.func, ast.Attribute)
        yield value.node, CallSite(node, scope, 1 if bound else 0)
    elif isinstance(value, Class):
        body = r.program.class_scopes.get(id(value.node))
        for binding in body.bindings.get("__init__", ()) if body is not None else ():
            yield binding.node, CallSite(node, scope, 1)


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
