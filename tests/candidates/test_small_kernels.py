"""Kernels of `candidates/small.py` against fp32 and fp64 formulas, on fresh random inputs.

Three places: plain torch on the CPU; Triton's interpreter (a child process, because
TRITON_INTERPRET has to be set before Triton is imported) at small, ragged shapes; a GPU at the
shapes of the run (`-m gpu`). Errors are ||out - ref|| / ||ref||, which NaN never passes; memory
that a kernel allocates for its results is filled with NaN patterns before.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the training scripts need torch")

V, D, HIDDEN = 50304, 768, 3072
X_S, W_S, GRAD_S = 100 / 448, 1.6 / 448, 0.75 / 448


# ------------------------------------------------------------------------------------- loading


SCRIPT = Path(__file__).parents[2] / "candidates" / "small.py"


def load_kernels() -> ModuleType:
    # One module for all test files: its operators register by name, and the last one would win.
    if "small_candidate" in sys.modules:
        return sys.modules["small_candidate"]
    spec = importlib.util.spec_from_file_location("small_candidate", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses in the script look their module up
    spec.loader.exec_module(module)
    return module


# ------------------------------------------------------------------------------------- measures


def error(out: Any, ref: Any) -> float:
    out, ref = out.detach().double(), ref.detach().double()
    assert out.shape == ref.shape, (out.shape, ref.shape)
    return float((out - ref).norm() / ref.norm())


def slope(out: Any, ref: Any) -> float:
    """Least-squares factor between out and ref: a wrong scale shows here under the noise of FP8."""
    out, ref = out.detach().double(), ref.detach().double()
    return float((out * ref).sum() / (ref * ref).sum())


@contextlib.contextmanager
def poisoned_memory():
    """torch.empty hands out memory full of 0xFF: NaN in fp32, bf16, fp16, e4m3 and e5m2."""
    real = torch.empty, torch.empty_like

    def fill(t):
        if t.numel() and not isinstance(t, torch._subclasses.FakeTensor):
            t.untyped_storage().fill_(0xFF)
        return t

    torch.empty = lambda *a, **k: fill(real[0](*a, **k))
    torch.empty_like = lambda *a, **k: fill(real[1](*a, **k))
    try:
        yield
    finally:
        torch.empty, torch.empty_like = real


def poison(*shape: int, dtype: Any, device: str = "cpu") -> Any:
    with poisoned_memory():
        return torch.empty(*shape, dtype=dtype, device=device)


def randn(*shape: int, scale: float = 1.0, device: str = "cpu") -> Any:
    return (torch.randn(*shape, device=device) * scale).to(torch.bfloat16)


def closed_form(logits, targets, weights, grad_s, grad_scale, prefix=None, prefix_weight=0.0):
    """Losses and gradient / grad_s written out, independent of autograd, for the first rows of a
    batch: targets may be longer than logits (a batch's rows beyond this part)."""
    x = logits.to(torch.float64 if logits.device.type == "cpu" else torch.float32)
    rows = x.size(0)
    s = torch.sigmoid((x + 5.0) / 7.5)
    z = 23.0 * s
    lse = z.logsumexp(1)
    t = torch.arange(rows, device=x.device)
    losses, weight_sum = torch.zeros_like(lse), torch.zeros_like(lse)
    hits = torch.zeros_like(z)
    terms = [(t + k < targets.numel(), t + k, w) for k, w in enumerate(weights.tolist())]
    for there, index, w in terms:
        y = targets[index.clamp(max=targets.numel() - 1)]
        w = w * there.to(x.dtype)
        losses += w * (lse - z[t, y])
        weight_sum += w
        hits.index_put_((t, y), w, accumulate=True)
    if prefix is not None:
        w = prefix_weight * (prefix[:rows] >= 0).to(x.dtype)
        y = prefix[:rows].clamp(min=0)
        losses += w * (lse - z[t, y])
        weight_sum += w
        hits.index_put_((t, y), w, accumulate=True)
    p = torch.softmax(z, 1)
    grad = (weight_sum[:, None] * p - hits) * (23.0 / 7.5) * s * (1 - s)
    return losses, grad * (grad_scale / grad_s)


def cross_entropy(
    K, logits, targets, weights, grad_s, grad_scale, prefix=None, prefix_weight=None, fp8=True
):
    return K.cross_entropy_op(
        logits, targets, weights, prefix, prefix_weight, grad_s, grad_scale, fp8
    )


def quantize_up(up: Any) -> tuple[Any, Any]:
    """Up matrices (L, N, K) bf16 -> e4m3 and fp32 scales (L,), max|U| / 448 rounded to bf16."""
    scale = up.abs().amax(dim=(1, 2)) / 448
    return (up / scale[:, None, None]).to(torch.float8_e4m3fn), scale.float()


def e5m2(x: Any) -> Any:
    return x.float().clamp(-57344, 57344).to(torch.float8_e5m2).float()


# ------------------------------------------------------- checks that run in Triton's interpreter


def check_transposes(K: ModuleType) -> None:
    for dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.float32):
        for rows, cols in ((64, 128), (132, 72), (37, 61), (4, 260), (1, 5)):
            src = torch.randn(rows, cols).to(dtype)
            dst = poison(cols, rows, dtype=dtype)
            K.transpose_copy(src, dst)
            assert torch.equal(dst.float(), src.float().t()), (dtype, rows, cols)
            assert torch.equal(K.transposed(src).float(), src.float().t())
    src, dst = randn(70, 150), randn(150, 70)
    ref = (dst.float() + src.float().t()).to(torch.bfloat16)
    K.transpose_add(src, dst)
    assert torch.equal(dst, ref)
    with pytest.raises(ValueError, match="is not the transpose"):
        K.transpose_copy(src, torch.empty(70, 150, dtype=src.dtype))


