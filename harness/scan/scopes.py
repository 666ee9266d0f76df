"""Who binds which name where: one pass over the files of a source, without running them.

The result is flow-insensitive: a name holds everything that is ever bound to it in its scope. That
suits a search for flags: what could be meant is looked at, wherever it stands.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal

from harness.scan.values import Values

BindingKind = Literal[
    "import", "value", "element", "function", "class", "parameter", "augmented", "update", "opaque"
]
Loop = ast.For | ast.AsyncFor
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Comprehension = ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp
CHANGING_METHODS = frozenset({"update", "setdefault", "append", "extend", "insert", "add"})


@dataclass(eq=False, slots=True)
class Scope:
    """One namespace. `ephemeral` scopes hold one turn of a comprehension; nothing is remembered."""

    kind: Literal["module", "function", "class", "comprehension"]
    path: str
    parent: Scope | None
    name: str = ""
    bindings: dict[str, list[Binding]] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    borrowed: dict[str, str] = field(default_factory=dict)
    ephemeral: bool = False
    node: ast.AST | None = None

    @property
    def module(self) -> Scope:
        scope = self
        while scope.parent is not None:
            scope = scope.parent
        return scope

    def bind(self, name: str, binding: Binding) -> None:
        self.bindings.setdefault(name, []).append(binding)

    def owner(self, name: str) -> Scope | None:
        """The scope whose binding a reference to `name` from here means."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.bindings and (scope is self or scope.kind != "class"):
                return scope
            scope = scope.parent
        return None

    def enclosing_names(self) -> list[str]:
        """Names of the functions and classes around, innermost first."""
        names, scope = [], self
        while scope.parent is not None:
            names.append(scope.name)
            scope = scope.parent
        return names


@dataclass(eq=False, slots=True)
class Binding:
    """One way in which a name, an attribute or an element gets a value.

    positions   place in a destructuring assignment, outermost first
    path        dotted path of an import
    source      for an update: what is stored under `node`'s key
    held        the values themselves, in one turn of a comprehension
    """

    kind: BindingKind
    node: ast.AST | None
    scope: Scope
    positions: tuple[int, ...] = ()
    path: str = ""
    source: Binding | None = None
    held: Values | None = None


@dataclass(eq=False, slots=True)
class Store:
    """An assignment to an attribute or an element: target, value, where."""

    target: ast.Attribute | ast.Subscript
    value: Binding
    scope: Scope
    augmented: ast.operator | None = None


