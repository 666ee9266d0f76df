"""Heads of `candidates/small.py` before and after their attention (`fused_heads`) against fp64.

As tests/candidates/test_small_compose.py: the kernels in Triton's interpreter in a child process,
the PyTorch form on the CPU against the formulas written out, the shapes of the run on a GPU
(`-m gpu`), there against the PyTorch form in fp32.
"""

from __future__ import annotations

import math
import sys
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the training scripts need torch")

if __name__ == "__main__":  # the interpreter's child: find the package of the tests
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.candidates.test_small_kernels import (  # noqa: E402
    error,
    load_kernels,
    poisoned_memory,
    randn,
    results_in_interpreter,
    run_interpreter_checks,
    slope,
)

# (tokens, heads, channels of a head). A program takes 32 tokens of one head.
SHAPES = ((70, 2, 16), (1, 2, 16), (32, 6, 16), (33, 4, 128))
# what a layer can ask for: (paired, key offset, something added to the values)
LAYERS = [way for way in product((False, True), repeat=3) if not (way[0] and way[1])]


def tables(tokens: int, width: int, paired: bool, device: str = "cpu") -> tuple[Any, Any]:
    """cos and sin as GPT.set_rotary makes them, for random frequencies: the upper half of the
    channels rests, sin's odd channels are negated."""
    t = torch.arange(tokens, device=device)
    frequencies = torch.zeros(width, device=device)
    frequencies[: width // 2] = torch.rand(width // 4, device=device).repeat_interleave(2)
    flip = torch.ones(width, device=device)
    flip[1::2] = -1
    positions = [2 * t, 2 * t + 1] if paired else [t]
    angle = torch.cat([p[:, None] * frequencies for p in positions], 1)
    sin = angle.sin() * flip.repeat(len(positions))
    return angle.cos().bfloat16(), sin.bfloat16()


def prepared(qkv, extra, cos, sin, heads: int, paired: bool, offset: bool) -> tuple[Any, ...]:
    """q, k, v head by head and pair by pair, in the precision of the inputs."""
    tokens, C = qkv.size(0), qkv.size(1) // 3 // heads
    q, k, v = qkv.view(tokens, 3, heads, C).unbind(1)
    out = []
    for x in (q, k):
        normed = x / (x.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).sqrt()
        turned = []
        for h in range(heads):
            side = C * (h % 2) if paired else 0
            c = cos[:, side : side + C : 2].to(x.dtype)
            s = sin[:, side : side + C : 2].to(x.dtype)
            even, odd = normed[:, h, 0::2], normed[:, h, 1::2]
            both = torch.stack((c * even + s * odd, c * odd - s * even), -1)
            turned.append(both.flatten(1))
        out.append(torch.stack(turned, 1))
    if offset:
        before = torch.arange(tokens) - 1
        before[0] = 0
        high = out[1][before][..., C // 2 :]
        out[1] = torch.cat((out[1][..., : C // 2], high), -1)
    return *out, v if extra is None else v + extra


def finished(o, v, xsa, gate) -> Any:
    """The output with v's unit vector taken out of o, one head after the other."""
    rows = []
    for h in range(o.size(1)):
        y = o[:, h]
        if xsa is not None:
            unit = v[:, h] / v[:, h].norm(dim=-1, keepdim=True).clamp(min=1e-4)
            strength = xsa[h] if xsa.dim() == 1 else xsa[:, h, None]
            y = y - strength * (y * unit).sum(-1, keepdim=True) * unit
        rows.append(y if gate is None else gate[:, h, None] * y)
    return torch.cat(rows, 1)


def leaves_and_exact(*given: Any) -> tuple[list[Any], list[Any]]:
    """Each tensor as a leaf, and once more in fp64; None stays."""
    ours = [None if t is None else t.clone().requires_grad_() for t in given]
    return ours, [None if t is None else t.double().requires_grad_() for t in given]


def compare_gradients(ours: list[Any], exact: list[Any], most: float, name: str) -> None:
    for number, (a, b) in enumerate(zip(ours, exact, strict=True)):
        if a is not None:
            assert a.grad is not None, (name, number)
            assert error(a.grad, b.grad) < most, (name, number)
            if a.numel() > 1000:
                assert abs(slope(a.grad, b.grad) - 1) < 5e-3, (name, number)


# ------------------------------------------------------- checks that run in Triton's interpreter


def check_prepare_against_the_formula(K: ModuleType) -> None:
    for (tokens, heads, C), (paired, offset, added) in product(SHAPES, LAYERS):
        name = f"{tokens} {heads} {C} paired {paired} offset {offset} added {added}"
        cos, sin = tables(tokens, C, paired)
        extra = randn(tokens, heads, C) if added else None
        (qkv, more), exact = leaves_and_exact(randn(tokens, 3 * heads * C, scale=3.0), extra)
        with poisoned_memory():
            *out, tap = K.prepare_heads(qkv, more, cos, sin, heads, offset, False)
            assert tap is None
            grads = [randn(tokens, heads, C) for _ in out]
            torch.autograd.backward(out, grads)
        ref = prepared(*exact, cos, sin, heads, paired, offset)
        torch.autograd.backward(ref, [g.double() for g in grads])
        for part, a, b in zip("qkv", out, ref, strict=True):
            assert a.dtype == torch.bfloat16
            assert a.is_contiguous()
            assert error(a, b) < 4e-3, (name, part)
        compare_gradients([qkv, more], exact, 6e-3, name)


def check_finish_against_the_formula(K: ModuleType) -> None:
    for (tokens, heads, C), strength, gated in product(SHAPES, (0, 1, 2), (False, True)):
        name = f"{tokens} {heads} {C} strength {strength} gated {gated}"
        xsa = (None, randn(heads), randn(tokens, heads))[strength]
        given = randn(tokens, heads, C), randn(tokens, heads, C) if strength else None
        given = *given, xsa, randn(tokens, heads) if gated else None
        (o, v, xsa, gate), exact = leaves_and_exact(*given)
        grad = randn(tokens, heads * C)
        with poisoned_memory():
            out = K.finish_heads(o, o if v is None else v, None, xsa, gate)
            out.backward(grad)
        ref = finished(*exact)
        ref.backward(grad.double())
        assert out.shape == (tokens, heads * C)
        assert error(out, ref) < 4e-3, name
        # One token's numbers can all but cancel: bounds of many do not hold for few.
        compare_gradients([o, v, xsa, gate], exact, 1e-2 if tokens > 1 else 5e-2, name)


def check_a_value_of_zeros(K: ModuleType) -> None:
    """Its length is held at 1e-8: nothing is divided by nothing, and nothing moves but by that."""
    (o, v, xsa), _ = leaves_and_exact(randn(5, 2, 16), torch.zeros(5, 2, 16).bfloat16(), randn(2))
    with poisoned_memory():
        out = K.finish_heads(o, v, None, xsa, None)
        out.backward(torch.ones_like(out))
    assert torch.equal(out, o.detach().flatten(1))
    for t in (o, v, xsa):
        assert torch.isfinite(t.grad).all()


def check_the_tap_leads_to_the_values(K: ModuleType) -> None:
    """Attention here is a sum of its inputs; with and without the tap, the same gradients, rounded
    once instead of twice."""
    tokens, heads, C = 70, 2, 16
    cos, sin = tables(tokens, C, False)
    given = randn(tokens, 3 * heads * C), randn(tokens, heads, C), randn(heads)
    upstream = randn(tokens, heads * C)
    for tapped in (True, False):
        (qkv, extra, xsa), exact = leaves_and_exact(*given)
        with poisoned_memory():
            q, k, v, tap = K.prepare_heads(qkv, extra, cos, sin, heads, True, tapped)
            assert (tap is not None) == tapped
            if tap is not None:
                assert tap.untyped_storage().nbytes() == tap.element_size()
                assert not tap.any()
            K.finish_heads(q + k * v, v, tap, xsa, None).backward(upstream)
        q, k, v = prepared(*exact[:2], cos, sin, heads, False, True)
        each = exact[2].expand(tokens, heads)
        each.retain_grad()
        finished(q + k * v, v, each, None).backward(upstream.double())
        compare_gradients([qkv, extra], exact[:2], 1e-2, str(tapped))
        # The two strengths' gradients are sums over the tokens that can all but cancel: what bf16
        # inputs leave is held against the size of what was summed, not against what is left.
        off = (xsa.grad.double() - exact[2].grad).norm()
        assert off < 2e-2 * each.grad.norm(), (str(tapped), float(off / each.grad.norm()))


def check_strided_inputs(K: ModuleType) -> None:
    """Gates as columns of a wider tensor, gradients that are views: the same bits."""
    tokens, heads, C = 40, 2, 16
    wide = randn(tokens, 4 * heads)
    o, v, grad = (randn(tokens, heads, C) for _ in range(3))
    results = []
    for xsa, gate in (
        (wide[:, :heads], wide[:, 2 * heads : 3 * heads]),
        (wide[:, :heads].contiguous(), wide[:, 2 * heads : 3 * heads].contiguous()),
    ):
        results.append((K.finish_heads_op(o, v, None, xsa, gate),
                        *K.finish_heads_grad(grad.flatten(1), o, v, xsa, gate)))  # fmt: skip
    both = torch.cat((grad, grad), -1).flatten(1)[:, : heads * C]
    assert both.stride(0) == 2 * heads * C
    xsa, gate = wide[:, :heads], wide[:, 2 * heads : 3 * heads]
    again = K.finish_heads_grad(both, o, v, xsa, gate)
    assert all(map(torch.equal, again, K.finish_heads_grad(both.contiguous(), o, v, xsa, gate)))
    assert all(map(torch.equal, *results))


def check_operator_contracts(K: ModuleType) -> None:
    from torch.library import opcheck

    some = ("test_schema", "test_faketensor")
    cos, sin = tables(40, 16, True)
    qkv, extra = randn(40, 96), randn(40, 2, 16)
    for tap in (False, True):
        opcheck(K.prepare_heads_op, (qkv, extra, cos, sin, 2, False, tap), test_utils=some)
    for more in (extra, None):
        arguments = extra, extra, extra, more, qkv, cos, sin, False, more is not None
        opcheck(K.prepare_heads_grad, arguments, test_utils=some)
    for xsa, gate in ((randn(2), randn(40, 2)), (None, randn(40, 2)), (randn(40, 2), None)):
        opcheck(K.finish_heads_op, (extra, extra, None, xsa, gate), test_utils=some)
        opcheck(K.finish_heads_grad, (randn(40, 32), extra, extra, xsa, gate), test_utils=some)


CHECKS = {name[6:]: f for name, f in list(globals().items()) if name.startswith("check_")}


@pytest.fixture(scope="session")
def head_results() -> dict[str, str]:
    return results_in_interpreter(__file__)


@pytest.mark.parametrize("name", CHECKS)
def test_in_interpreter(name: str, head_results: dict[str, str]) -> None:
    assert not head_results[name], head_results[name]


# ------------------------------------------------------------------------------- plain torch, CPU


@pytest.fixture(scope="module")
def K() -> ModuleType:
    return load_kernels()


@pytest.mark.parametrize(("paired", "offset", "added"), LAYERS)
def test_pytorch_form_of_prepare(K: ModuleType, paired: bool, offset: bool, added: bool) -> None:
    tokens, heads, C = 50, 4, 16
    cos, sin = (t.double() for t in tables(tokens, C, paired))
    qkv = torch.randn(tokens, 3 * heads * C, dtype=torch.float64)
    extra = torch.randn(tokens, heads, C, dtype=torch.float64) if added else None
    out = K.prepare_heads(qkv, extra, cos, sin, heads, offset, True)
    assert out[3] is None
    ref = prepared(qkv, extra, cos, sin, heads, paired, offset)
    for a, b in zip(out[:3], ref, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("strength", [0, 1, 2])
@pytest.mark.parametrize("gated", [False, True])
def test_pytorch_form_of_finish(K: ModuleType, strength: int, gated: bool) -> None:
    o, v = torch.randn(2, 50, 4, 16, dtype=torch.float64)
    xsa = (None, torch.randn(4).double(), torch.randn(50, 4).double())[strength]
    gate = torch.randn(50, 4).double() if gated else None
    torch.testing.assert_close(K.finish_heads(o, v, None, xsa, gate), finished(o, v, xsa, gate))


def test_the_fixed_scale_keeps_every_normed_row_in_range(K: ModuleType) -> None:
    """One channel that has all of a row is sqrt(D) after the norm, and is not saturated."""
    for width in (32, 64, 768, 1024):
        row = torch.zeros(1, width).bfloat16()
        row[0, 3] = 7.0
        scaled = K.norm(row).float() * K.normed_factor(width)
        assert float(scaled.max()) <= 448
        assert float((scaled * 2).max()) > 440  # the next power of two would (all but) not do
        assert torch.isfinite(scaled.to(torch.float8_e4m3fn).float()).all()
        assert math.log2(K.normed_factor(width)).is_integer()


# ---------------------------------------------------------------------------------------------- GPU


@pytest.mark.gpu
@pytest.mark.parametrize("tokens", [16_384, 49_152])
@pytest.mark.parametrize(("paired", "offset", "added"), LAYERS)
def test_gpu_prepare(K: ModuleType, tokens: int, paired: bool, offset: bool, added: bool) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU here")
    heads, C = 6, 128
    cos, sin = tables(tokens, C, paired, "cuda")
    extra = randn(tokens, heads, C, device="cuda") if added else None
    (qkv, more), exact = leaves_and_exact(randn(tokens, 3 * heads * C, device="cuda"), extra)
    with poisoned_memory():
        *out, _ = K.prepare_heads(qkv, more, cos, sin, heads, offset, False)
        grads = [randn(tokens, heads, C, device="cuda") for _ in out]
        torch.autograd.backward(out, grads)
    *ref, _ = K.prepare_heads_reference(*exact, cos, sin, heads, offset)
    torch.autograd.backward(ref, [g.double() for g in grads])
    for a, b in zip(out, ref, strict=True):
        assert error(a, b) < 4e-3
    compare_gradients([qkv, more], exact, 6e-3, "")


@pytest.mark.gpu
@pytest.mark.parametrize("tokens", [16_384, 49_152])
@pytest.mark.parametrize(("strength", "gated"), [(0, True), (1, True), (2, True), (2, False)])
def test_gpu_finish(K: ModuleType, tokens: int, strength: int, gated: bool) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU here")
    heads, C = 6, 128
    xsa = (None, randn(heads, device="cuda"), randn(tokens, heads, device="cuda"))[strength]
    given = [randn(tokens, heads, C, device="cuda") for _ in range(2 if strength else 1)]
    given += [] if strength else [None]
    gate = randn(tokens, heads, device="cuda") if gated else None
    (o, v, xsa, gate), exact = leaves_and_exact(*given, xsa, gate)
    grad = randn(tokens, heads * C, device="cuda")
    with poisoned_memory():
        out = K.finish_heads(o, o if v is None else v, None, xsa, gate)
        out.backward(grad)
    ref = K.finish_heads_reference(*exact[:2], None, *exact[2:])
    ref.backward(grad.double())
    assert error(out, ref) < 4e-3
    compare_gradients([o, v, xsa, gate], exact, 1e-2, "")


if __name__ == "__main__" and "--interpret" in sys.argv:
    run_interpreter_checks(CHECKS)