def check_quantisers(K: ModuleType) -> None:
    with poisoned_memory():
        w = randn(70, 150, scale=3.0)
        w8, w8_t = K.quantize_both_layouts(w, 0.01)  # a tenth of the values saturate
        ref = (w.double() / 0.01).clamp(-448, 448)
        assert torch.equal(w8.float(), ref.to(torch.float8_e4m3fn).float())
        assert torch.equal(w8_t.float(), w8.float().t())
        down = randn(2, 130, 70)
        scale_next = torch.tensor([0.01, 0.002])
        used, amax = torch.empty(2), torch.empty(2, 3 * 2)
        down8_t = torch.empty(2, 70, 130, dtype=torch.float8_e4m3fn)
    K.quantize_down(down, scale_next, 1.12, down8_t, used, amax)
    ref = (down.double() / used[:, None, None]).clamp(-448, 448).to(torch.float8_e4m3fn)
    assert torch.equal(down8_t.float(), ref.float().mT)
    assert used.tolist() == pytest.approx([0.01, 0.002])
    assert torch.equal(amax.amax(1), down.abs().amax((1, 2)).float())
    assert torch.allclose(scale_next, down.abs().amax((1, 2)).float() * 1.12 / 448)


def check_linear_relu2(K: ModuleType) -> None:
    for tokens, width, hidden in ((40, 64, 144), (33, 96, 64), (1, 48, 80)):
        leaves = [randn(tokens, width), randn(hidden, width, scale=width**-0.5)]
        leaves += [randn(hidden, width, scale=hidden**-0.5)]
        ours = [t.clone().requires_grad_() for t in leaves]
        exact = [t.double().requires_grad_() for t in leaves]
        grad = randn(tokens, width)
        with poisoned_memory():
            out = K.linear_relu2(*ours)
            out.backward(grad)
        ref = torch.relu(exact[0] @ exact[1].t()).square() @ exact[2]
        ref.backward(grad.double())
        assert error(out, ref) < 8e-3
        for a, b in zip(ours, exact, strict=True):
            assert error(a.grad, b.grad) < 8e-3


def check_linear_relu2_fp8(K: ModuleType) -> None:
    x, up, down = randn(2, 20, 64), randn(144, 64, scale=1 / 8), randn(144, 64, scale=1 / 12)
    up8, sw = quantize_up(up[None])
    x_scale = float(x.abs().max()) / 448
    x8 = (x.float() / x_scale).to(torch.float8_e4m3fn)
    dequant = (sw * x_scale).reshape(1)
    ref = torch.relu((x8.double() * x_scale) @ (up8[0].double() * sw.double()).t()).square()
    leaves = [t.clone().requires_grad_() for t in (x, up, down)]
    with poisoned_memory():
        out = K.linear_relu2(*leaves, up8[0], x8, dequant)
        out.sum().backward()
    assert out.shape == x.shape
    assert error(out, ref @ down.double()) < 8e-3
    assert all(not t.grad.isnan().any() for t in leaves)
    scale = torch.tensor([float(ref.max()) / 300])  # well below 448: nothing saturates
    with poisoned_memory():
        post, post8, amax = K.relu2_up_fp8(x8.view(40, 64), up8[0], dequant, scale)
    ref = ref.view(40, 144)
    assert error(post, ref) < 4e-3
    assert error(post8.float() * scale, ref) < 0.05
    assert 0.98 < slope(post8.float() * scale, ref) < 1.02
    assert float(amax.max()) == pytest.approx(float(ref.max()), rel=1e-5)
    _, post8, _ = K.relu2_up_fp8(x8.view(40, 64), up8[0], dequant, scale / 4)
    assert float(post8.float().max()) == 448.0  # saturates instead of turning into NaN


