"""Rule: no setting of dynamo, inductor or functorch beyond the track's list."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

from harness.scan.analysis import Analysis
from harness.scan.arguments import Arguments
from harness.scan.finding import excerpt
from harness.scan.scopes import Scope
from harness.scan.values import Const, Dict, Values, constants, paths, strings
from harness.scan.words import words
from harness.scan.writes import Write

RULE = "compile-config"
INDUCTOR = "torch._inductor.config"
_CONFIG = re.compile(r"^torch\.(.+?)\.(_?config)(?:\.(.+))?$")
_PACKAGES = ("_inductor", "_dynamo", "_functorch", "_export", "compiler", "fx")
_COMPILER_INTERNALS = re.compile(r"^torch\.(_inductor|_dynamo|_functorch|_higher_order_ops)\.")
_PATCHERS = ("patch", "_patch", "load_config", "update", "codegen_patch")
# Names that no other object of a training script has: found on something unknown, worth a look.
DISTINCTIVE = words(
    "aggressive_fusion benchmark_epilogue_fusion benchmark_kernel combo_kernels "
    "conv_1x1_as_mm coordinate_descent_check_all_directions coordinate_descent_search_radius "
    "coordinate_descent_tuning cudagraph_trees epilogue_fusion force_fuse_int_mm_with_mul "
    "freezing max_autotune max_autotune_gemm max_autotune_gemm_backends max_autotune_pointwise "
    "max_autotune_gemm_search_space multi_kernel use_mixed_mm triton.cudagraphs "
    "triton.multi_kernel triton.unique_kernel_names"
)
# Setting one of these to False changes nothing: that is how they stand.
OFF_BY_DEFAULT = words(
    "coordinate_descent_tuning coordinate_descent_check_all_directions max_autotune "
    "max_autotune_gemm max_autotune_pointwise aggressive_fusion freezing "
    "benchmark_epilogue_fusion"
)


def find_config_writes(analysis: Analysis) -> None:
    """Every write into a configuration module of the compiler, and calls that patch one."""
    if analysis.rule.free:
        return
    for write in analysis.writes:
        _judge_write(analysis, write)
    for node, scope in analysis.program.calls:
        for path in paths(analysis.resolver.values(node.func, scope)):
            owner, _, last = path.rpartition(".")
            if last in _PATCHERS and canonical(owner) is not None:
                _judge_patch(analysis, owner, last, node, scope)


def canonical(path: str) -> tuple[str, str] | None:
    """(`torch._inductor.config`, rest) for a path in a configuration module, else None.

    `torch._inductor.utils.config` is the same object as `torch._inductor.config`.
    """
    found = _CONFIG.match(path.replace(".__dict__", ""))
    if found is None:
        return None
    package, _, rest = found.groups()
    top = package.partition(".")[0]
    rest = (rest or "").removeprefix("_config.")
    if top not in _PACKAGES:
        return None
    return f"torch.{top}.config", rest


def allowed_text(names: Iterable[str]) -> str:
    listed = ", ".join(sorted(names))
    return f"only {listed}" if listed else "none"


def _judge_write(analysis: Analysis, write: Write) -> None:
    if not write.owner:
        if write.name in DISTINCTIVE and not _is_off(write.name or "", write.values):
            analysis.add(
                write.node,
                write.scope,
                RULE,
                "warn",
                f"{write.name} is set on an object that cannot be told from the source",
                "inductor has a setting of this name",
                "make plain what the object is",
            )
        return
    where = canonical(write.path)
    if where is not None:
        _judge_setting(analysis, where, write)
    elif write.path.startswith("torch.compile."):
        analysis.add(
            write.node,
            write.scope,
            RULE,
            "fail",
            f"{write.path} is set",
            "it changes what every torch.compile does",
            "leave torch.compile as it is",
        )
    elif write.path == "torch.compile" or _COMPILER_INTERNALS.match(write.path):
        analysis.add(
            write.node,
            write.scope,
            RULE,
            "warn",
            f"{write.path} is replaced",
            "the compiler itself is patched",
            "leave the compiler as it is, or say why it must be patched",
        )


def _judge_setting(analysis: Analysis, where: tuple[str, str], write: Write) -> None:
    module, rest = where
    if not rest or rest == "?" or rest.endswith(".?"):
        _unknown(analysis, module, write.node, write.scope, replaced=not rest)
        return
    sure = write.certain or rest in DISTINCTIVE
    judge_name(analysis, module, rest, write.values, write.node, write.scope, sure)


def judge_name(
    analysis: Analysis,
    module: str,
    name: str,
    values: Values,
    node: ast.AST,
    scope: Scope,
    sure: bool = True,
) -> None:
    """One setting against the track's list."""
    if f"{module}.{name}" in analysis.rule.allowed_config or _is_off(name, values):
        return
    shown = ", ".join(excerpt(repr(c), 40) for c in constants(values)[:3])
    mine = [s.removeprefix("torch.") for s in analysis.rule.allowed_config]
    analysis.add(
        node,
        scope,
        RULE,
        "fail" if sure else "warn",
        f"{module}.{name} is set" + (f" to {shown}" if shown else ""),
        f"track allows {allowed_text(mine)}",
        "remove the setting",
    )


def _judge_patch(analysis: Analysis, owner: str, last: str, node: ast.Call, scope: Scope) -> None:
    found = canonical(owner)
    assert found is not None
    module, inner = found
    given = analysis.resolver.arguments(node, scope)
    if last == "load_config" or inner:
        _unknown(analysis, module, node, scope, replaced=False)
        return
    known = False
    for name, values, place in _patched(given):
        known = True
        judge_name(analysis, module, name, values, place, scope)
    if given.open_keywords or (given.positional and not known):
        _unknown(analysis, module, node, scope, replaced=False)


def _patched(given: Arguments) -> list[tuple[str, Values, ast.AST]]:
    node = given.node
    assert node is not None
    found = [(name, values, node) for name, values in given.keywords.items()]
    for value in given.at(0):
        if isinstance(value, Dict):
            found += [(str(key), values, node) for key, values in value.entries.items()]
    found += [(name, given.at(1), node) for name in strings(given.at(0))]
    return [entry for entry in found if entry[0] not in ("arg1", "arg2")]


def _unknown(
    analysis: Analysis, module: str, node: ast.AST, scope: Scope, *, replaced: bool
) -> None:
    analysis.add(
        node,
        scope,
        RULE,
        "fail" if replaced else "warn",
        f"{module} is replaced"
        if replaced
        else f"a setting of {module} is changed whose name cannot be read from the source",
        "it decides how everything is compiled",
        "write the setting out: module.name = value",
    )


def _is_off(name: str, values: Values) -> bool:
    return (
        name in OFF_BY_DEFAULT
        and bool(values)
        and all(isinstance(v, Const) and v.value is False for v in values)
    )
