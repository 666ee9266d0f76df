"""Gradients of looked-up tables (`sorted_tables`) of `candidates/small.py` against fp64 sums.

As tests/candidates/test_small_compose.py: the kernel in Triton's interpreter in a child process,
the PyTorch form on the CPU, the shapes of the run on a GPU (`-m gpu`).
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
    randn,
    results_in_interpreter,
    run_interpreter_checks,
)


def exact(grads: list[Any], found: Any, rows: int) -> Any:
    """Sums in fp64, in the order of the tokens."""
    out = torch.zeros(len(grads), rows, grads[0].size(1), dtype=torch.float64, device=found.device)
    for sums, grad in zip(out, grads, strict=True):
        sums.index_add_(0, found.long(), grad.double())
    return out.flatten(0, 1)


def found_rows(pattern: str, tokens: int, rows: int, device: str = "cpu") -> Any:
    """Row numbers (T,) int32 of a batch, shuffled."""
    lengths = {"once": 1, "a block": 64, "over borders": 63, "long": 150, "all": tokens}
    if pattern == "zipf":
        weights = 1 / torch.arange(1, rows + 1, device=device).double()
        some = torch.multinomial(weights, tokens, replacement=True)
        return torch.randperm(rows, device=device)[some].int()
    count = -(-tokens // lengths[pattern])
    names = torch.randperm(rows, device=device)[:count].repeat_interleave(lengths[pattern])
    return names[:tokens][torch.randperm(tokens, device=device)].int()


PATTERNS = ("once", "a block", "over borders", "long", "all", "zipf")


def gradient(K: ModuleType, grads: list[Any], found: Any, rows: int) -> Any:
    return K.table_gradient(grads, *torch.sort(found, stable=True), rows)


# ------------------------------------------------------- checks that run in Triton's interpreter


def check_against_sums(K: ModuleType) -> None:
    for pattern in PATTERNS:
        for tokens, dim, tables in ((300, 24, 1), (128, 192, 2), (65, 16, 5), (1, 130, 1)):
            found = found_rows(pattern, tokens, 400)
            grads = [randn(tokens, dim) for _ in range(tables)]
            out, ref = gradient(K, grads, found, 400), exact(grads, found, 400)
            assert out.dtype == torch.bfloat16
            assert error(out, ref) < 3e-3, (pattern, tokens)
            assert not out[ref.abs().sum(1) == 0].any(), "a row nobody looked up"


def check_sums_are_in_fp32(K: ModuleType) -> None:
    """A thousand equal numbers, whose sum in bf16 would stop at 256 times the first."""
    out = gradient(K, [torch.ones(1000, 16).bfloat16()], torch.full((1000,), 7).int(), 9)
    assert torch.equal(out[7], torch.full((16,), 1000.0).bfloat16())
    assert not out[:7].any()
    assert not out[8:].any()


def check_strided_gradients(K: ModuleType) -> None:
    found, wide = found_rows("zipf", 90, 50), randn(90, 64)
    out = gradient(K, [wide[:, :32], wide[:, 32:]], found, 50)
    assert torch.equal(out, gradient(K, [t.contiguous() for t in wide.split(32, 1)], found, 50))


def check_operator_contracts(K: ModuleType) -> None:
    from torch.library import opcheck

    some = ("test_schema", "test_faketensor")
    keys, order = torch.sort(found_rows("zipf", 40, 20), stable=True)
    opcheck(K.table_gradient, ([randn(40, 16)] * 2, keys, order, 20), test_utils=some)
    opcheck(K.row_taps, (randn(40, 16), keys, order, 2), test_utils=some)
    with pytest.raises(ValueError, match="6 tables at once"):
        K.table_gradient([randn(40, 16)] * 6, keys, order, 20)


CHECKS = {name[6:]: f for name, f in list(globals().items()) if name.startswith("check_")}


@pytest.fixture(scope="session")
def table_results() -> dict[str, str]:
    return results_in_interpreter(__file__)


@pytest.mark.parametrize("name", CHECKS)
def test_in_interpreter(name: str, table_results: dict[str, str]) -> None:
    assert not table_results[name], table_results[name]


# ------------------------------------------------------------------------------- plain torch, CPU


@pytest.fixture(scope="module")
def K() -> ModuleType:
    return load_kernels()


def test_pytorch_form_on_a_cpu(K: ModuleType) -> None:
    for pattern in PATTERNS:
        found = found_rows(pattern, 300, 400)
        grads = [torch.randn(300, 24) for _ in range(3)]
        assert error(gradient(K, grads, found, 400), exact(grads, found, 400)) < 1e-6


@pytest.mark.filterwarnings("ignore")  # the compiler warns about its own internals
@pytest.mark.parametrize("count", [1, 5])
def test_looked_up_rows_and_gradients_are_the_plain_ones(K: ModuleType, count: int) -> None:
    """Eager and compiled; the taps add nothing and take no memory."""
    table, found = torch.randn(count * 40, 12), found_rows("zipf", 100, 40)
    mix = torch.randn(count, 100, 12)
    (tap, *_) = K.row_taps(table, *torch.sort(found, stable=True), count)
    assert tap.shape == (100, 12)
    assert tap.untyped_storage().nbytes() == 4

    def run(table: Any, found: Any, sorted_tables: bool) -> Any:
        by = torch.sort(found, stable=True) if sorted_tables else None
        each = K.look_up(table, found, by, count)
        return torch.stack([(m * torch.tanh(e)) for m, e in zip(mix, each, strict=True)]).sum(
            (0, 2)
        )

    compiled = torch.compile(run, fullgraph=True, dynamic=False)
    results = []
    for fn in (run, compiled):
        for way in (False, True):
            leaf = table.clone().requires_grad_()
            out = fn(leaf, found, way)
            results.append((out.detach(), *torch.autograd.grad(out.sum(), leaf)))
    for out, grad in results[1:]:
        torch.testing.assert_close(out, results[0][0])
        torch.testing.assert_close(grad, results[0][1])


@pytest.mark.parametrize("changes", [{}, {"gated_mudd": True}, {"bigram": False}])
def test_the_model_learns_the_same(K: ModuleType, changes: dict[str, bool]) -> None:
    from tests.candidates.test_small_model import losses_of, random_model, some_batch
    from tests.candidates.tiny_small import tiny_config

    results = []
    for way in (False, True):
        cfg = tiny_config(sorted_tables=way, **changes)
        model, batch = random_model(cfg), some_batch(cfg)
        losses = losses_of(model, batch, torch.tensor([1.0, 0.5]))
        results.append((losses, *torch.autograd.grad(losses.sum(), list(model.parameters()))))
    for plain, other in zip(*results, strict=True):
        torch.testing.assert_close(other, plain)


# ---------------------------------------------------------------------------------------------- GPU


@pytest.mark.gpu
@pytest.mark.parametrize("tokens", [16_384, 49_152])
@pytest.mark.parametrize(("tables", "rows", "dim"), [(5, 50_304, 768), (1, 754_560, 192)])
def test_gpu_table_gradient(K: ModuleType, tokens: int, tables: int, rows: int, dim: int) -> None:
    """The value embeddings and the bigrams of a micro-batch; equal bits in a second call."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU here")
    found = found_rows("zipf", tokens, rows, "cuda")
    grads = [randn(tokens, dim, device="cuda") for _ in range(tables)]
    out = gradient(K, grads, found, rows)
    for table, grad in zip(out.split(rows), grads, strict=True):
        assert error(table, exact([grad], found, rows)) < 3e-3
    assert torch.equal(out, gradient(K, grads, found, rows))


if __name__ == "__main__" and "--interpret" in sys.argv:
    run_interpreter_checks(CHECKS)
