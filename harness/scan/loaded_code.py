"""Code that is not where it is read: strings that are executed, modules loaded by hand.

A string that can be read is analysed as if it stood where it is executed. One that cannot be read
is named; one that is unpacked from something first is a rule broken, for hidden code cannot be
reviewed.
"""

from __future__ import annotations

import ast
import re

from harness.scan.analysis import Analysis
from harness.scan.finding import excerpt
from harness.scan.resolve import Resolver
from harness.scan.scopes import Program, Scope
from harness.scan.syntax import UnparsableError, code_text, parse_script
from harness.scan.values import is_open, paths, strings

RULE = "loaded-code"
EXECUTORS = ("builtins.exec", "builtins.eval", "builtins.compile")
FILE_LOADERS = frozenset(
    {
        "runpy.run_path",
        "importlib.util.spec_from_file_location",
        "importlib.machinery.SourceFileLoader",
        "importlib.machinery.ExtensionFileLoader",
        "imp.load_source",
    }
)
IMPORTERS = frozenset({"importlib.import_module", "builtins.__import__", "runpy.run_module"})
UNPACKERS = re.compile(
    r"^(base64\.|binascii\.|zlib\.|gzip\.|dill\.|bz2\.|lzma\.|codecs\.|marshal\.|pickle\.|urllib\.|requests\."
    r"|cryptography\.|builtins\.(bytes|bytearray)\.fromhex)"
)
FUNCTION_MAKERS = frozenset({"types.FunctionType", "types.LambdaType"})
UNPICKLERS = frozenset({"marshal.loads", "marshal.load", "pickle.loads", "dill.loads"})
MODULE_NAME = re.compile(r"^[A-Za-z_][\w.]*$")
MAX_STRINGS = 40
MAX_ROUNDS = 4


def inline_strings(program: Program) -> None:
    """Add the code of every executed string that can be read, and of strings inside it.

    Nodes from a string get the place of the call that executes it.
    """
    done: set[int] = set()
    for _ in range(MAX_ROUNDS):
        resolver = Resolver(program)
        found = []
        for node, scope in program.calls:
            if id(node) in done or not _may_execute(node, scope):
                continue
            if not set(EXECUTORS).intersection(paths(resolver.values(node.func, scope))):
                continue
            done.add(id(node))
            for text in strings(resolver.arguments(node, scope).at(0))[:4]:
                found.append((text, node, scope))
        if not found or len(done) > MAX_STRINGS:
            return
        for text, node, scope in found:
            _inline(program, text, node, scope)
        program.settle()


def _may_execute(node: ast.Call, scope: Scope) -> bool:
    """Cheap: is it worth resolving what is called? Most calls are of functions known by name."""
    function = node.func
    if isinstance(function, ast.Attribute):
        return function.attr in ("exec", "eval", "compile", "func", "__call__")
    if not isinstance(function, ast.Name):
        return isinstance(function, ast.Call | ast.Subscript)
    owner = scope.owner(function.id)
    if owner is None:
        return function.id in ("exec", "eval", "compile")
    return any(
        binding.kind not in ("function", "class", "import") or binding.path.startswith("builtins")
        for binding in owner.bindings[function.id]
    )


def _inline(program: Program, text: str, node: ast.Call, scope: Scope) -> None:
    try:
        # Parsed apart from the cache: the positions of these nodes are changed.
        tree = parse_script.__wrapped__(text.strip() if "\n" not in text.strip() else text)
    except UnparsableError:
        return
    for inner in ast.walk(tree):
        program.inlined.add(id(inner))
        if isinstance(inner, ast.expr | ast.stmt):
            inner.lineno, inner.col_offset = node.lineno, node.col_offset
    program.keep.append(tree)
    program.add(tree, scope)


