"""Values inside lists, tuples and dictionaries: taken out, put in, unpacked."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from harness.scan import folding
from harness.scan.values import (
    ANYTHING,
    UNKNOWN,
    Const,
    Dict,
    Items,
    Value,
    Values,
    constants,
    is_open,
    merge,
)

if TYPE_CHECKING:
    from harness.scan.resolve import Resolver
    from harness.scan.scopes import Binding

NOTHING = object()
"""Stands for "no plain value", where None is a value."""


def to_plain(value: Value) -> Any:
    """A Python object for a constant or a container of constants, else NOTHING."""
    if isinstance(value, Const):
        return value.value
    if isinstance(value, Items) and value.exact:
        inside = [_only(element) for element in value.elements]
        return NOTHING if any(item is NOTHING for item in inside) else inside
    if isinstance(value, Dict) and not value.rest:
        pairs = {key: _only(values) for key, values in value.entries.items()}
        return NOTHING if any(item is NOTHING for item in pairs.values()) else pairs
    return NOTHING


def from_plain(value: Any) -> Value:
    """The value for a Python object that folding made."""
    if isinstance(value, list | tuple):
        return Items(tuple((from_plain(item),) for item in value))
    if isinstance(value, dict):
        return Dict({key: (from_plain(item),) for key, item in value.items()})
    return Const(value)


def _only(values: Values) -> Any:
    return to_plain(values[0]) if len(values) == 1 else NOTHING


def hashable(value: Any) -> bool:
    return isinstance(value, str | bytes | int | float | bool) or value is None


def dict_item(value: Dict, index: Values) -> Values:
    """`value[index]`."""
    found: list[Value] = []
    for key in constants(index):
        if hashable(key) and key in value.entries:
            found += value.entries[key]
        else:
            found += value.rest or ANYTHING
    if is_open(index):
        found += all_values(value)
        found.append(UNKNOWN)
    return merge(found)


def all_values(value: Dict) -> Values:
    return merge(*value.entries.values(), value.rest)


def list_item(value: Items, index: Values) -> Values:
    """`value[index]`."""
    found: list[Value] = []
    for key in constants(index):
        if (
            value.exact
            and isinstance(key, int)
            and -len(value.elements) <= key < len(value.elements)
        ):
            found += value.elements[key]
        elif value.exact and isinstance(key, slice):
            try:
                found.append(Items(value.elements[key]))
            except (TypeError, ValueError):
                found.append(UNKNOWN)
        else:
            found += merge(*value.elements)
            found.append(UNKNOWN)
    if is_open(index):
        found += merge(*value.elements)
        found.append(UNKNOWN)
    return merge(found)


def destructured(resolver: Resolver, values: Values, place: int) -> Values:
    """What the name at `place` of a tuple target gets."""
    found: list[Value] = []
    for value in values:
        if isinstance(value, Items) and value.exact:
            if place < len(value.elements):
                found += value.elements[place]
        elif isinstance(value, Items | Dict | Const):
            exact = resolver.exact((value,))
            found += exact[place] if exact and place < len(exact) else resolver.elements((value,))
        else:
            found.append(UNKNOWN)
    return merge(found) or ANYTHING


def augmented(resolver: Resolver, op: ast.operator, left: Values, right: Values) -> Values:
    """What `name op= right` adds to what the name already holds.

    Numbers that are counted up are not followed: their value depends on how often.
    """
    found: list[Value] = []
    for a in left:
        for b in right:
            if isinstance(a, Const) and isinstance(b, Const) and isinstance(a.value, str | bytes):
                try:
                    found.append(from_plain(folding.binary(op, a.value, b.value)))
                except folding.NotKnownError:
                    found.append(UNKNOWN)
            elif isinstance(a, Dict) and isinstance(b, Dict):
                found.append(joined(a, b))
            elif isinstance(a, Items):
                elements = (resolver.elements((b,)), *a.elements)
                found.append(Items(elements, exact=False))
            else:
                found.append(UNKNOWN)
    return merge(found)


def joined(a: Dict, b: Dict) -> Dict:
    """`a | b`."""
    return Dict({**a.entries, **b.entries}, merge(a.rest, b.rest), {**a.places, **b.places})


def updated(resolver: Resolver, binding: Binding) -> Values:
    """What `name[key] = value`, `name.update(…)`, `name.append(…)` add to a container."""
    node, scope = binding.node, binding.scope
    if isinstance(node, ast.Subscript) and binding.source is not None:
        stored = resolver.binding(binding.source)
        keys = resolver.values(node.slice, scope)
        known = [key for key in constants(keys) if hashable(key)]
        return (
            Dict(
                dict.fromkeys(known, stored),
                merge(stored, ANYTHING) if is_open(keys) else (),
                dict.fromkeys(known, node),
            ),
        )
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        given = resolver.arguments(node, scope)
        match node.func.attr:
            case "update":
                return merge([v for v in given.at(0) if isinstance(v, Dict)], [given.as_dict()])
            case "setdefault":
                named = [key for key in constants(given.at(0)) if hashable(key)]
                return (Dict(dict.fromkeys(named, given.at(1)), (), dict.fromkeys(named, node)),)
            case "append" | "add":
                return (Items((given.at(0),), exact=False),)
            case "insert":
                return (Items((given.at(1),), exact=False),)
            case "extend":
                return (Items((resolver.elements(given.at(0)),), exact=False),)
    return ()