def check_fp8_down(K: ModuleType) -> None:
    x, up, down = randn(40, 64), randn(144, 64, scale=1 / 8), randn(144, 64, scale=1 / 12)
    up8, sw = quantize_up(up[None])
    x_scale = float(x.abs().max()) / 448
    x8 = (x.float() / x_scale).to(torch.float8_e4m3fn)
    down_scale = K.exact_scale(down[None])
    down8_t = K.quantize_e4m3(down, down_scale).t().contiguous()
    leaves = [t.clone().requires_grad_() for t in (x, up, down)]
    exact = [t.double().requires_grad_() for t in (x, up, down)]
    grad = randn(40, 64)
    with poisoned_memory():
        out, amax = K.linear_relu2_fp8_down(
            *leaves, up8[0], x8, sw * x_scale, down8_t, down_scale, torch.tensor([0.1])
        )
        out.backward(grad)
    ref = torch.relu(exact[0] @ exact[1].t()).square() @ exact[2]
    ref.backward(grad.double())
    assert error(out, ref) < 0.08
    assert 0.97 < slope(out, ref) < 1.03
    assert all(error(a.grad, b.grad) < 0.08 for a, b in zip(leaves, exact, strict=True))
    assert K.delayed_scale(amax[None], 1.8).item() == pytest.approx(float(amax.max()) * 1.8 / 448)


def check_cross_entropy(K: ModuleType) -> None:
    # The row in registers with and without a tail; too long for that; not a multiple of eight.
    longest = 2 * K.ROW_CHUNK * (K.ROW_CHUNKS + 1)
    shapes = ((2 * 1024 * 3 + 200, 5, 3), (264, 4, 1), (2048, 3, 2), (V, 2, 3))
    for vocab, rows, n in (*shapes, (longest, 2, 1), (1001, 3, 2)):
        logits = randn(rows, vocab, scale=4.0)
        targets = torch.randint(vocab, (rows,))
        targets[1] = targets[0]  # two targets of row 0 share a column
        weights = torch.tensor([1.0, 0.5, 0.25])[:n]
        args = (logits, targets, weights, 0.001, 0.5)
        with poisoned_memory():
            losses, grad = cross_entropy(K, *args)
        ref_losses, ref_grad = closed_form(*args)
        assert grad.dtype == torch.float8_e5m2
        assert losses.dtype == torch.float32
        assert error(losses, ref_losses) < 1e-5, vocab
        assert error(grad.float(), e5m2(ref_grad)) < 0.03, vocab
        assert error(grad.float()[:, :128], e5m2(ref_grad)[:, :128]) < 0.3, vocab


def check_cross_entropy_targets(K: ModuleType) -> None:
    """All targets in one column, targets past the last token, saturation, the prefix term."""
    rows = 4
    for vocab in (1032, 1035):  # both kernels
        logits = randn(rows, vocab, scale=3.0)
        targets = torch.full((rows,), 7)
        weights = torch.tensor([1.0, 0.5, 0.25])
        prefix = torch.tensor([7, -1, 3, -1])
        args = (logits, targets, weights, 0.01, 1.0)
        losses, grad = cross_entropy(K, *args, prefix, torch.tensor([0.25]))
        ref_losses, ref_grad = closed_form(*args, prefix, 0.25)
        assert error(losses, ref_losses) < 1e-5
        assert error(grad.float(), e5m2(ref_grad)) < 0.03
        assert error(grad.float()[:, 7], e5m2(ref_grad)[:, 7]) < 1e-6
        # The last token has one target of three.
        alone, _ = closed_form(logits[3:], targets[3:], weights[:1], 0.01, 1.0)
        assert float(losses[3]) == pytest.approx(float(alone), rel=1e-5)
        losses, grad = cross_entropy(K, logits, targets, weights, 1e-7, 1.0)
        assert float(grad.float().abs().max()) == 57344.0
        assert grad.float().isfinite().all()


