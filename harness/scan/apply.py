"""What a call gives: the functions that build names, modules and strings are carried out."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from harness.scan import folding
from harness.scan.containers import NOTHING, all_values, from_plain, joined, to_plain
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


class Arguments:
    """The arguments of one call, as values.

    open_positional, open_keywords   there is a `*` or `**` whose contents are not known
    rest                             what may be in the `*`
    places                           the expression behind each keyword, for positions
    """

    def __init__(self, node: ast.Call | None = None) -> None:
        self.node = node
        self.positional: list[Values] = []
        self.keywords: dict[str, Values] = {}
        self.places: dict[str, ast.AST] = {}
        self.rest: Values = ()
        self.open_positional = False
        self.open_keywords = False

    def keyword(self, name: str, values: Values, place: ast.AST) -> None:
        self.keywords[name] = merge(self.keywords.get(name, ()), values)
        self.places.setdefault(name, place)

    def at(self, place: int, name: str = "") -> Values:
        """The argument at a position or under a name; () if it is not given."""
        if place < len(self.positional):
            return self.positional[place]
        return self.keywords.get(name, self.rest)

    def as_dict(self) -> Dict:
        rest = ANYTHING if self.open_keywords else ()
        return Dict(dict(self.keywords), rest, dict(self.places))

    def after(self, args: tuple[Values, ...], keywords: Dict) -> Arguments:
        """These arguments behind others that were bound before."""
        both = Arguments(self.node)
        both.positional = [*args, *self.positional]
        for name, values in keywords.entries.items():
            if name not in self.keywords and isinstance(name, str):
                both.keywords[name] = values
                if name in keywords.places:
                    both.places[name] = keywords.places[name]
        both.keywords |= self.keywords
        both.places |= self.places
        both.rest, both.open_positional = self.rest, self.open_positional
        both.open_keywords = self.open_keywords or bool(keywords.rest)
        return both

    def without_first(self) -> Arguments:
        rest = Arguments(self.node)
        rest.__dict__.update(self.__dict__)
        rest.positional = self.positional[1:]
        return rest


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
    positional = [_with_plain_iterables(r, values) for values in given.positional]
    combinations = r.product([(owner,), *positional, *given.keywords.values()])
    if combinations is None or given.open_positional or given.open_keywords:
        return ANYTHING
    found: list[Value] = []
    for plain, *rest in combinations:
        args = rest[: len(positional)]
        keywords = dict(zip(given.keywords, rest[len(positional) :], strict=True))
        try:
            found.append(from_plain(folding.method(plain, name, args, keywords)))
        except folding.NotKnown:
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
    known = _CALLS.get(path)
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
            except folding.NotKnown:
                found.append(UNKNOWN)
        return merge(found)
    return ANYTHING


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
    if exact is None or len(given.positional) != 2 or len(exact) > 4096:
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
        numbers = range(*bounds)  # type: ignore[arg-type]
    except ValueError:
        return ANYTHING
    return (Items(tuple((Const(i),) for i in numbers)),) if len(numbers) <= 4096 else ANYTHING


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


_CALLS: dict[str, Callable[[Resolver, Arguments, Scope], Values]] = {
    "builtins.getattr": _getattr,
    "inspect.getattr_static": _getattr,
    "builtins.__import__": _dunder_import,
    "importlib.import_module": _import_module,
    "importlib.__import__": _dunder_import,
    "importlib.reload": _same,
    "pkgutil.resolve_name": _resolve_name,
    "builtins.vars": _vars,
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
    "copy.copy": _same,
    "copy.deepcopy": _same,
    "types.SimpleNamespace": lambda r, given, scope: ANYTHING,
}
