"""Composed heads (record #85) of `candidates/small.py` against a dense fp64 softmax.

As tests/candidates/test_small_kernels.py: the kernels run in Triton's interpreter in a child
process at small, ragged shapes, the PyTorch form on the CPU, and the full shape on a GPU
(`-m gpu`), there against the PyTorch form in fp32. Inputs are fresh every time; a failure in the
interpreter names its seed.
"""

from __future__ import annotations

import sys
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

WINDOW, SCALE = 112, 0.1
NAMES = ("base", "q", "k", "v", "w1", "w2")

# (tokens, heads, head width, window, borders). The kernels' blocks are 64 tokens.
SHAPES = {
    "one long document": (300, 2, 16, 112, [0, 300]),
    "borders anywhere, padded": (300, 2, 16, 112, [0, 50, 230, 300, 300, 300]),
    "borders at block edges": (256, 6, 16, 112, [0, 64, 128, 256]),
    "beside the edges": (193, 3, 16, 112, [0, 63, 65, 127, 129, 192, 193]),
    "single tokens": (70, 2, 16, 112, [0, 1, 2, 3, 62, 63, 64, 65, 66, 70]),
    "exactly the window": (336, 2, 16, 112, [0, 112, 224, 336]),
    "one token": (1, 2, 16, 112, [0, 1, 1]),
    "shorter than a block": (37, 2, 32, 112, [0, 20, 37]),
    "the widest window": (280, 2, 16, 129, [0, 280]),
    "a window of one": (130, 2, 16, 1, [0, 130]),
    "the head's width": (150, 2, 128, 112, [0, 40, 150, 150]),
}