def check_cross_entropy_extreme_logits(K: ModuleType) -> None:
    """The fixed maximum of 23 has to hold for all-low, all-high and mixed rows."""
    for vocab in (520, 515):
        rows = torch.full((4, vocab), -30.0)
        rows[1], rows[2, ::2], rows[3, 5] = 40.0, 60.0, 8.0
        logits = rows.to(torch.bfloat16)
        args = (logits, torch.tensor([5, 5, 4, 5]), torch.tensor([1.0]), 1e-4, 1.0)
        losses, grad = cross_entropy(K, *args)
        ref_losses, ref_grad = closed_form(*args)
        assert torch.allclose(losses.double(), ref_losses, rtol=1e-4, atol=1e-4)
        assert error(grad.float(), e5m2(ref_grad)) < 0.03


def check_cross_entropy_bf16_gradient(K: ModuleType) -> None:
    logits, targets = randn(3, 1001, scale=3.0), torch.randint(1001, (3,))
    args = (logits, targets, torch.tensor([1.0, 0.5]), 1.0, 1.0)
    with poisoned_memory():
        losses, grad = cross_entropy(K, *args, fp8=False)
    ref_losses, ref_grad = closed_form(*args)
    assert grad.dtype == torch.bfloat16
    assert error(losses, ref_losses) < 1e-5
    assert error(grad, ref_grad) < 4e-3


def check_head(K: ModuleType) -> None:
    x, w = randn(40, 64), randn(64, 1032, scale=0.1)
    targets, weights = torch.randint(1032, (40,)), torch.tensor([1.0, 0.5])
    ours = [t.clone().requires_grad_() for t in (x, w)]
    exact = [t.double().requires_grad_() for t in (x, w)]
    with poisoned_memory():
        losses = K.fused_head_loss(*ours, targets, weights, X_S, W_S, GRAD_S, torch.tensor([1 / 8]))
        (losses.sum() / 8).backward()
    ref = K.mtp_cross_entropy_reference(exact[0] @ exact[1], targets, weights)
    (ref.sum() / 8).backward()
    assert error(losses, ref) < 0.02
    assert error(ours[0].grad, exact[0].grad) < 0.12
    assert error(ours[1].grad, exact[1].grad) < 0.12
    assert abs(slope(ours[1].grad, exact[1].grad) - 1) < 0.04


def check_compiled(K: ModuleType) -> None:
    """One graph (fullgraph, static shapes) through every operator, forward and backward, equal to
    eager: aot_eager runs the fakes, the functionalisation and the partitioner, not inductor."""

    def model(x, up, down, w, up8, scale, dequant, targets, weights):
        h = x * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-6).to(x.dtype)
        x8 = (h.float() / scale).clamp(-448, 448).to(torch.float8_e4m3fn)
        h = h + K.linear_relu2(h, up, down, up8, x8, dequant)
        h = h + K.linear_relu2(h, up, down)
        return K.fused_head_loss(h, w, targets, weights, X_S, W_S, GRAD_S, torch.ones(1))

    leaves = [randn(8, 64), randn(96, 64, scale=0.1), randn(96, 64, scale=0.1)]
    leaves += [randn(64, 520, scale=0.2)]
    up8, sw = quantize_up(leaves[1][None])
    rest = (up8[0], 0.02, sw * 0.02, torch.randint(520, (8,)), torch.tensor([1.0, 0.5]))
    results = []
    for f in (model, torch.compile(model, dynamic=False, fullgraph=True, backend="aot_eager")):
        ours = [t.clone().requires_grad_() for t in leaves]
        losses = f(*ours, *rest)
        losses.sum().backward()
        results.append([losses.detach(), *(t.grad for t in ours)])
    # Dynamo may round intermediates of the FP8 scaling differently: not bit for bit.
    assert all(error(a, b) < 0.02 for a, b in zip(*results, strict=True))

    def tie(head, embed_grad, head_grad, embed):
        K.transpose_add(embed_grad, head_grad)
        K.transpose_copy(head, embed)
        return head_grad * 2

    compiled = torch.compile(tie, dynamic=False, fullgraph=True, backend="aot_eager")
    head, embed_grad = randn(16, 40), randn(40, 16)
    head_grad, embed = torch.zeros(16, 40).bfloat16(), poison(40, 16, dtype=torch.bfloat16)
    assert torch.equal(compiled(head, embed_grad, head_grad, embed), 2 * embed_grad.t())
    assert torch.equal(embed, head.t())