def find_loaded_code(analysis: Analysis) -> None:
    """Strings executed, modules imported by a computed name, files loaded beside the closure."""
    resolver = analysis.resolver
    for node, scope in analysis.program.calls:
        function = paths(resolver.values(node.func, scope))
        if not function:
            continue
        given = resolver.arguments(node, scope)
        if set(EXECUTORS).intersection(function):
            _judge_executed(analysis, node, scope)
        elif IMPORTERS.intersection(function):
            _judge_import(analysis, node, scope)
        elif FILE_LOADERS.intersection(function):
            files = [name for values in given.positional for name in strings(values)]
            analysis.add(
                node,
                scope,
                RULE,
                "warn",
                f"{function[0]} loads {excerpt(files[-1]) if files else 'a file'} as code",
                "it does not travel with the script and is not analysed",
                "import it by name, from a file beside the script",
            )
        elif "types.CodeType" in function:
            _hidden(analysis, node, scope, "types.CodeType")
        elif FUNCTION_MAKERS.intersection(function):
            unpacker = _unpacker(analysis, node.args[0] if node.args else None, scope, 4)
            if unpacker:
                _hidden(analysis, node, scope, unpacker)
        elif UNPICKLERS.intersection(function):
            analysis.add(
                node,
                scope,
                RULE,
                "warn",
                f"{function[0]} is used",
                "what it makes may be code, and cannot be read from the source",
                "keep data in safetensors, npy or json",
            )
        elif function[0] in (
            "sys.path.append",
            "sys.path.insert",
            "sys.path.extend",
            "site.addsitedir",
        ):
            analysis.add(
                node,
                scope,
                RULE,
                "warn",
                "the path that modules are imported from is changed",
                "what lies elsewhere does not travel with the script and is not analysed",
                "keep what is imported beside the script",
            )


def find_shadows(analysis: Analysis) -> None:
    """Files beside the script that stand in for a library."""
    for path in sorted(analysis.source.files):
        top = path.split("/")[0].removesuffix(".py")
        if path != analysis.source.script and top in ("torch", "time", "triton", "numpy", "os"):
            scope = analysis.program.files.get(path)
            if scope is not None:
                analysis.add(
                    analysis.trees[path],
                    scope,
                    "shadowed-library",
                    "fail",
                    f"a file beside the script takes the place of the library {top}",
                    "the script would import it instead",
                    "give the file another name",
                )


def _judge_executed(analysis: Analysis, node: ast.Call, scope: Scope) -> None:
    values = analysis.resolver.arguments(node, scope).at(0)
    if values and not is_open(values):
        return
    argument = node.args[0] if node.args else None
    if isinstance(argument, ast.Call) and set(EXECUTORS).intersection(
        paths(analysis.resolver.values(argument.func, scope))
    ):
        return  # exec(compile(...)): the inner call is judged
    unpacker = _unpacker(analysis, argument, scope, 4)
    if unpacker:
        _hidden(analysis, node, scope, unpacker)
        return
    analysis.add(
        node,
        scope,
        RULE,
        "warn",
        f"{excerpt(code_text(node.func), 30)} runs a string that cannot be read from the source",
        "what it does cannot be analysed",
        "write the code out",
    )


def _hidden(analysis: Analysis, node: ast.AST, scope: Scope, how: str) -> None:
    analysis.add(
        node,
        scope,
        RULE,
        "fail",
        f"code is unpacked with {how} and run",
        "hidden code cannot be reviewed",
        "write the code out",
    )


def _unpacker(analysis: Analysis, node: ast.AST | None, scope: Scope, depth: int) -> str:
    """Name of a function that decodes, inflates or downloads on the way to this expression."""
    if node is None or depth == 0:
        return ""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Call):
            for path in paths(analysis.resolver.values(inner.func, scope)):
                if UNPACKERS.match(path):
                    return path
        elif isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Load):
            owner = scope.owner(inner.id)
            for binding in (owner.bindings[inner.id] if owner is not None else ())[:4]:
                if binding.kind == "value":
                    found = _unpacker(analysis, binding.node, binding.scope, depth - 1)
                    if found:
                        return found
    return ""


def _judge_import(analysis: Analysis, node: ast.Call, scope: Scope) -> None:
    names = analysis.resolver.arguments(node, scope).at(0, "name")
    if is_open(names):
        analysis.add(
            node,
            scope,
            RULE,
            "warn",
            "a module is imported whose name cannot be read from the source",
            "what it does cannot be analysed",
            "import it by name",
        )
