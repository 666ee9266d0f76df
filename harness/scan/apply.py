"""What a call gives: functions that build names, modules and strings are carried out."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from harness.scan import folding
from harness.scan.arguments import Arguments
from harness.scan.containers import NOTHING, all_values, from_plain, to_plain
from harness.scan.library import LIBRARY
from harness.scan.values import (
    ANYTHING,
    UNKNOWN,
    Bound,
    Class,
    Const,
    Dict,
    Function,
    Instance,
    Items,
    Method,
    Ref,
    Value,
    Values,
    is_open,
    merge,
    paths,
    strings,
)

if TYPE_CHECKING:
    from harness.scan.resolve import Resolver
    from harness.scan.scopes import Scope


def apply(r: Resolver, function: Value, given: Arguments, scope: Scope) -> Values:
    """The result of calling one value."""
    if isinstance(function, Ref):
        return _apply_ref(r, function.path, given, scope)
    if isinstance(function, Bound):
        return _apply_bound(r, function, given, scope)
    if isinstance(function, Function):
        return _apply_function(r, function)
    if isinstance(function, Class):
        return (Instance(function),)
    if isinstance(function, Method):
        return _apply_method(r, function, given)
    return ANYTHING


def _apply_bound(r: Resolver, function: Bound, given: Arguments, scope: Scope) -> Values:
    target = paths(function.function)
    if "operator.attrgetter" in target:
        found = given.at(0)
        for name in strings(function.args[0] if function.args else ()):
            for part in name.split("."):
                found = r.attribute(found, part)
        return found
    if "operator.itemgetter" in target:
        return r.subscript(given.at(0), function.args[0] if function.args else (), scope)
    if "operator.methodcaller" in target:
        names = strings(function.args[0] if function.args else ())
        inner = Arguments(given.node).after(function.args[1:], function.keywords)
        methods = merge(*(r.attribute(given.at(0), name) for name in names))
        return r.call(methods, inner, scope)
    return r.call(function.function, given.after(function.args, function.keywords), scope)


def _apply_function(r: Resolver, function: Function) -> Values:
    node = function.node
    if isinstance(node, ast.AsyncFunctionDef) or id(node) in r.program.generators:
        return ANYTHING
    returned = r.program.returns.get(id(node), ())
    return merge(*(r.values(value, inner) for value, inner in returned)) or (Const(None),)


def _apply_method(r: Resolver, method: Method, given: Arguments) -> Values:
    owner, name = method.owner, method.name
    if isinstance(owner, Dict):
        return _dict_method(r, owner, name, given)
    if isinstance(owner, Items):
        return (owner,) if name == "copy" else r.elements((owner,)) if name == "pop" else ANYTHING
    positional = given.positional
    if name == "join":
        positional = [_with_plain_iterables(r, values) for values in positional]
    combinations = r.product([(owner,), *positional, *given.keywords.values()])
    if combinations is None or given.open_positional or given.open_keywords:
        return ANYTHING
    found: list[Value] = []
    for plain, *rest in combinations:
        args = rest[: len(positional)]
        keywords = dict(zip(given.keywords, rest[len(positional) :], strict=True))
        try:
            found.append(from_plain(folding.method(plain, name, args, keywords)))
        except folding.NotKnownError:
            # Path("x").read_text() and the like: a path is kept as its string.
            found.append(UNKNOWN)
    return merge(found)


def _with_plain_iterables(r: Resolver, values: Values) -> Values:
    """`"".join(reversed(…))`: an iterable of constants as a list of them."""
    return tuple(Items(tuple(r.exact((v,)) or ())) if isinstance(v, Dict) else v for v in values)


def _dict_method(r: Resolver, owner: Dict, name: str, given: Arguments) -> Values:
    match name:
        case "items":
            pairs = [(Items(((Const(key),), values)),) for key, values in owner.entries.items()]
            return (Items(tuple(pairs), exact=not owner.rest),)
        case "values":
            return (Items(tuple(owner.entries.values()), exact=not owner.rest),)
        case "keys":
            keys = tuple((Const(key),) for key in owner.entries)
            return (Items(keys, exact=not owner.rest),)
        case "get" | "pop" | "setdefault" | "__getitem__":
            names = [key for v in given.at(0) if (key := to_plain(v)) is not NOTHING]
            hits = [
                owner.entries[k] for k in names if isinstance(k, str | int) and k in owner.entries
            ]
            misses = given.at(1) if len(hits) < len(names) or not names else ()
            found = merge(*hits, misses, all_values(owner) if is_open(given.at(0)) else ())
            return found or owner.rest or ANYTHING
        case "copy":
            return (owner,)
    return ANYTHING


def _apply_ref(r: Resolver, path: str, given: Arguments, scope: Scope) -> Values:
    known = LIBRARY.get(path)
    if known is not None:
        return known(r, given, scope)
    owner, _, last = path.rpartition(".")
    if owner == "sys.modules" and last in ("get", "pop", "setdefault", "__getitem__"):
        return merge(*(r.ref(name) for name in strings(given.at(0)))) or ANYTHING
    if owner.endswith(".__dict__") and last in ("get", "pop", "__getitem__", "setdefault"):
        base: Values = (Ref(owner.removesuffix(".__dict__")),)
        return merge(*(r.attribute(base, name) for name in strings(given.at(0)))) or ANYTHING
    if last == "__getattribute__":
        target = given.at(0) if owner in ("builtins.object", "types.ModuleType") else (Ref(owner),)
        names = given.at(1) if owner in ("builtins.object", "types.ModuleType") else given.at(0)
        return merge(*(r.attribute(target, name) for name in strings(names))) or ANYTHING
    if path in folding.FUNCTIONS:
        groups = [_with_plain_iterables(r, values) for values in given.positional]
        combinations = r.product([*groups, *given.keywords.values()])
        if combinations is None or given.open_positional or given.open_keywords:
            return ANYTHING
        found: list[Value] = []
        for rest in combinations:
            keywords = dict(zip(given.keywords, rest[len(groups) :], strict=True))
            try:
                found.append(from_plain(folding.call(path, rest[: len(groups)], keywords)))
            except folding.NotKnownError:
                found.append(UNKNOWN)
        return merge(found)
    return ANYTHING