def check_operator_contracts(K: ModuleType) -> None:
    """torch.library.opcheck: schema (what is mutated, nothing aliased) and fakes."""
    from torch.library import opcheck

    some = ("test_schema", "test_faketensor")
    a = randn(32, 64)
    opcheck(K.transpose_copy, (a, randn(64, 32)), test_utils=some)
    opcheck(K.transpose_add, (a, randn(64, 32)), test_utils=some)
    opcheck(K.transposed, (a,), test_utils=some)
    opcheck(K.quantize_both_layouts, (a, 0.1), test_utils=some)
    up, down = randn(48, 64), randn(48, 64)
    opcheck(K.relu2_mlp, (a, up, down, None, None, None), test_utils=some)
    opcheck(K.relu2_grad, (a, randn(48, 64), randn(32, 48).abs()), test_utils=some)
    a8 = K.quantize_e4m3(a, 0.01)
    b8 = K.quantize_e4m3(randn(48, 64), 0.01)
    one = torch.ones(1)
    fakes = ("test_faketensor",)  # the schema test cannot compare FP8 inputs before and after
    mlp8 = (a, up, down, b8, a8, one)
    opcheck(K.relu2_mlp, mlp8, test_utils=fakes)
    down8_t = K.quantize_e4m3(down, 0.01).t().contiguous()
    opcheck(K.relu2_mlp_fp8, (*mlp8, down8_t, one, one), test_utils=fakes)
    opcheck(K.fp8_mm, (a8, b8.t(), one, one, True), test_utils=fakes)
    opcheck(K.fp8_mm_static, (a8, b8.t(), 0.1, 0.2, False), test_utils=fakes)
    args = (randn(4, 520), torch.randint(520, (4,)), torch.ones(2), None, None)
    opcheck(K.cross_entropy_op, (*args, 1.0, 1.0, True), test_utils=some)
    opcheck(K.with_gradients, (torch.ones(32), a, up, a, up), test_utils=some)


CHECKS = {name[6:]: f for name, f in list(globals().items()) if name.startswith("check_")}


# ------------------------------------------------------------------------- the interpreter's child


def repair_interpreter() -> None:
    """Triton 3.6 and 3.7 interpret on numpy, which has neither bf16 nor FP8: conversions drop the
    carry when a mantissa rounds up (0.119 becomes 0.0625 in e5m2) and round bf16 towards zero, and
    dot multiplies bf16's bit patterns as integers. Conversions by torch, dots in fp32 instead."""
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter as interpreter

    names = {
        tl.float32: (torch.float32, np.float32),
        tl.float16: (torch.float16, np.float16),
        tl.bfloat16: (torch.bfloat16, np.uint16),
        tl.float8e5: (torch.float8_e5m2, np.uint8),
        tl.float8e4nv: (torch.float8_e4m3fn, np.uint8),
    }

    def convert(data: Any, source: Any, target: Any, rounding_mode: Any) -> Any:
        signed = {2: torch.int16, 4: torch.int32, 1: torch.uint8}
        (from_torch, _), (to_torch, to_numpy) = names[source], names[target]
        raw = np.ascontiguousarray(data)
        size = raw.dtype.itemsize
        bits = torch.from_numpy(raw.view({1: np.uint8, 2: np.int16, 4: np.int32}[size]).copy())
        out = bits.view(from_torch).to(to_torch)
        return out.view(signed[out.element_size()]).numpy().view(to_numpy)

    def dot(self: Any, a: Any, b: Any, d: Any, precision: Any, imprecise: Any) -> Any:
        x, y = (
            convert(t.data, t.dtype.scalar, tl.float32, None)
            if t.dtype.scalar != tl.float32
            else t.data
            for t in (a, b)
        )
        return interpreter.TensorHandle(np.matmul(x, y) + d.data, d.dtype.scalar)

    interpreter._convert_float = convert
    interpreter.InterpreterBuilder.create_dot = dot


def run_interpreter_checks(checks: dict[str, Callable[[ModuleType], None]]) -> None:
    """In the child: each check, from a seed that its failure names."""
    torch.set_num_threads(1)
    repair_interpreter()
    K = load_kernels()
    assert K.INTERPRET
    results = {}
    for name, check in checks.items():
        torch.manual_seed(int.from_bytes(os.urandom(4), "little"))
        seed = torch.initial_seed()
        try:
            check(K)
            results[name] = ""
        except Exception:
            results[name] = f"seed {seed}\n{traceback.format_exc()}"
    print("RESULTS " + json.dumps(results))


