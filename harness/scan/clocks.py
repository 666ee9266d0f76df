"""Rule: the clock is the machine's. Nothing it rests on is replaced."""

from __future__ import annotations

import ast
import re

from harness.scan.analysis import Analysis
from harness.scan.scopes import Scope
from harness.scan.values import paths
from harness.scan.words import words
from harness.scan.writes import Write

RULE = "clock"
CLOCKS = re.compile(
    r"^(time\.(perf_counter|time|monotonic|process_time|thread_time|clock_gettime)(_ns)?"
    r"|timeit\.default_timer|datetime\.datetime(\.now|\.utcnow)?"
    r"|torch\.cuda\.(synchronize|Event|current_stream|Stream|default_stream)(\..+)?"
    r"|torch\.accelerator\.(synchronize|Event|Stream)(\..+)?"
    r"|torch\.(Event|Stream)(\..+)?|torch\.(cpu|mps)\.synchronize"
    r"|torch\._C\._cuda_synchronize)$"
)
MEETING_POINTS = re.compile(r"^torch\.distributed\.(barrier|all_reduce|monitored_barrier)$")
# Modules that the clock or the compiler's settings live in.
JUDGED_MODULES = re.compile(
    r"^(time|timeit|torch|torch\.cuda|torch\.(_inductor|_dynamo|_functorch)(\..*)?)$"
)
CLOCK_NAMES = words("perf_counter perf_counter_ns monotonic monotonic_ns process_time time_ns")
REMEDY = "read time.perf_counter() as it is"


def find_patched_clocks(analysis: Analysis) -> None:
    """Clock functions replaced in their module, in sys.modules, or by a name of the script."""
    for write in analysis.writes:
        _judge_write(analysis, write)
    for scope in (*analysis.program.files.values(), *analysis.program.function_scopes.values()):
        _judge_names(analysis, scope)


def _judge_write(analysis: Analysis, write: Write) -> None:
    path = write.path
    if write.owner == "sys.modules":
        name = write.name or "?"
        certain = JUDGED_MODULES.match(name) is not None
        analysis.add(
            write.node,
            write.scope,
            RULE,
            "fail" if certain else "warn",
            f"the module {name} is replaced in sys.modules",
            "everything that imports it afterwards gets something else",
            "leave sys.modules alone",
        )
    elif CLOCKS.match(path):
        if write.values and all(p == path for p in paths(write.values)) and paths(write.values):
            return  # put back as it was
        analysis.add(
            write.node,
            write.scope,
            RULE,
            "fail",
            f"{path} is replaced",
            "the training time rests on it",
            REMEDY,
        )
    elif path == "time.?":
        analysis.add(
            write.node,
            write.scope,
            RULE,
            "warn",
            "something in the module time is replaced",
            "what it is cannot be read from the source",
            REMEDY,
        )
    elif MEETING_POINTS.match(path):
        analysis.add(
            write.node,
            write.scope,
            RULE,
            "warn",
            f"{path} is replaced",
            "ranks meet there before the clock is read",
            "leave it as it is",
        )
    elif write.owner == "builtins":
        analysis.add(
            write.node,
            write.scope,
            "builtins",
            "warn",
            f"{path} is replaced",
            "every module sees another built-in function",
            "define a function of your own under another name",
        )


def _judge_names(analysis: Analysis, scope: Scope) -> None:
    """`from time import perf_counter` and another binding of the name in the same scope."""
    for name, bindings in scope.bindings.items():
        imported = [b for b in bindings if b.kind == "import" and CLOCKS.match(b.path)]
        module = any(b.kind == "import" and b.path == "time" for b in bindings)
        others = [b for b in bindings if b.kind in ("value", "function", "class", "augmented")]
        for binding in others:
            if binding.node is None:
                continue
            found = paths(analysis.resolver.binding(binding))
            if any(CLOCKS.match(path) or path == "time" for path in found):
                continue
            if imported or name in CLOCK_NAMES or (module and name == "time"):
                certain = bool(imported) and name in CLOCK_NAMES
                defines = isinstance(binding.node, ast.FunctionDef)
                if not certain and defines and _reads_clock(analysis, binding.node):
                    continue
                analysis.add(
                    binding.node,
                    binding.scope,
                    RULE,
                    "fail" if certain else "warn",
                    f"the name {name} is given to something that is not the clock",
                    "what reads like the clock is another function",
                    REMEDY,
                )


def _reads_clock(analysis: Analysis, node: ast.AST) -> bool:
    scope = analysis.program.function_scopes.get(id(node))
    return scope is not None and any(
        CLOCKS.match(path)
        for inner in ast.walk(node)
        if isinstance(inner, ast.Attribute | ast.Name)
        for path in paths(analysis.resolver.values(inner, scope))
    )
