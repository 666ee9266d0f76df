"""What an expression may be: names followed through aliases, attributes, containers and calls.

`Resolver.values(expression, scope)` gives every value that the analysis can find, on demand. It is
context-insensitive (a parameter holds what any call passes) and field-based (an attribute of an
unknown object holds what is stored under that name anywhere), which suits a search for flags.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable

from harness.scan import folding
from harness.scan.apply import apply
from harness.scan.arguments import Arguments
from harness.scan.containers import (
    NOTHING,
    augmented,
    destructured,
    dict_item,
    list_item,
    to_plain,
    updated,
)
from harness.scan.evaluate import EVALUATORS
from harness.scan.parameters import CallSite, parameter_values
from harness.scan.scopes import Binding, Program, Scope
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
    constants,
    is_open,
    merge,
    strings,
)

BUDGET = 200_000
"""Expressions looked at before the analysis gives up; candidates/small.py takes 11,000 (0.25 s)."""
MAX_STACK = 70
MAX_PRODUCT = 32

BUILTIN_ALIASES = {"builtins.__builtins__": "builtins", "builtins.__dict__": "builtins"}


class Resolver:
    """Answers what expressions of one program may be; `exhausted` when the budget ran out."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.exhausted = False
        self.call_sites: dict[int, list[CallSite]] | None = None
        self._left = BUDGET
        self._memo: dict[tuple[object, ...], Values] = {}
        self._before: dict[tuple[object, ...], Values] = {}
        self._active: set[tuple[object, ...]] = set()
        self._arguments: dict[int, Arguments] = {}
        self._parsed: dict[str, ast.expr | None] = {}

    def rehearse(self) -> None:
        """A first round over everything that will be asked.

        Values that depend on each other in a ring are cut somewhere in the first round; the second
        starts from what it found, so that nothing hides behind `a = b; b = a`.
        """
        for call, scope in self.program.calls:
            self.values(call.func, scope)
        for store in self.program.stores:
            self.values(store.target.value, store.scope)
        self._before, self._memo, self._arguments = self._memo, {}, {}
        self._left = BUDGET

    def values(self, node: ast.AST | None, scope: Scope) -> Values:
        """Every value that `node`, read in `scope`, was found to have."""
        if node is None:
            return ()
        if isinstance(node, ast.Constant):
            return (Const(node.value),)
        key = ("node", id(node))
        compute = EVALUATORS.get(type(node))
        if compute is None:
            return ANYTHING
        if scope.ephemeral:
            self._left -= 1
            if self._left < 0 or len(self._active) > MAX_STACK:
                self.exhausted = self.exhausted or self._left < 0
                return ANYTHING
            return compute(self, node, scope)
        return self._guarded(key, lambda: compute(self, node, scope))

    def name(self, name: str, scope: Scope) -> Values:
        """What a name may mean in a scope."""
        owner = scope.owner(name)
        if owner is None:
            found: list[Value] = []
            for module in dict.fromkeys(scope.module.stars):
                found += self.ref(f"{module}.{name}")
            if not hasattr(builtins, name) and name != "__builtins__":
                return tuple(found) or ANYTHING
            path = f"builtins.{name}"
            return merge(found, (Ref(BUILTIN_ALIASES.get(path, path)),))
        if owner.ephemeral:
            return self._bindings(name, owner)
        return self._guarded(("name", id(owner), name), lambda: self._bindings(name, owner))

    def ref(self, path: str) -> Values:
        """A dotted path; paths into the script's own files are followed there."""
        path = BUILTIN_ALIASES.get(path, path)
        parts = path.split(".")
        for length in range(min(len(parts), 6), 0, -1):
            module = self.program.modules.get(".".join(parts[:length]))
            if module is None:
                continue
            rest = parts[length:]
            if not rest:
                return (Ref(path),)
            if rest[0] not in module.bindings and not module.stars:
                break
            found = self._guarded(("ref", path), lambda: self.name(rest[0], module))  # noqa: B023
            for attribute in rest[1:]:
                found = self.attribute(found, attribute)
            return found
        return (Ref(path),)

    def attribute(self, base: Values, name: str) -> Values:
        """`base.name`."""
        found: list[Value] = []
        for value in base:
            if isinstance(value, Ref):
                if name in ("__call__", "__wrapped__", "__func__"):
                    found.append(value)
                else:
                    found += self.ref(f"{value.path}.{name}")
            elif isinstance(value, Const | Items | Dict):
                found.append(Method(value, name))
            elif isinstance(value, Bound):
                found += value.function if name == "func" else ANYTHING
            elif isinstance(value, Function) and name == "__call__":
                found.append(value)
            else:
                found += self._member(value, name)
        return merge(found)

    def subscript(self, base: Values, index: Values, scope: Scope) -> Values:
        """`base[index]`."""
        found: list[Value] = []
        for value in base:
            if isinstance(value, Ref):
                found += self._ref_item(value, index, scope)
            elif isinstance(value, Dict):
                found += dict_item(value, index)
            elif isinstance(value, Items):
                found += list_item(value, index)
            elif isinstance(value, Const):
                for key in constants(index):
                    try:
                        found.append(Const(folding.guarded(lambda: value.value[key])))  # noqa: B023
                    except folding.NotKnownError:
                        found.append(UNKNOWN)
                if is_open(index):
                    found.append(UNKNOWN)
            else:
                found.append(UNKNOWN)
        return merge(found) or ANYTHING

    def elements(self, values: Values) -> Values:
        """What iterating over one of these gives."""
        found: list[Value] = []
        for value in values:
            if isinstance(value, Items):
                for element in value.elements:
                    found += element
            elif isinstance(value, Dict):
                found += [Const(key) for key in value.entries]
                if value.rest:
                    found.append(UNKNOWN)
            elif isinstance(value, Const) and isinstance(value.value, str | bytes):
                found += [Const(item) for item in value.value[:64]]
            else:
                found.append(UNKNOWN)
        return merge(found)

    def exact(self, values: Values) -> list[Values] | None:
        """The elements in order, if they are known."""
        if len(values) != 1:
            return None
        (value,) = values
        if isinstance(value, Items) and value.exact:
            return list(value.elements)
        if isinstance(value, Const) and isinstance(value.value, str | bytes):
            return [(Const(item),) for item in value.value[:1024]]
        if isinstance(value, Dict) and not value.rest:
            return [(Const(key),) for key in value.entries]
        return None

    def arguments(self, call: ast.Call, scope: Scope) -> Arguments:
        """The arguments of a call, `*` and `**` opened where they are known."""
        known = self._arguments.get(id(call))
        if known is not None:
            return known
        given = Arguments(call)
        for node in call.args:
            if isinstance(node, ast.Starred):
                opened = self.exact(self.values(node.value, scope))
                if opened is None:
                    given.open_positional = True
                    given.rest = merge(given.rest, self.elements(self.values(node.value, scope)))
                else:
                    given.positional += opened
            else:
                given.positional.append(self.values(node, scope))
        for keyword in call.keywords:
            if keyword.arg is not None:
                given.keyword(keyword.arg, self.values(keyword.value, scope), keyword.value)
                continue
            for value in self.values(keyword.value, scope):
                given.open_keywords |= not isinstance(value, Dict) or bool(value.rest)
                if isinstance(value, Dict):
                    for key, values in value.entries.items():
                        if isinstance(key, str):
                            given.keyword(key, values, value.places.get(key, keyword.value))
        if not scope.ephemeral and not self._active:
            self._arguments[id(call)] = given
        return given

    def call(self, function: Values, given: Arguments, scope: Scope) -> Values:
        """The result of a call."""
        return merge(*(apply(self, value, given, scope) for value in function)) or ANYTHING

    def product(self, groups: list[Values]) -> list[list[object]] | None:
        """Every combination of constants, None if one is not known or there are too many."""
        combinations: list[list[object]] = [[]]
        for group in groups:
            plain = [to_plain(value) for value in group]
            if not plain or any(item is NOTHING for item in plain):
                return None
            combinations = [[*head, item] for head in combinations for item in plain]
            if len(combinations) > MAX_PRODUCT:
                return None
        return combinations

    def expression(self, text: str) -> ast.expr | None:
        """A string as an expression; positions are those of no file."""
        if text not in self._parsed:
            try:
                self._parsed[text] = ast.parse(text.strip(), mode="eval").body
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                self._parsed[text] = None
        return self._parsed[text]

    def turns(self, node: ast.AST, scope: Scope) -> list[Scope] | None:
        """One ephemeral scope for each turn of a comprehension over known elements."""
        generators: list[ast.comprehension] = getattr(node, "generators", [])
        (first, *more) = generators
        if more or first.ifs:
            return None
        items = self.exact(self.values(first.iter, scope))
        if items is None or len(items) > 1024:
            return None
        names = first.target.elts if isinstance(first.target, ast.Tuple) else [first.target]
        scopes = []
        for item in items:
            turn = Scope("comprehension", scope.path, scope, ephemeral=True)
            parts = self.exact(item) if isinstance(first.target, ast.Tuple) else [item]
            if parts is None or len(parts) != len(names):
                return None
            for name, part in zip(names, parts, strict=True):
                if not isinstance(name, ast.Name):
                    return None
                turn.bind(name.id, Binding("opaque", None, turn, held=part))
            scopes.append(turn)
        return scopes

    def binding(self, binding: Binding) -> Values:
        """What one binding gives its name."""
        if binding.held is not None:
            return binding.held
        scope = binding.scope
        match binding.kind:
            case "import":
                return self.ref(binding.path)
            case "value":
                found = self.values(binding.node, scope)
            case "element":
                found = self.elements(self.values(binding.node, scope))
            case "function":
                assert isinstance(binding.node, ast.FunctionDef | ast.AsyncFunctionDef)
                return (Function(binding.node, scope),)
            case "class":
                assert isinstance(binding.node, ast.ClassDef)
                return (Class(binding.node, scope),)
            case "parameter":
                return parameter_values(self, binding)
            case _:
                return ANYTHING
        for place in binding.positions:
            found = destructured(self, found, place)
        return found

    def _bindings(self, name: str, owner: Scope) -> Values:
        bindings = owner.bindings[name]
        plain = [b for b in bindings if b.kind not in ("augmented", "update")]
        found = merge(*(self.binding(b) for b in plain))
        for binding in bindings:
            if binding.kind == "augmented" and isinstance(binding.node, ast.AugAssign):
                right = self.values(binding.node.value, binding.scope)
                found = merge(found, augmented(self, binding.node.op, found, right))
            elif binding.kind == "update":
                found = merge(found, updated(self, binding))
        return found or ANYTHING

    def _member(self, value: Value, name: str) -> Values:
        found: list[Value] = []
        cls = value if isinstance(value, Class) else None
        if isinstance(value, Instance):
            cls = value.cls
        if cls is not None:
            body = self.program.class_scopes.get(id(cls.node))
            if body is not None and name in body.bindings:
                found += self.name(name, body)
        for binding in self.program.attributes.get(name, ())[:64]:
            key = ("stored", id(binding))
            found += self._guarded(key, lambda: self.binding(binding))  # noqa: B023
        if not found or not all(isinstance(v, Function) for v in found):
            found.append(UNKNOWN)
        return merge(found)

    def _ref_item(self, base: Ref, index: Values, scope: Scope) -> Values:
        names = strings(index)
        if base.path == "sys.modules":
            return merge(*(self.ref(name) for name in names)) or ANYTHING
        if base.path == "<names>":
            return merge(*(self.name(name, scope.module) for name in names)) or ANYTHING
        if base.path.endswith((".__dict__", ".config._config")):
            owner = base.path.removesuffix(".__dict__").removesuffix("._config")
            return merge(*(self.ref(f"{owner}.{name}") for name in names)) or ANYTHING
        if base.path == "builtins":
            return merge(*(self.ref(f"builtins.{name}") for name in names)) or ANYTHING
        return ANYTHING

    def _guarded(self, key: tuple[object, ...], compute: Callable[[], Values]) -> Values:
        """`compute()`, remembered; a value that needs itself takes what the round before found."""
        known = self._memo.get(key)
        if known is not None:
            return known
        self._left -= 1
        if key in self._active or len(self._active) > MAX_STACK or self._left < 0:
            self.exhausted = self.exhausted or self._left < 0
            return merge(self._before.get(key, ()), ANYTHING)
        self._active.add(key)
        try:
            result = compute()
        finally:
            self._active.discard(key)
        self._memo[key] = result
        return result