def results_in_interpreter(file: str) -> dict[str, str]:
    """What went wrong in each check of a test file, run as a child in Triton's interpreter."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    child = subprocess.run(
        [sys.executable, file, "--interpret"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = [x for x in child.stdout.splitlines() if x.startswith("RESULTS ")]
    assert lines, f"the interpreter process died\n{child.stdout[-3000:]}\n{child.stderr[-3000:]}"
    results: dict[str, str] = json.loads(lines[-1].removeprefix("RESULTS "))
    if any("only 0-dimensional arrays" in text for text in results.values()):
        pytest.skip("this Triton's interpreter cannot run loops on this numpy (3.6 with >= 2.4)")
    return results


@pytest.fixture(scope="session")
def interpreter_results() -> dict[str, str]:
    return results_in_interpreter(__file__)


@pytest.mark.parametrize("name", CHECKS)
def test_in_interpreter(name: str, interpreter_results: dict[str, str]) -> None:
    assert not interpreter_results[name], interpreter_results[name]


# ------------------------------------------------------------------------------- plain torch, CPU


@pytest.fixture(scope="module")
def K() -> ModuleType:
    return load_kernels()


def test_operators_on_a_cpu_without_kernels(K: ModuleType) -> None:
    if K.INTERPRET:
        pytest.skip("TRITON_INTERPRET is set for this process")
    check_quantisers(K)
    check_fp8_down(K)
    logits, targets = randn(4, 100, scale=3.0), torch.randint(100, (4,))
    args = (logits, targets, torch.tensor([1.0, 0.5]), 0.01, 1.0)
    losses, grad = cross_entropy(K, *args)
    ref_losses, ref_grad = closed_form(*args)
    assert error(losses, ref_losses) < 1e-5
    assert error(grad.float(), e5m2(ref_grad)) < 1e-3


def test_head_and_mlp_on_a_cpu_train_like_plain_torch(K: ModuleType) -> None:
    if K.INTERPRET:
        pytest.skip("TRITON_INTERPRET is set for this process")
    x, w = torch.randn(6, 16), torch.randn(16, 50) * 0.3
    up, down = torch.randn(32, 16) / 4, torch.randn(32, 16) / 4
    targets, weights = torch.randint(50, (6,)), torch.tensor([1.0, 0.5, 0.25])

    def ours(x, up, down, w):
        h = x + K.linear_relu2(x, up, down)
        scale = torch.full((1,), 0.25)
        return K.fused_head_loss(h, w, targets, weights, X_S, W_S, GRAD_S, scale)

    leaves = [t.requires_grad_() for t in (x, up, down, w)]
    compiled = torch.compile(ours, dynamic=False, fullgraph=True, backend="aot_eager")
    grads = []
    for f in (ours, compiled):
        grads.append(torch.autograd.grad((f(*leaves).sum() * 0.25), leaves))
    h = (x + torch.relu(x @ up.t()).square() @ down).double()
    losses, grad = closed_form((h @ w.double()).detach(), targets, weights, 1.0, 0.25)
    assert error(ours(*leaves).detach(), losses) < 1e-5
    assert error(grads[0][3], h.t().detach() @ grad) < 1e-5
    assert all(error(a, b) < 1e-5 for a, b in zip(*grads, strict=True))


def test_gradient_formula_is_the_derivative_of_the_losses(K: ModuleType) -> None:
    x = torch.randn(6, 40, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(40, (6,))
    targets[2] = targets[1]
    weights, prefix = (
        torch.tensor([1.0, 0.5, 0.25]),
        torch.tensor([3, -1, int(targets[2]), 0, 1, 2]),
    )
    losses = K.mtp_cross_entropy_reference(x, targets, weights, prefix, torch.tensor([0.25]))
    (exact,) = torch.autograd.grad(losses.sum() * 0.5, x)
    args = (x.detach(), targets, weights, 0.125, 0.5)
    by_formula, grad = closed_form(*args, prefix, 0.25)
    assert error(by_formula, losses) < 1e-12
    assert error(grad * 0.125, exact) < 1e-12
    ours = K.softcapped_mtp_cross_entropy_reference(*args, prefix, torch.tensor([0.25]))
    assert error(ours[0], losses) < 1e-12
    assert error(ours[1] * 0.125, exact) < 1e-12


def test_prefix_term_is_off_at_minus_one(K: ModuleType) -> None:
    logits, targets, weights = torch.randn(5, 30), torch.randint(30, (5,)), torch.tensor([1.0])
    none = torch.full((5,), -1)
    plain = K.mtp_cross_entropy_reference(logits, targets, weights)
    with_prefix = K.mtp_cross_entropy_reference(
        logits, targets, weights, none, torch.tensor([0.25])
    )
    assert torch.equal(plain, with_prefix)


def test_first_loss_of_a_uniform_head(K: ModuleType) -> None:
    """All logits equal: ln 50304 = 10.8258 nats, whatever the soft cap."""
    loss = K.mtp_cross_entropy_reference(torch.zeros(1, V), torch.tensor([3]), torch.tensor([1.0]))
    assert float(loss) == pytest.approx(10.8258, abs=1e-4)


# ------------------------------------------------------------------------------------------- GPU

gpu = pytest.mark.gpu


@pytest.fixture
def device() -> str:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    torch.cuda.empty_cache()
    return "cuda"


def needs(K: ModuleType, what: str) -> None:
    if what == "fp8" and not K.has_fp8():
        pytest.skip("FP8 needs compute capability 8.9")
    if what == "tma" and not K.has_tma():
        pytest.skip("the fused MLP kernel needs compute capability 9.0")


@gpu
@pytest.mark.parametrize(("rows", "cols"), [(16384, V), (49152, V), (32768, D), (1000, 777)])
def test_gpu_transposes(K: ModuleType, device: str, rows: int, cols: int) -> None:
    src = torch.randint(0, 255, (rows, cols), device=device, dtype=torch.uint8)
    dst = poison(cols, rows, dtype=torch.uint8, device=device)
    K.transpose_copy(src, dst)  # beyond 2^31 elements at (49152, V)
    assert torch.equal(dst, src.t())


@gpu
def test_gpu_tie_transposes(K: ModuleType, device: str) -> None:
    head, embed = randn(D, V, device=device), poison(V, D, dtype=torch.bfloat16, device=device)
    K.transpose_copy(head, embed)
    assert torch.equal(embed, head.t())
    grad = randn(D, V, device=device)
    ref = (grad.float() + embed.float().t()).to(torch.bfloat16)
    K.transpose_add(embed, grad)
    assert torch.equal(grad, ref)


@gpu
@pytest.mark.parametrize("tokens", [16384, 32768, 49152, 1000])
def test_gpu_linear_relu2(K: ModuleType, device: str, tokens: int) -> None:
    needs(K, "tma")
    leaves = [randn(tokens, D, device=device), randn(HIDDEN, D, scale=0.03, device=device)]
    leaves += [randn(HIDDEN, D, scale=0.02, device=device)]
    ours = [t.clone().requires_grad_() for t in leaves]
    exact = [t.float().requires_grad_() for t in leaves]
    grad = randn(tokens, D, device=device)
    with poisoned_memory():
        out = K.linear_relu2(*ours)
        out.backward(grad)
    ref = torch.relu(exact[0] @ exact[1].t()).square() @ exact[2]
    ref.backward(grad.float())
    assert error(out, ref) < 8e-3
    for a, b in zip(ours, exact, strict=True):
        assert error(a.grad, b.grad) < 1e-2


@gpu
def test_gpu_linear_relu2_fp8(K: ModuleType, device: str) -> None:
    needs(K, "tma")
    x, up = randn(16384, D, device=device), randn(HIDDEN, D, scale=0.03, device=device)
    down = randn(HIDDEN, D, scale=0.02, device=device)
    up8, sw = quantize_up(up[None])
    x_scale = float(x.abs().max()) / 448
    x8 = (x.float() / x_scale).to(torch.float8_e4m3fn)
    ref = torch.relu((x8.float() * x_scale) @ (up8[0].float() * sw).t()).square()
    out = K.linear_relu2(x, up, down, up8[0], x8, sw * x_scale)
    assert error(out, ref @ down.float()) < 8e-3
    post_scale = ref.amax().reshape(1) / 300
    with poisoned_memory():
        post, post8, amax = K.relu2_up_fp8(x8, up8[0], sw * x_scale, post_scale)
    assert error(post, ref) < 4e-3
    assert abs(slope(post8.float() * post_scale, ref) - 1) < 5e-3
    assert float(amax.max()) == pytest.approx(float(ref.max()), rel=1e-3)
    down_scale = K.exact_scale(down[None])
    down8_t = K.quantize_e4m3(down, down_scale).t().contiguous()
    leaves = [t.clone().requires_grad_() for t in (x, up, down)]
    out, _ = K.linear_relu2_fp8_down(
        *leaves, up8[0], x8, sw * x_scale, down8_t, down_scale, post_scale
    )
    out.sum().backward()
    assert error(out.detach(), ref @ down.float()) < 0.06
    assert all(not t.grad.isnan().any() for t in leaves)


@gpu
def test_gpu_down_quantiser(K: ModuleType, device: str) -> None:
    needs(K, "fp8")
    down = randn(12, HIDDEN, D, scale=0.02, device=device)
    scale_next, scale0 = K.exact_scale(down) * 0.7, K.exact_scale(down) * 0.7
    with poisoned_memory():
        down8_t = torch.empty(12, D, HIDDEN, dtype=torch.float8_e4m3fn, device=device)
        used, amax = torch.empty(12, device=device), torch.empty(12, 576, device=device)
    K.quantize_down(down, scale_next, 1.12, down8_t, used, amax)
    ref = (down.float() / scale0[:, None, None]).clamp(-448, 448).to(torch.float8_e4m3fn)
    assert error(down8_t.float(), ref.float().mT) < 1e-3
    assert torch.equal(used, scale0)
    assert torch.allclose(scale_next, K.exact_scale(down) * 1.12, rtol=1e-5)


@gpu
@pytest.mark.parametrize(("tokens", "n"), [(16384, 3), (32768, 2), (49152, 1)])
def test_gpu_cross_entropy(K: ModuleType, device: str, tokens: int, n: int) -> None:
    needs(K, "fp8")
    logits = randn(tokens, V, scale=3.0, device=device)
    targets = torch.randint(V, (tokens,), device=device)
    targets[100:200] = 11  # duplicates among the targets of a row
    weights = torch.tensor([1.0, 0.5, 0.25], device=device)[:n]
    prefix = torch.randint(-1, V, (tokens,), device=device)
    prefix[:4096:2] = -1
    prefix[100:150] = 11
    extra = (prefix, torch.tensor([0.25], device=device)) if n == 3 else ()
    with poisoned_memory():
        losses, grad = cross_entropy(K, logits, targets, weights, GRAD_S, 1.0, *extra)
    for a in range(0, tokens, 4096):
        part = (logits[a : a + 4096], targets[a:], weights, GRAD_S, 1.0)
        ref_losses, ref_grad = closed_form(*part, *((prefix[a:], 0.25) if extra else ()))
        ours = grad[a : a + 4096].float()
        assert error(losses[a : a + 4096], ref_losses) < 1e-3, a
        assert error(ours, ref_grad) < 0.09, a
        assert abs(slope(ours, ref_grad) - 1) < 0.01, a
        t = torch.arange(ours.size(0), device=device)
        y = targets[a : a + 4096]
        assert error(ours[t, y], ref_grad[t, y]) < 0.09, a
        # Without the targets' columns, which dominate the norm: every other column.
        ours[t, y], ref_grad[t, y] = 0.0, 0.0
        assert abs(slope(ours, ref_grad) - 1) < 0.02, a


@gpu
@pytest.mark.parametrize("tokens", [4096, 16384])
def test_gpu_head_gradients(K: ModuleType, device: str, tokens: int) -> None:
    """Against fp32 autograd: the error is that of e4m3 operands and an e5m2 gradient."""
    x = randn(tokens, D, device=device)
    w = randn(D, V, scale=0.05, device=device)
    targets = torch.randint(V, (tokens,), device=device)
    weights = torch.tensor([1.0, 0.5], device=device)
    exact = [t.float().requires_grad_() for t in (x, w)]
    ref = K.mtp_cross_entropy_reference(exact[0] @ exact[1], targets, weights)
    ref.sum().backward()

    def head(x, w):
        return K.fused_head_loss(
            x, w, targets, weights, X_S, W_S, GRAD_S, torch.ones(1, device=device)
        )

    for f in (head, torch.compile(head, dynamic=False, fullgraph=True)):
        ours = [t.clone().requires_grad_() for t in (x, w)]
        losses = f(*ours)
        losses.sum().backward()
        assert error(losses.detach(), ref) < 0.02
        for a, b in zip(ours, exact, strict=True):
            assert error(a.grad, b.grad) < 0.12
            assert abs(slope(a.grad, b.grad) - 1) < 0.02


if __name__ == "__main__" and "--interpret" in sys.argv:
    run_interpreter_checks(CHECKS)


def test_compiled_graphs_can_be_cached(K: ModuleType) -> None:
    """A torch.autograd.Function in the graph keeps it out of AOTAutograd's cache: every start then
    traces it anew."""
    from torch._functorch._aot_autograd.autograd_cache import check_cacheable

    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    def model(x, up, down, w, targets, weights, scale):
        h = x + K.linear_relu2(x, up, down)
        return K.with_gradients(K.fused_head_loss(h, w, targets, weights, *scale), h, w, h, w)

    leaves = [torch.randn(s).requires_grad_() for s in ((6, 16), (32, 16), (32, 16), (16, 50))]
    rest = (torch.randint(50, (6,)), torch.ones(1), (X_S, W_S, GRAD_S, torch.ones(1)))
    torch.compile(model, dynamic=False, fullgraph=True, backend=backend)(*leaves, *rest)
    for graph in graphs:
        check_cacheable(graph)
    assert len(graphs) == 1
    assert "(torch.autograd.Function)" not in Path(K.__file__).read_text()
