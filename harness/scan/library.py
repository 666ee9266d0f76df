"""Functions of the standard library that lead to names, modules, strings and containers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from harness.scan.arguments import Arguments
from harness.scan.containers import from_plain, joined, to_plain
from harness.scan.values import (
    ANYTHING,
    Bound,
    Const,
    Dict,
    Items,
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

Routine = Callable[["Resolver", Arguments, "Scope"], Values]


def _getattr(r: Resolver, given: Arguments, scope: Scope) -> Values:
    names = strings(given.at(1))
    found = merge(*(r.attribute(given.at(0), name) for name in names), given.at(2))
    return merge(found, ANYTHING if is_open(given.at(1)) else ()) or ANYTHING


def _import_module(r: Resolver, given: Arguments, scope: Scope) -> Values:
    return merge(*(r.ref(name) for name in strings(given.at(0, "name")))) or ANYTHING


def _dunder_import(r: Resolver, given: Arguments, scope: Scope) -> Values:
    leaf = given.at(3, "fromlist")
    takes_leaf = bool(leaf) and not (len(leaf) == 1 and to_plain(leaf[0]) in ([], None, ()))
    names = strings(given.at(0, "name"))
    return merge(*(r.ref(n if takes_leaf else n.partition(".")[0]) for n in names)) or ANYTHING


def _resolve_name(r: Resolver, given: Arguments, scope: Scope) -> Values:
    return merge(*(r.ref(n.replace(":", ".")) for n in strings(given.at(0)))) or ANYTHING


def _vars(r: Resolver, given: Arguments, scope: Scope) -> Values:
    if not given.positional:
        return (Ref("<names>"),)
    return tuple(Ref(f"{path}.__dict__") for path in paths(given.at(0))) or ANYTHING


def _type(r: Resolver, given: Arguments, scope: Scope) -> Values:
    if len(given.positional) != 1:
        return ANYTHING
    return tuple(Ref(f"{path}.__class__") for path in paths(given.at(0))) or ANYTHING


def _names(r: Resolver, given: Arguments, scope: Scope) -> Values:
    return (Ref("<names>"),)


def _dict(r: Resolver, given: Arguments, scope: Scope) -> Values:
    found = given.as_dict()
    for value in given.at(0):
        if isinstance(value, Dict):
            found = joined(value, found)
        elif isinstance(pairs := to_plain(value), list) and all(
            isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs
        ):
            found = joined(Dict({k: (from_plain(v),) for k, v in pairs}), found)
        else:
            found = Dict(found.entries, ANYTHING, found.places)
    return (found,)


def _listed(r: Resolver, given: Arguments, scope: Scope) -> Values:
    if not given.positional:
        return (Items(()),)
    exact = r.exact(given.at(0))
    if exact is not None:
        return (Items(tuple(exact)),)
    return (Items((r.elements(given.at(0)),), exact=False),)


def _reversed(r: Resolver, given: Arguments, scope: Scope) -> Values:
    exact = r.exact(given.at(0))
    return (Items(tuple(reversed(exact))),) if exact is not None else _listed(r, given, scope)


def _enumerate(r: Resolver, given: Arguments, scope: Scope) -> Values:
    exact = r.exact(given.at(0))
    if exact is None:
        return (Items(((Items((ANYTHING, r.elements(given.at(0)))),),), exact=False),)
    return (Items(tuple((Items(((Const(i),), v)),) for i, v in enumerate(exact))),)


def _zip(r: Resolver, given: Arguments, scope: Scope) -> Values:
    columns = [r.exact(values) for values in given.positional]
    if any(column is None for column in columns):
        row = Items(tuple(r.elements(values) for values in given.positional))
        return (Items(((row,),), exact=False),)
    rows = zip(*(column for column in columns if column is not None), strict=False)
    return (Items(tuple((Items(tuple(row)),) for row in rows)),)


def _map(r: Resolver, given: Arguments, scope: Scope) -> Values:
    exact = r.exact(given.at(1))
    if exact is None or len(given.positional) != 2 or len(exact) > 1024:
        return ANYTHING
    results = []
    for element in exact:
        inner = Arguments(given.node)
        inner.positional = [element]
        results.append(r.call(given.at(0), inner, scope))
    return (Items(tuple(results)),)


def _range(r: Resolver, given: Arguments, scope: Scope) -> Values:
    combinations = r.product(given.positional)
    if combinations is None or len(combinations) != 1:
        return ANYTHING
    bounds = combinations[0]
    if not all(isinstance(b, int) for b in bounds) or not 1 <= len(bounds) <= 3:
        return ANYTHING
    try:
        numbers = range(*(int(b) for b in bounds if isinstance(b, int)))
    except ValueError:
        return ANYTHING
    return (Items(tuple((Const(i),) for i in numbers)),) if len(numbers) <= 1024 else ANYTHING


def _partial(r: Resolver, given: Arguments, scope: Scope) -> Values:
    if not given.positional:
        return ANYTHING
    return (Bound(given.at(0), tuple(given.positional[1:]), given.as_dict()),)


def _getter(path: str) -> Callable[[Resolver, Arguments, Scope], Values]:
    def make(r: Resolver, given: Arguments, scope: Scope) -> Values:
        return (Bound((Ref(path),), tuple(given.positional), given.as_dict()),)

    return make


def _reduce(r: Resolver, given: Arguments, scope: Scope) -> Values:
    steps = r.exact(given.at(1))
    if "builtins.getattr" not in paths(given.at(0)) or steps is None:
        return ANYTHING
    if len(given.positional) > 2:
        found = given.at(2)
    else:
        found, steps = (steps[0], steps[1:]) if steps else (ANYTHING, [])
    for step in steps:
        found = merge(*(r.attribute(found, name) for name in strings(step)))
    return found


def _eval(r: Resolver, given: Arguments, scope: Scope) -> Values:
    found: list[Value] = []
    for text in strings(given.at(0)):
        node = r.expression(text)
        found += r.values(node, scope) if node is not None else ANYTHING
    return merge(found) or ANYTHING


def _getitem(r: Resolver, given: Arguments, scope: Scope) -> Values:
    return r.subscript(given.at(0), given.at(1), scope)


def _same(r: Resolver, given: Arguments, scope: Scope) -> Values:
    return given.at(0) or ANYTHING


LIBRARY: dict[str, Callable[[Resolver, Arguments, Scope], Values]] = {
    "builtins.getattr": _getattr,
    "inspect.getattr_static": _getattr,
    "builtins.__import__": _dunder_import,
    "importlib.import_module": _import_module,
    "importlib.__import__": _dunder_import,
    "importlib.reload": _same,
    "pkgutil.resolve_name": _resolve_name,
    "builtins.vars": _vars,
    "builtins.type": _type,
    "builtins.globals": _names,
    "builtins.locals": _names,
    "builtins.dict": _dict,
    "builtins.list": _listed,
    "builtins.tuple": _listed,
    "builtins.set": _listed,
    "builtins.frozenset": _listed,
    "builtins.sorted": _listed,
    "builtins.iter": _listed,
    "builtins.reversed": _reversed,
    "builtins.enumerate": _enumerate,
    "builtins.zip": _zip,
    "builtins.map": _map,
    "builtins.range": _range,
    "builtins.eval": _eval,
    "functools.partial": _partial,
    "functools.partialmethod": _partial,
    "functools.reduce": _reduce,
    "operator.attrgetter": _getter("operator.attrgetter"),
    "operator.methodcaller": _getter("operator.methodcaller"),
    "operator.itemgetter": _getter("operator.itemgetter"),
    "operator.getitem": _getitem,
    "builtins.compile": _same,
    "textwrap.dedent": _same,
    "copy.copy": _same,
    "copy.deepcopy": _same,
}