@dataclass(eq=False, slots=True)
class Program:
    """Everything that the files of one source bind, store and call."""

    modules: dict[str, Scope] = field(default_factory=dict)
    files: dict[str, Scope] = field(default_factory=dict)
    function_scopes: dict[int, Scope] = field(default_factory=dict)
    returns: dict[int, list[tuple[ast.expr, Scope]]] = field(default_factory=dict)
    generators: set[int] = field(default_factory=set)
    attributes: dict[str, list[Binding]] = field(default_factory=dict)
    stores: list[Store] = field(default_factory=list)
    name_updates: list[tuple[ast.AugAssign, Scope]] = field(default_factory=list)
    calls: list[tuple[ast.Call, Scope]] = field(default_factory=list)
    expressions: list[tuple[ast.expr, Scope]] = field(default_factory=list)
    imports: list[tuple[ast.Import | ast.ImportFrom, str, Scope]] = field(default_factory=list)
    class_scopes: dict[int, Scope] = field(default_factory=dict)
    comprehension_scopes: dict[int, Scope] = field(default_factory=dict)
    escaping: set[str] = field(default_factory=set)
    called: set[int] = field(default_factory=set)
    inlined: set[int] = field(default_factory=set)
    keep: list[ast.AST] = field(default_factory=list)
    _functions: dict[int, FunctionNode] = field(default_factory=dict)
    _updates: list[tuple[str, Scope, Binding]] = field(default_factory=list)

    def add_file(self, path: str, tree: ast.Module) -> None:
        scope = Scope("module", path, None)
        self.files[path] = scope
        self.modules[module_name(path)] = scope
        self.add(tree, scope)

    def add(self, tree: ast.AST, scope: Scope) -> None:
        """Walk `tree` as code of `scope`. Iterative: depth costs no stack."""
        waiting: list[tuple[ast.AST, Scope]] = [(tree, scope)]
        while waiting:
            node, here = waiting.pop()
            self._visit(node, here, waiting)

    def settle(self) -> None:
        """After all code was added: `global` names and updates go to the scope that owns them."""
        for scope in (*self.function_scopes.values(), *self.class_scopes.values()):
            for name, kind in scope.borrowed.items():
                moved = scope.bindings.pop(name, [])
                home = scope.module if kind == "global" else _outer_function(scope, name)
                for binding in moved:
                    home.bind(name, binding)
        for name, scope, binding in self._updates:
            owner = scope.owner(name)
            if owner is not None:
                owner.bind(name, binding)
        self._updates.clear()

    def _visit(self, node: ast.AST, scope: Scope, waiting: list[tuple[ast.AST, Scope]]) -> None:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                scope.bind(node.name, Binding("function", node, scope))
                inner = self._function(node, node.name, scope, waiting)
                waiting += [(d, scope) for d in node.decorator_list]
                waiting += [(child, inner) for child in node.body]
                return
            case ast.Lambda():
                inner = self._function(node, "<lambda>", scope, waiting)
                self.returns.setdefault(id(node), []).append((node.body, inner))
                waiting.append((node.body, inner))
                return
            case ast.ClassDef():
                scope.bind(node.name, Binding("class", node, scope))
                inner = Scope("class", scope.path, scope, node.name, node=node)
                self.class_scopes[id(node)] = inner
                outer: list[ast.AST] = [*node.decorator_list, *node.bases]
                waiting += [(child, scope) for child in (*outer, *node.keywords)]
                waiting += [(child, inner) for child in node.body]
                return
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                self.expressions.append((node, scope))
                inner = Scope("comprehension", scope.path, scope)
                self.comprehension_scopes[id(node)] = inner
                for generator in node.generators:
                    self._target(generator.target, Binding("element", generator.iter, inner), inner)
                waiting += [(child, inner) for child in ast.iter_child_nodes(node)]
                return
            case ast.Import() | ast.ImportFrom():
                self._import(node, scope)
            case ast.Assign():
                for target in node.targets:
                    self._target(target, Binding("value", node.value, scope), scope)
            case ast.AnnAssign():
                if node.value is not None:
                    self._target(node.target, Binding("value", node.value, scope), scope)
                    waiting.append((node.value, scope))
                waiting.append((node.target, scope))
                return
            case ast.AugAssign():
                if isinstance(node.target, ast.Name):
                    self.name_updates.append((node, scope))
                self._target(node.target, Binding("augmented", node, scope), scope, node.op)
            case ast.NamedExpr():
                home = scope
                while home.kind == "comprehension" and home.parent is not None:
                    home = home.parent
                self._target(node.target, Binding("value", node.value, scope), home)
            case ast.For() | ast.AsyncFor():
                self._target(node.target, Binding("element", node.iter, scope), scope)
            case ast.withitem():
                if node.optional_vars is not None:
                    value = Binding("value", node.context_expr, scope)
                    self._target(node.optional_vars, value, scope)
            case ast.ExceptHandler() | ast.MatchAs() | ast.MatchStar():
                if node.name:
                    scope.bind(node.name, Binding("opaque", node, scope))
            case ast.Global() | ast.Nonlocal():
                kind = "global" if isinstance(node, ast.Global) else "nonlocal"
                scope.borrowed.update(dict.fromkeys(node.names, kind))
            case ast.Return() | ast.Yield() | ast.YieldFrom():
                self._result(node, scope)
            case ast.Call():
                self._call(node, scope)
            case ast.Name():
                if isinstance(node.ctx, ast.Load) and id(node) not in self.called:
                    self.escaping.add(node.id)
            case ast.Attribute():
                if isinstance(node.ctx, ast.Load) and id(node) not in self.called:
                    self.escaping.add(node.attr)
            case ast.BinOp() | ast.JoinedStr() | ast.Constant():
                self.expressions.append((node, scope))
            case ast.arg():
                return
        waiting += [(child, scope) for child in ast.iter_child_nodes(node)]

    def _function(
        self, node: FunctionNode, name: str, scope: Scope, waiting: list[tuple[ast.AST, Scope]]
    ) -> Scope:
        inner = Scope("function", scope.path, scope, name)
        self.function_scopes[id(node)] = inner
        self._functions[id(inner)] = node
        given = node.args
        every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        for argument in every:
            if argument is not None:
                inner.bind(argument.arg, Binding("parameter", node, inner, path=argument.arg))
        defaults = [d for d in (*given.defaults, *given.kw_defaults) if d is not None]
        waiting += [(default, scope) for default in defaults]
        return inner

    def _result(self, node: ast.Return | ast.Yield | ast.YieldFrom, scope: Scope) -> None:
        inner: Scope | None = scope
        while inner is not None and inner.kind == "comprehension":
            inner = inner.parent
        function = self._functions.get(id(inner))
        if function is None:
            return
        if not isinstance(node, ast.Return):
            self.generators.add(id(function))
        if node.value is not None:
            self.returns.setdefault(id(function), []).append((node.value, scope))

    def _call(self, node: ast.Call, scope: Scope) -> None:
        self.calls.append((node, scope))
        self.called.add(id(node.func))
        function = node.func
        if (
            isinstance(function, ast.Attribute)
            and function.attr in CHANGING_METHODS
            and isinstance(function.value, ast.Name)
        ):
            self._updates.append((function.value.id, scope, Binding("update", node, scope)))

    def _target(
        self,
        target: ast.AST,
        value: Binding,
        scope: Scope,
        augmented: ast.operator | None = None,
    ) -> None:
        waiting: list[tuple[ast.AST, Binding]] = [(target, value)]
        while waiting:
            node, binding = waiting.pop()
            if isinstance(node, ast.Name):
                scope.bind(node.id, binding)
            elif isinstance(node, ast.Tuple | ast.List):
                starred = any(isinstance(item, ast.Starred) for item in node.elts)
                for place, item in enumerate(node.elts):
                    positions = (*binding.positions, place)
                    part = Binding(binding.kind, binding.node, binding.scope, positions)
                    waiting.append((item, Binding("opaque", item, scope) if starred else part))
            elif isinstance(node, ast.Starred):
                waiting.append((node.value, Binding("opaque", node, scope)))
            elif isinstance(node, ast.Attribute):
                self.stores.append(Store(node, binding, scope, augmented))
                self.attributes.setdefault(node.attr, []).append(binding)
            elif isinstance(node, ast.Subscript):
                self.stores.append(Store(node, binding, scope, augmented))
                if isinstance(node.value, ast.Name):
                    update = Binding("update", node, scope, source=binding)
                    self._updates.append((node.value.id, scope, update))

    def _import(self, node: ast.Import | ast.ImportFrom, scope: Scope) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                path = alias.name if alias.asname else top
                scope.bind(alias.asname or top, Binding("import", node, scope, path=path))
                self.imports.append((node, alias.name, scope))
            return
        base = node.module or ""
        if node.level:
            here = PurePosixPath(scope.path).parent
            for _ in range(node.level - 1):
                here = here.parent
            base = ".".join(part for part in (*here.parts, base) if part)
        self.imports.append((node, base, scope))
        for alias in node.names:
            if alias.name == "*":
                scope.module.stars.append(base)
            else:
                path = f"{base}.{alias.name}" if base else alias.name
                scope.bind(alias.asname or alias.name, Binding("import", node, scope, path=path))


def module_name(path: str) -> str:
    """`pkg/part.py` is imported as `pkg.part`, `pkg/__init__.py` as `pkg`."""
    parts = list(PurePosixPath(path).with_suffix("").parts)
    if len(parts) > 1 and parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def _outer_function(scope: Scope, name: str) -> Scope:
    outer = scope.parent
    while outer is not None and outer.parent is not None:
        if outer.kind == "function" and name in outer.bindings:
            return outer
        outer = outer.parent
    return scope.module