def dense(base, q, k, v, w1, w2, cu_seqlens, scale: float, window: int) -> Any:
    """The formula with a (T, T) mask, one head at a time, in the precision of its inputs."""
    tokens, heads, _ = q.shape
    t = torch.arange(tokens, device=q.device)
    document = sum((t >= int(border)).long() for border in cu_seqlens)
    distance = t[:, None] - t
    seen = (distance >= 0) & (distance < window) & (document[:, None] == document)
    w1 = w1 / (w1.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    mix = 0
    for h in range(heads):
        scores = (q[:, h] @ k[:, h].t() * scale).masked_fill(~seen, float("-inf"))
        mix = mix + w1[:, h, None] * scores.softmax(-1)
    parts = [base[:, h] + w2[:, h, None] * (mix @ v[:, h]) for h in range(heads)]
    return torch.stack(parts, 1)


def inputs(tokens: int, heads: int, width: int, device: str = "cpu") -> tuple[Any, ...]:
    """base, q, k, v, w1, w2. Scores have a deviation of 3, so that a softmax is far from flat, and
    v a common part, which makes D nearly constant over the keys."""
    q, k = (
        randn(tokens, heads, width, scale=(30 / width**0.5) ** 0.5, device=device) for _ in "qk"
    )
    v = randn(tokens, heads, width, device=device)
    v = v + 3 * randn(heads, width, device=device)
    w1, w2 = (randn(tokens, heads, device=device) for _ in "12")
    return randn(tokens, heads, width, device=device), q, k, v, w1, w2


def borders(values: list[int], device: str = "cpu") -> Any:
    return torch.tensor(values, dtype=torch.int32, device=device)


# ------------------------------------------------------- checks that run in Triton's interpreter


def check_against_dense(K: ModuleType) -> None:
    for name, (tokens, heads, width, window, cu) in SHAPES.items():
        leaves, grad = inputs(tokens, heads, width), randn(tokens, heads, width)
        ours = [t.clone().requires_grad_() for t in leaves]
        exact = [t.double().requires_grad_() for t in leaves]
        with poisoned_memory():
            out = K.compose_heads(*ours, borders(cu), SCALE, window)
            out.backward(grad)
        ref = dense(*exact, cu, SCALE, window)
        ref.backward(grad.double())
        assert out.dtype == torch.bfloat16
        if tokens > 100:
            assert error(out, ref) < 5e-3, name
            assert error(out.double() - leaves[0].double(), ref - exact[0]) < 8e-3, name
        else:
            # One rounded weight is a key's whole row, and the heads' sum may all but cancel: 12 of
            # 100 draws of one token missed the bound above. So against the terms' own size.
            base, q, k, *rest = (t.detach() for t in exact)
            size = dense(base.abs(), q, k, *(t.abs() for t in rest), cu, SCALE, window)
            assert float((out.double() - ref).norm()) < 1e-2 * float(size.norm()), name
        assert torch.equal(ours[0].grad, grad)
        for what, a, b in zip(NAMES[1:], ours[1:], exact[1:], strict=True):
            if float(b.grad.norm()) < 1e-6 * float(grad.double().norm()):
                # One key a query: the softmax is constant.
                assert float(a.grad.double().norm()) < 1e-2 * float(grad.double().norm()), name
            else:
                # Few numbers can all but cancel: .073 was the most in 607 draws of one token, .029
                # of the other short shapes.
                most = 1.5e-2 if tokens > 100 else 5e-2 if tokens > 1 else 0.2
                assert error(a.grad, b.grad) < most, (name, what)
                if tokens > 100:  # enough numbers for roundings to average out: .006 in 33 draws
                    assert abs(slope(a.grad, b.grad) - 1) < 1.5e-2, (name, what)


def check_zero_w2_is_base(K: ModuleType) -> None:
    base, q, k, v, w1, w2 = inputs(130, 2, 16)
    with poisoned_memory():
        out = K.compose_heads(base, q, k, v, w1, 0 * w2, borders([0, 70, 130]), SCALE, WINDOW)
    assert torch.equal(out, base)


def check_without_gradients(K: ModuleType) -> None:
    leaves = inputs(200, 2, 16)
    arguments = (borders([0, 90, 200, 200]), SCALE, WINDOW)
    out = K.compose_heads(*(t.clone().requires_grad_() for t in leaves), *arguments)
    with torch.no_grad(), poisoned_memory():
        again = K.compose_heads(*leaves, *arguments)
    assert torch.equal(out, again)


def check_strided_views(K: ModuleType) -> None:
    """q, k, v and base as views of projections, w1 and w2 as columns of the gates, the gradient
    with its channels strided: the same bits."""
    tokens, heads, width = 150, 3, 16
    qkvb = randn(tokens, 4, heads, width)
    wide = randn(tokens, 17)
    grad = randn(tokens, width, heads).mT
    results = []
    for copy in (False, True):
        leaf, gates = qkvb.clone().requires_grad_(), wide.clone().requires_grad_()
        parts = [*leaf.unbind(1), gates[:, 2:5], gates[:, 9:12]]
        parts = [t.contiguous() if copy else t for t in parts]
        q, k, v, base, w1, w2 = parts
        out = K.compose_heads(base, q, k, v, w1, w2, borders([0, 40, 150]), SCALE, WINDOW)
        out.backward(grad.contiguous() if copy else grad)
        results.append((out.detach(), leaf.grad, gates.grad))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def check_future_and_other_documents_have_no_say(K: ModuleType) -> None:
    """NaN-free and unchanged when keys out of sight become enormous."""
    base, q, k, v, w1, w2 = inputs(260, 2, 16)
    cu = borders([0, 100, 260])
    before = K.compose_heads(base, q, k, v, w1, w2, cu, SCALE, WINDOW)
    k, v = k.clone(), v.clone()
    k[:100], v[:100] = 100.0, 1e4  # the other document of tokens 100 to 259
    k[230:], v[230:] = -100.0, -1e4  # the future of tokens up to 229
    ours = [t.clone().requires_grad_() for t in (base, q, k, v, w1, w2)]
    after = K.compose_heads(*ours, cu, SCALE, WINDOW)
    assert torch.equal(after[100:230], before[100:230])
    after[100:230].float().sum().backward()
    for t in ours[2:4]:
        assert not t.grad[:100].any()
        assert not t.grad[230:].any()
    assert all(t.grad.isfinite().all() for t in ours)


def check_first_keys(K: ModuleType) -> None:
    for tokens, _, _, window, cu in SHAPES.values():
        wanted = [max(max(b for b in cu if b <= t), t - window + 1, 0) for t in range(tokens)]
        first = K.first_keys(borders(cu), tokens, window)
        assert first.dtype == torch.int32
        assert first.tolist() == wanted


def check_window_is_bounded(K: ModuleType) -> None:
    with pytest.raises(ValueError, match="at most 129, not 130"):
        K.compose_heads(*inputs(10, 2, 16), borders([0, 10]), SCALE, 130)


def check_compiled(K: ModuleType) -> None:
    def model(base, q, k, v, w1, w2, cu):
        out = K.compose_heads(2 * base, q, k, v, w1, w2, cu, SCALE, WINDOW)
        return out * out

    leaves, cu = inputs(150, 2, 16), borders([0, 70, 150, 150])
    results = []
    for f in (model, torch.compile(model, dynamic=False, fullgraph=True, backend="aot_eager")):
        ours = [t.clone().requires_grad_() for t in leaves]
        out = f(*ours, cu)
        out.float().sum().backward()
        with torch.no_grad():
            assert torch.equal(f(*ours, cu), out)
        results.append([out.detach(), *(t.grad for t in ours)])
    assert all(error(a, b) < 5e-3 for a, b in zip(*results, strict=True))


def check_operator_contracts(K: ModuleType) -> None:
    from torch.library import opcheck

    some = ("test_schema", "test_faketensor")
    base, q, k, v, w1, w2 = inputs(80, 2, 16)
    first = K.first_keys(borders([0, 30, 80]), 80, WINDOW)
    rest = (torch.tensor(SCALE), WINDOW)
    arguments = (q, k, v, w1, w2, first)
    for keep in (True, False):
        opcheck(K.compose_forward, (base, *arguments, *rest, keep), test_utils=some)
    _, mix, lse = K.compose_forward(base, *arguments, *rest, True)
    opcheck(K.compose_backward, (base, *arguments, mix, lse, *rest), test_utils=some)


CHECKS = {name[6:]: f for name, f in list(globals().items()) if name.startswith("check_")}


# ------------------------------------------------------------------------- the interpreter's child


@pytest.fixture(scope="session")
def composed_results() -> dict[str, str]:
    return results_in_interpreter(__file__)


@pytest.mark.parametrize("name", CHECKS)
def test_in_interpreter(name: str, composed_results: dict[str, str]) -> None:
    assert not composed_results[name], composed_results[name]


# ------------------------------------------------------------------------------- plain torch, CPU


@pytest.fixture(scope="module")
def K() -> ModuleType:
    return load_kernels()


@pytest.mark.parametrize("name", SHAPES)
def test_pytorch_form_on_a_cpu(K: ModuleType, name: str) -> None:
    """In fp32, so that the tolerance is of the formula and not of bf16."""
    tokens, heads, width, window, cu = SHAPES[name]
    leaves = [t.float() for t in inputs(tokens, heads, width)]
    ours = [t.clone().requires_grad_() for t in leaves]
    exact = [t.double().requires_grad_() for t in leaves]
    grad = torch.randn(tokens, heads, width)
    out = K.compose_heads(*ours, borders(cu), SCALE, window)
    out.backward(grad)
    ref = dense(*exact, cu, SCALE, window)
    ref.backward(grad.double())
    torch.testing.assert_close(out.double(), ref, rtol=1e-4, atol=1e-4)
    for a, b in zip(ours, exact, strict=True):
        torch.testing.assert_close(a.grad.double(), b.grad, rtol=1e-3, atol=1e-3)


def test_bookkeeping_on_a_cpu(K: ModuleType) -> None:
    check_first_keys(K)
    check_zero_w2_is_base(K)
    check_window_is_bounded(K)


# ------------------------------------------------------------------------------------------- GPU

gpu = pytest.mark.gpu


@pytest.fixture
def device() -> str:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    torch.cuda.empty_cache()
    return "cuda"


def documents(tokens: int, device: str) -> Any:
    """Borders of documents of 1 to 2000 tokens, some at block edges, padded with T."""
    lengths = torch.randint(1, 2000, (tokens // 100,))
    lengths[::7] = 64 * torch.randint(1, 8, lengths[::7].shape)
    lengths[::11] = 1
    ends = [int(x) for x in lengths.cumsum(0) if x < tokens]
    return borders([0, *ends, *[tokens] * 40], device)


@gpu
@pytest.mark.parametrize("tokens", [49152, 16384, 5000])
def test_gpu_composed_heads(K: ModuleType, device: str, tokens: int) -> None:
    """Against the PyTorch form in fp32, eager and compiled; q, k, v as views of a projection."""
    base, q, k, v, w1, w2 = inputs(tokens, 6, 128, device)
    qkv = torch.stack((q, k, v), 1)
    cu, grad = documents(tokens, device), randn(tokens, 6, 128, device=device)
    exact = [t.float().requires_grad_() for t in (base, qkv, w1, w2)]
    gates = torch.nn.functional.rms_norm(exact[2], (6,), eps=1e-6)
    first = K.first_keys(cu, tokens, WINDOW)
    parts = exact[1].unbind(1)
    ref = K.compose_heads_reference(exact[0], *parts, gates, exact[3], first, SCALE)
    ref.backward(grad.float())

    def model(base, qkv, w1, w2):
        return K.compose_heads(base, *qkv.unbind(1), w1, w2, cu, SCALE, WINDOW)

    for f in (model, torch.compile(model, dynamic=False, fullgraph=True)):
        ours = [t.clone().requires_grad_() for t in (base, qkv, w1, w2)]
        with poisoned_memory():
            out = f(*ours)
            out.backward(grad)
        assert error(out, ref) < 5e-3
        assert error(out.float() - base.float(), ref - exact[0]) < 1e-2
        assert torch.equal(ours[0].grad, grad)
        for i, x in enumerate("qkv"):
            assert error(ours[1].grad[:, i], exact[1].grad[:, i]) < 1.5e-2, x
            assert abs(slope(ours[1].grad[:, i], exact[1].grad[:, i]) - 1) < 5e-3, x
        assert error(ours[2].grad, exact[2].grad) < 1.5e-2
        assert error(ours[3].grad, exact[3].grad) < 1.5e-2


@gpu
def test_gpu_composed_heads_repeat_to_the_bit(K: ModuleType, device: str) -> None:
    leaves, cu = inputs(49152, 6, 128, device), documents(49152, device)
    grad, runs = randn(49152, 6, 128, device=device), []
    for _ in range(3):
        ours = [t.clone().requires_grad_() for t in leaves]
        out = K.compose_heads(*ours, cu, SCALE, WINDOW)
        out.backward(grad)
        runs.append([out.detach(), *(t.grad for t in ours)])
    for again in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], again, strict=True))


@gpu
def test_gpu_composed_heads_in_validation(K: ModuleType, device: str) -> None:
    tokens = 262_144
    leaves, cu = inputs(tokens, 6, 128, device), documents(tokens, device)
    with torch.no_grad(), poisoned_memory():
        out = K.compose_heads(*leaves, cu, SCALE, WINDOW)
    part = slice(tokens - 4096, tokens)
    first = (K.first_keys(cu, tokens, WINDOW)[part] - part.start).clamp(min=0)
    base, q, k, v, w1, w2 = (t[part].float() for t in leaves)
    w1 = torch.nn.functional.rms_norm(w1, (6,), eps=1e-6)
    ref = K.compose_heads_reference(base, q, k, v, w1, w2, first, SCALE)
    assert error(out[part][128:], ref[128:]) < 5e-3
    off = K.compose_heads(*leaves[:5], 0 * leaves[5], cu, SCALE, WINDOW)
    assert torch.equal(off, leaves[0])


if __name__ == "__main__" and "--interpret" in sys.argv:
    run_interpreter_checks(CHECKS)
