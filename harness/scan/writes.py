"""Everything a program stores into things it imported: attributes, elements, patches.

`torch._inductor.config.x = 1`, `setattr(config, "x", 1)`, `vars(config)["x"] = 1`,
`config.__dict__.update(x=1)`, `mock.patch("torch._inductor.config.x", 1)` are one and the same:
a `Write` of `x` into `torch._inductor.config`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from harness.scan.arguments import Arguments
from harness.scan.resolve import Resolver
from harness.scan.scopes import Program, Scope
from harness.scan.values import (
    ANYTHING,
    Const,
    Dict,
    Ref,
    Unknown,
    Values,
    is_open,
    merge,
    paths,
    strings,
)

ITEM_SETTERS = ("__setitem__", "setdefault")
PATCHES = re.compile(r"^(unittest\.)?mock\.patch(\.object|\.dict|\.multiple)?$")
SETTERS = ("builtins.setattr", "builtins.delattr")


@dataclass(frozen=True, slots=True)
class Write:
    """One store into an imported thing.

    owner     its dotted path; "" where the object is not known
    name      what is stored; None where that is not known
    values    what it is set to
    element   True for owner[name], False for owner.name
    certain   the object can be nothing else
    """

    owner: str
    name: str | None
    values: Values
    node: ast.AST
    scope: Scope
    element: bool = False
    certain: bool = True

    @property
    def path(self) -> str:
        """Dotted path of what is written; elements of a module's __dict__ are its attributes."""
        return f"{self.owner.removesuffix('.__dict__')}.{self.name or '?'}"


def collect_writes(program: Program, resolver: Resolver) -> list[Write]:
    """Every write of the program."""
    found: list[Write] = []
    for store in program.stores:
        base = resolver.values(store.target.value, store.scope)
        value = resolver.binding(store.value)
        if isinstance(store.target, ast.Attribute):
            names: Values = (Const(store.target.attr),)
        else:
            names = resolver.values(store.target.slice, store.scope)
        if store.augmented is not None and isinstance(store.target, ast.Attribute):
            # os.environ |= {...}
            target = resolver.attribute(base, store.target.attr)
            given = resolver.values(getattr(store.value.node, "value", None), store.scope)
            found += _elements(target, given, store.target, store.scope)
        element = isinstance(store.target, ast.Subscript)
        found += _write(base, names, value, store.target, store.scope, element)
    for update, scope in program.name_updates:
        assert isinstance(update.target, ast.Name)
        target = resolver.name(update.target.id, scope)
        found += _elements(target, resolver.values(update.value, scope), update, scope)
    for node, scope in program.calls:
        function = resolver.values(node.func, scope)
        for path in paths(function):
            found += _from_call(resolver, path, node, scope)
    return found


def _from_call(resolver: Resolver, path: str, node: ast.Call, scope: Scope) -> Iterator[Write]:
    owner, _, last = path.rpartition(".")
    if path in SETTERS or last in ("__setattr__", "__delattr__"):
        given = resolver.arguments(node, scope)
        general = path in SETTERS or owner in ("builtins.object", "builtins.type")
        if general or owner == "types.ModuleType" or owner.endswith(".__class__"):
            yield from _write(given.at(0), given.at(1), given.at(2), node, scope, False)
        else:
            yield from _write((Ref(owner),), given.at(0), given.at(1), node, scope, False)
    elif path == "operator.setitem":
        given = resolver.arguments(node, scope)
        yield from _write(given.at(0), given.at(1), given.at(2), node, scope, True)
    elif last in ITEM_SETTERS and owner:
        given = resolver.arguments(node, scope)
        yield from _write((Ref(owner),), given.at(0), given.at(1), node, scope, True)
    elif last == "update" and owner:
        given = resolver.arguments(node, scope)
        yield from _elements((Ref(owner),), given.at(0), node, scope, given)
    elif path in ("builtins.map", "itertools.starmap"):
        yield from _from_map(resolver, path, resolver.arguments(node, scope), node, scope)
    elif path in ("os.putenv", "os.unsetenv", "posix.putenv", "posix.unsetenv"):
        given = resolver.arguments(node, scope)
        yield from _write((Ref("os.environ"),), given.at(0), given.at(1), node, scope, True)
    elif PATCHES.match(path):
        yield from _from_patch(path, resolver.arguments(node, scope), node, scope)


def _from_map(
    resolver: Resolver, path: str, given: Arguments, node: ast.Call, scope: Scope
) -> Iterator[Write]:
    """`map(setattr, objects, names, values)`: everything that may stand in each place."""
    mapped = set(paths(given.at(0)))
    if not mapped & {*SETTERS, "operator.setitem"}:
        return
    columns = [resolver.elements(values) for values in given.positional[1:4]]
    if path == "itertools.starmap":
        rows = [resolver.exact((row,)) or [] for row in columns[0]] if columns else []
        columns = [merge(*(row[i] for row in rows if len(row) > i)) or ANYTHING for i in range(3)]
    columns += [ANYTHING] * (3 - len(columns))
    element = "operator.setitem" in mapped
    yield from _write(columns[0], columns[1], columns[2], node, scope, element)


def _from_patch(path: str, given: Arguments, node: ast.Call, scope: Scope) -> Iterator[Write]:
    if path.endswith(".object"):
        value = given.at(2, "new")
        yield from _write(
            given.at(0, "target"), given.at(1, "attribute"), value, node, scope, False
        )
    elif path.endswith((".dict", ".multiple")):
        target = _as_refs(given.at(0, "in_dict"))
        yield from _elements(target, given.at(1, "values"), node, scope, given)
    else:
        for dotted in strings(given.at(0, "target")):
            owner, _, name = dotted.rpartition(".")
            value = given.at(1, "new")
            yield from _write((Ref(owner),), (Const(name),), value, node, scope, False)


def _as_refs(values: Values) -> Values:
    return tuple(
        Ref(v.value) if isinstance(v, Const) and isinstance(v.value, str) else v for v in values
    )


def _write(
    base: Values, names: Values, value: Values, node: ast.AST, scope: Scope, element: bool
) -> Iterable[Write]:
    known = paths(base)
    certain = all(
        isinstance(b, Ref | Unknown) or (isinstance(b, Const) and b.value is None) for b in base
    )
    targets = known or ([""] if is_open(base) else [])
    spelled: list[str | None] = [*strings(names)]
    if is_open(names) or not spelled:
        spelled.append(None)
    for owner in targets:
        for name in spelled:
            yield Write(owner, name, value, node, scope, element, certain)


def _elements(
    base: Values,
    pairs: Values,
    node: ast.AST,
    scope: Scope,
    given: Arguments | None = None,
) -> Iterator[Write]:
    """`base.update(pairs, **given)` and `base |= pairs`."""
    owners = paths(base)
    known = [pair for pair in pairs if isinstance(pair, Dict)]
    if given is not None:
        known.append(given.as_dict())
    for owner in owners:
        for pair in known:
            for name, values in pair.entries.items():
                text = name.decode("latin-1") if isinstance(name, bytes) else str(name)
                place = pair.places.get(name, node)
                inside = node if getattr(place, "lineno", 0) == 0 else place
                yield Write(owner, text, values, inside, scope, True)
            if pair.rest:
                yield Write(owner, None, pair.rest, node, scope, True)
        if any(not isinstance(pair, Dict) for pair in pairs):
            yield Write(owner, None, ANYTHING, node, scope, True)
