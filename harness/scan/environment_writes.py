"""Rule: the script sets no environment variable that changes the compiler."""

from __future__ import annotations

import ast
import re

from harness.scan.analysis import Analysis
from harness.scan.finding import excerpt
from harness.scan.scopes import Scope
from harness.scan.values import Dict, Values, constants, paths

RULE = "environment"
COMPILER_VARIABLE = re.compile(
    r"^(TORCHINDUCTOR_|TORCH_INDUCTOR|TORCH_?COMPILE|TORCHDYNAMO_|TORCH_DYNAMO|AOT_?INDUCTOR_"
    r"|AOT_FUNCTORCH|TORCHFUNCTORCH|TRITON_|INDUCTOR_)"
)
# Where compiled code is kept, how many processes compile, what is printed: the code stays the same.
HARMLESS = re.compile(
    r"(_CACHE_DIR|_CACHE|_COMPILE_THREADS|_WORKER_START|_DUMP_DIR|_HOME|_DEBUG|_DEBUG_DIR"
    r"|_PRINT_AUTOTUNING|_ALWAYS_COMPILE|_INTERPRET|_LOGS?|_TRACE|_VERBOSE)$"
)
LOADER_VARIABLE = re.compile(r"^(LD_PRELOAD|LD_AUDIT|PYTHON(PATH|STARTUP|HOME|INSPECT))$")
ENVIRONMENTS = (
    "os.environ", "os.environb", "os.environ._data", "os.environb._data", "posix.environ"
)  # fmt: skip
SPAWNERS = re.compile(
    r"^(subprocess\.(run|call|check_call|check_output|Popen)|os\.(exec|spawn|posix_spawn)\w*)$"
)


def find_environment_writes(analysis: Analysis) -> None:
    """Variables set in this process, and those given to a child or to a restart of itself."""
    for write in analysis.writes:
        if write.owner in ENVIRONMENTS and write.element:
            _judge(analysis, write.name, write.values, write.node, write.scope)
        elif write.path in ENVIRONMENTS:
            for value in write.values:
                if isinstance(value, Dict):
                    _judge_mapping(analysis, value, write.node, write.scope)
    for node, scope in analysis.program.calls:
        function = analysis.resolver.values(node.func, scope)
        if not any(SPAWNERS.match(path) for path in paths(function)):
            continue
        given = analysis.resolver.arguments(node, scope)
        for values in (*given.positional, *given.keywords.values()):
            for value in values:
                if isinstance(value, Dict):
                    _judge_mapping(analysis, value, node, scope)


def _judge_mapping(analysis: Analysis, mapping: Dict, node: ast.AST, scope: Scope) -> None:
    for name, values in mapping.entries.items():
        text = name.decode("latin-1") if isinstance(name, bytes) else str(name)
        _judge(analysis, text, values, node, scope)


def _judge(
    analysis: Analysis, name: str | None, values: Values, node: ast.AST, scope: Scope
) -> None:
    if name is None:
        if not analysis.rule.free:
            analysis.add(
                node,
                scope,
                RULE,
                "warn",
                "an environment variable is set whose name cannot be read from the source",
                "some variables change the compiler",
                "write the name out",
            )
        return
    shown = ", ".join(excerpt(str(c), 30) for c in constants(values)[:2])
    what = f"environment variable {excerpt(name)} is set" + (f" to {shown}" if shown else "")
    if LOADER_VARIABLE.match(name):
        why, remedy = "it decides which code is loaded", "leave it to the node's owner"
        analysis.add(node, scope, RULE, "warn", what, why, remedy)
    elif COMPILER_VARIABLE.match(name) and not analysis.rule.free:
        if HARMLESS.search(name):
            why = "the runner sets caches itself; the compiled code does not change"
            analysis.add(node, scope, RULE, "warn", what, why, "leave it out")
        else:
            why = "it changes how the compiler works, which the track does not allow"
            analysis.add(node, scope, RULE, "fail", what, why, "leave it out")
