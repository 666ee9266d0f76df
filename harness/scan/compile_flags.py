"""Rule: torch.compile gets no argument that the track does not allow."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from harness.scan.analysis import Analysis
from harness.scan.arguments import Arguments
from harness.scan.config_writes import INDUCTOR, allowed_text
from harness.scan.finding import excerpt
from harness.scan.scopes import Scope
from harness.scan.values import (
    Bound,
    Const,
    Dict,
    Function,
    Items,
    Unknown,
    Values,
    constants,
    is_open,
    paths,
    strings,
)

RULE = "compile-argument"
COMPILERS = frozenset(
    {
        "torch.compile",
        "torch.compiler.compile",
        "torch.eval_frame.optimize",
        "torch._dynamo.optimize",
        "torch._dynamo.eval_frame.optimize",
        "torch._dynamo.optimize_assert",
        "torch._inductor.aot_compile",
        "torch._inductor.aoti_compile_and_package",
        "torch._inductor.compile",
        "torch._inductor.compile_fx",
        "torch._inductor.compile_fx.compile_fx",
        "torch._inductor.compile_fx.compile_fx_inner",
        "torch._inductor.standalone_compile",
        "torch.nn.Module.compile",
    }
)
OPTIMIZERS = ("torch._dynamo.optimize", "torch._dynamo.eval_frame.optimize")
FLAGS = frozenset(
    {"mode", "options", "backend", "dynamic", "fullgraph", "nopython", "config_patches"}
)
SAME_AS = {"nopython": "fullgraph", "config_patches": "options"}
# What torch.compile does anyway: spelling a default out is no flag.
DEFAULTS: dict[str, tuple[object, ...]] = {
    "mode": (None, "default"),
    "options": (None,),
    "backend": ("inductor",),
    "dynamic": (None,),
    "fullgraph": (False,),
}
NO_FLAG = frozenset({"model", "disable", "gm", "model_", "example_inputs"})
TUNING_MODES = frozenset({"max-autotune", "max-autotune-no-cudagraphs", "reduce-overhead"})


def find_compile_flags(analysis: Analysis) -> None:
    """Looks at every call that is, may be, or is handed torch.compile."""
    if analysis.rule.free:
        return
    resolver = analysis.resolver
    for node, scope in analysis.program.calls:
        function = resolver.values(node.func, scope)
        direct = _compilers(function) | _bound_compilers(function)
        given = resolver.arguments(node, scope)
        if direct:
            _judge(analysis, node, scope, given, direct)
        elif any(_compilers(values) for values in given.positional):
            # functools.partial(torch.compile, mode=...), pool.submit(torch.compile, ...)
            if FLAGS & given.keywords.keys() and not any(isinstance(f, Function) for f in function):
                _judge(analysis, node, scope, given, {"torch.compile"})
        elif _calls_compile_later(function, given) or (
            _is_method(node, function) and FLAGS & given.keywords.keys()
        ):
            _judge(analysis, node, scope, given, {"torch.nn.Module.compile"})
        elif is_open(function) and TUNING_MODES & set(strings(given.keywords.get("mode", ()))):
            _judge(analysis, node, scope, given, {"an unknown function"})


def _compilers(values: Values) -> set[str]:
    return set(COMPILERS.intersection(paths(values)))


def _bound_compilers(values: Values) -> set[str]:
    found: set[str] = set()
    for value in values:
        if isinstance(value, Bound):
            # Arguments bound before count too: partial(partial, torch.compile)(mode=...).
            for bound in (value.function, *value.args):
                found |= _compilers(bound)
    return found


def _calls_compile_later(function: Values, given: Arguments) -> bool:
    """operator.methodcaller("compile", mode=...)"""
    return "operator.methodcaller" in paths(function) and "compile" in strings(given.at(0))


def _is_method(node: ast.Call, function: Values) -> bool:
    """`model.compile(...)` on something unknown: nn.Module.compile hands all to torch.compile."""
    return (
        isinstance(node.func, ast.Attribute)
        and node.func.attr == "compile"
        and any(isinstance(value, Unknown) for value in function)
        and not paths(function)
    )


def _judge(
    analysis: Analysis, node: ast.Call, scope: Scope, given: Arguments, targets: set[str]
) -> None:
    target = sorted(targets)[0]
    for name, values, place in _flags(given, targets):
        if name in analysis.rule.allowed_kwargs or name in NO_FLAG:
            continue
        if name == "options" and _options_allowed(analysis, values):
            continue
        if name in DEFAULTS and values and all(_is_default(name, value) for value in values):
            continue
        inside = any(place is keyword.value for keyword in node.keywords)
        shown = ", ".join(excerpt(repr(c), 40) for c in constants(values)[:3])
        analysis.add(
            place if inside else node,
            scope,
            RULE,
            "fail",
            f"{target} is given {name}={shown or '…'}",
            f"track allows {allowed_text(analysis.rule.allowed_kwargs)}",
            f"remove {name}= from the call",
        )
    if given.open_keywords:
        analysis.add(
            node,
            scope,
            RULE,
            "warn",
            f"{target} is given keywords that cannot be read from the source",
            "a mapping opened with ** is not known",
            "write the keywords out in the call",
        )


def _flags(given: Arguments, targets: set[str]) -> Iterator[tuple[str, Values, ast.AST]]:
    node = given.node
    assert node is not None
    for name, values in given.keywords.items():
        yield SAME_AS.get(name, name), values, given.places.get(name, node)
    if targets & set(OPTIMIZERS) and given.positional:
        yield "backend", given.positional[0], node


def _is_default(name: str, value: object) -> bool:
    if isinstance(value, Dict):
        return name == "options" and not value.entries and not value.rest
    if isinstance(value, Items):
        return False
    return isinstance(value, Const) and any(
        value.value is default or (isinstance(default, str) and value.value == default)
        for default in DEFAULTS[name]
    )


def _options_allowed(analysis: Analysis, values: Values) -> bool:
    """Options are inductor settings under another door: the same list holds."""
    return bool(values) and all(
        isinstance(value, Dict)
        and not value.rest
        and all(f"{INDUCTOR}.{key}" in analysis.rule.allowed_config for key in value.entries)
        for value in values
    )
