"""What an expression may be: the small domain of values that the static analysis knows.

A variable may hold several values; `Values` is all of them that were found. UNKNOWN stands for
every value that the analysis does not follow.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.scan.scopes import Scope

MAX_ALTERNATIVES = 24


@dataclass(frozen=True, slots=True)
class Unknown:
    """Any value."""


@dataclass(frozen=True, slots=True)
class Const:
    """A number, string, bytes, bool, None or ..., known exactly."""

    value: Any

    def key(self) -> tuple[object, ...]:
        return ("const", type(self.value).__name__, repr(self.value)[:2000])


@dataclass(frozen=True, slots=True)
class Ref:
    """A thing reached through an import, by its dotted path: `torch._inductor.config`."""

    path: str

    def key(self) -> tuple[object, ...]:
        return ("ref", self.path)


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """A list, tuple or set; `exact` when its elements and their order are known."""

    elements: tuple[Values, ...]
    exact: bool = True

    def key(self) -> tuple[object, ...]:
        return ("items", id(self))


@dataclass(frozen=True, slots=True, eq=False)
class Dict:
    """A mapping with known keys; `rest` is what may stand under other keys."""

    entries: dict[Any, Values]
    rest: Values = ()
    places: dict[Any, ast.AST] = field(default_factory=dict)

    def key(self) -> tuple[object, ...]:
        return ("dict", id(self))


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """A function or lambda of the script."""

    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    scope: Scope

    def key(self) -> tuple[object, ...]:
        return ("function", id(self.node))


@dataclass(frozen=True, slots=True, eq=False)
class Class:
    """A class of the script."""

    node: ast.ClassDef
    scope: Scope

    def key(self) -> tuple[object, ...]:
        return ("class", id(self.node))


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """An object of one of the script's classes."""

    cls: Class

    def key(self) -> tuple[object, ...]:
        return ("instance", id(self.cls.node))


@dataclass(frozen=True, slots=True, eq=False)
class Bound:
    """A function with some arguments already given: functools.partial, methodcaller."""

    function: Values
    args: tuple[Values, ...]
    keywords: Dict

    def key(self) -> tuple[object, ...]:
        return ("bound", id(self))


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """`name` of a value whose methods the analysis can compute: a string, a list, a dict."""

    owner: Const | Items | Dict
    name: str

    def key(self) -> tuple[object, ...]:
        return ("method", id(self.owner), self.name)


Value = Unknown | Const | Ref | Items | Dict | Function | Class | Instance | Bound | Method
Values = tuple[Value, ...]

UNKNOWN = Unknown()
ANYTHING: Values = (UNKNOWN,)


def merge(*groups: Iterable[Value]) -> Values:
    """The union, without repeats; UNKNOWN is added when there are too many alternatives."""
    found: dict[tuple[object, ...], Value] = {}
    for group in groups:
        for value in group:
            found[("?",) if isinstance(value, Unknown) else value.key()] = value
            if len(found) > MAX_ALTERNATIVES:
                return (*tuple(found.values())[:MAX_ALTERNATIVES], UNKNOWN)
    return tuple(found.values())


def constants(values: Values) -> list[Any]:
    """The known constants among them."""
    return [value.value for value in values if isinstance(value, Const)]


def strings(values: Values) -> list[str]:
    """The known strings among them; bytes that are ASCII count as strings."""
    found = []
    for constant in constants(values):
        if isinstance(constant, str):
            found.append(constant)
        elif isinstance(constant, bytes) and constant.isascii():
            found.append(constant.decode("ascii"))
    return found


def paths(values: Values) -> list[str]:
    """The dotted paths among them."""
    return [value.path for value in values if isinstance(value, Ref)]


def is_open(values: Values) -> bool:
    """May it be something that is not known?"""
    return not values or any(isinstance(value, Unknown) for value in values)
