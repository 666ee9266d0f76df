"""profile_small.py's arithmetic: parts of kernels, busy time and gaps."""

import importlib.util
import sys
from types import SimpleNamespace

import pytest

from tests.candidates.tiny_small import ROOT


def load_tool():
    path = ROOT / "tests" / "candidates" / "profile_small.py"
    spec = importlib.util.spec_from_file_location("profile_small", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["profile_small"] = module
    spec.loader.exec_module(module)
    return module


tool = load_tool()
SIZES = (768, 3072, 50304)


@pytest.mark.parametrize(
    ("shapes", "part"),
    [
        ([[49152, 768], [768, 50304]], "head + loss"),
        ([[3072, 49152], [49152, 768]], "MLP"),
        ([[49152, 768], [768, 2304], [49152, 2304]], "attention, projections"),
        ([[49152, 12], [12, 6]], "gates, MUDD"),
        ([[49152, 768], [768, 64]], "gates, MUDD"),
    ],
)
def test_products_by_their_shapes(shapes: list[list[int]], part: str) -> None:
    assert tool.part_of_product(shapes, *SIZES) == part


def test_busy_time_and_gaps() -> None:
    assert tool.gaps([(0, 2), (1, 3), (5, 6), (5.5, 5.75)]) == (4, 2)
    assert tool.gaps([]) == (0, 0)


def test_what_hides_communication() -> None:
    assert tool.exposed([(0, 10)], [(2, 5), (4, 6), (9, 12)]) == 5
    assert tool.exposed([(0, 1), (0.5, 2)], []) == 2
    assert tool.exposed([(3, 4)], [(0, 9)]) == 0


def span(name: str, start: float, end: float, device: str = "CUDA", **more) -> SimpleNamespace:
    time_range = SimpleNamespace(start=start, end=end, elapsed_us=lambda: end - start)
    return SimpleNamespace(
        name=name, device_type=SimpleNamespace(name=device), time_range=time_range, **more
    )


def test_time_is_counted_once() -> None:
    """A product's kernel goes to the part of its shapes, what lies over others is left out."""
    kernel = SimpleNamespace(name="nvjet", duration=30.0)
    events = [
        span("aten::mm", 0, 1, "CPU", kernels=[kernel], input_shapes=[[8, 768], [768, 3072]]),
        span("nvjet", 0, 30),
        span("nvjet", 30, 40),  # another product, outside of the operators that are named
        span("triton_poi_fused_add_0", 40, 45),
        span("flash_fwd_kernel", 45, 65),
        span("## Call CompiledFxGraph f1 ##", 0, 65),
        span("ProfilerStep", 0, 65, is_user_annotation=True),
    ]
    parts, kernels = tool.by_part(events, SIZES)
    assert parts == {"MLP": 30, "other": 10, "elementwise": 5, "attention": 20}
    assert sum(kernels.values()) == 65
    assert kernels["nvjet [[8, 768], [768, 3072]]"] == 30


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert tool.main([]) == 4
    assert "needs a GPU" in capsys.readouterr().err
