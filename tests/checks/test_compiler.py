"""Judging what the compiler was told."""

from __future__ import annotations

from typing import Any

import pytest

from harness.audit_report import CompilerFacts
from harness.checks.compiler import beyond
from harness.tracks.track import CompileRule, load_track

RULE = load_track("small").compile


def facts(**fields: Any) -> CompilerFacts:
    return CompilerFacts(
        **{"compile_kwargs": (), "config": {}, "patches": {}, "variables": {}, **fields}
    )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"compile_kwargs": ({"dynamic": "False", "fullgraph": "True"}, {})},
        {"config": {"torch._dynamo.config.recompile_limit": ("8", "64")}},
        {"config": {"torch._dynamo.config.automatic_dynamic_shapes": ("True", "False")}},
        {"variables": {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}},
    ],
)
def test_what_the_track_allows(fields: dict[str, Any]) -> None:
    assert beyond(facts(**fields), RULE) == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"compile_kwargs": ({"mode": "reduce-overhead"},)}, "torch.compile(mode=reduce-overhead)"),
        ({"config": {"torch._inductor.config.max_autotune": ("False", "True")}},
         "torch._inductor.config.max_autotune = True, untouched it is False"),
        ({"patches": {"coordinate_descent_tuning": "True"}}, "coordinate_descent_tuning = True"),
        ({"variables": {"TORCH_COMPILE_DEBUG": "1"}}, "TORCH_COMPILE_DEBUG=1"),
    ],
)  # fmt: skip
def test_what_it_does_not(fields: dict[str, Any], words: str) -> None:
    assert any(words in line for line in beyond(facts(**fields), RULE))


def test_a_patch_that_the_track_allows() -> None:
    rule = CompileRule(allowed_config=["torch._inductor.config.coordinate_descent_tuning"])
    assert beyond(facts(patches={"coordinate_descent_tuning": "True"}), rule) == []
