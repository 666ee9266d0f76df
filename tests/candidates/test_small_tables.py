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


def gradient(
    K: ModuleType, grads: list[Any], found: Any, rows: int, before: Any | None = None
) -> Any:
    """What add_rows leaves where there was nothing, or `before`."""
    shape = len(grads) * rows, grads[0].size(1)
    out = torch.zeros(shape, dtype=grads[0].dtype, device=found.device)
    if before is not None:
        out.copy_(before)
    K.add_rows(out, grads, *torch.sort(found, stable=True))
    return out


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


def check_added_to_what_is_there(K: ModuleType) -> None:
    """One rounding of the old and the new together; rows nobody looked up keep their bits."""
    found, grads = found_rows("zipf", 200, 90), [randn(200, 24) for _ in range(2)]
    before = randn(180, 24, scale=3.0)
    out = gradient(K, grads, found, 90, before)
    ref = before.double() + exact(grads, found, 90)
    assert error(out, ref) < 3e-3
    untouched = exact(grads, found, 90).abs().sum(1) == 0
    assert untouched.any()
    assert torch.equal(out[untouched], before[untouched])


def check_too_many_tables(K: ModuleType) -> None:
    with pytest.raises(ValueError, match="6 tables at once"):
        gradient(K, [randn(40, 16)] * 6, found_rows("zipf", 40, 20), 20)


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


@pytest.mark.parametrize(
    ("compiled", "changes"),
    [(False, {}), (False, {"gated_mudd": True}), (False, {"bigram": False}), (True, {})],
)
@pytest.mark.filterwarnings("ignore")  # the compiler warns about its own internals
def test_the_model_learns_the_same(K: ModuleType, compiled: bool, changes: dict[str, bool]) -> None:
    """Two passes, the second added to the first: gradients of every parameter as without taps, and
    the tables' in the same memory."""
    from tests.candidates.test_small_model import losses_of, random_model, some_batch
    from tests.candidates.tiny_small import tiny_config

    cfg = tiny_config(**changes)
    batch, results = some_batch(cfg), []
    for way in (False, True):
        model = random_model(cfg)
        tables = K.TableGradients(model) if way else None
        run: Any = model
        if compiled:
            run = torch.compile(model, fullgraph=True, dynamic=False, backend="aot_eager")

        def losses(*inputs: Any, taps: Any = None, run: Any = run) -> Any:
            return losses_of(lambda *given: run(*given, taps=taps), batch, inputs[4])

        inputs = [*batch[:4], torch.tensor([1.0, 0.5])]
        for _ in range(2):
            K.plain_pass(losses, inputs, 0.7, tables)
        if tables is not None:
            assert tables.begun()
            for p, grad in zip(tables.params, tables.grads, strict=True):
                assert p.grad is grad
            (tap, *_) = K.flat(tables.taps(100))
            assert tap.untyped_storage().nbytes() == tap.element_size()
        results.append({n: p.grad for n, p in model.named_parameters()})
        assert all(g is not None and g.abs().sum() > 0 for g in results[-1].values() if way)
    for name, plain in results[0].items():
        torch.testing.assert_close(results[1][name], plain, msg=name)


def test_a_new_cycle_begins_from_nothing(K: ModuleType) -> None:
    from tests.candidates.test_small_model import losses_of, random_model, some_batch
    from tests.candidates.tiny_small import tiny_config

    cfg = tiny_config()
    model, batch = random_model(cfg), some_batch(cfg)
    tables = K.TableGradients(model)

    def losses(*inputs: Any, taps: Any = None) -> Any:
        return losses_of(lambda *given: model(*given, taps=taps), batch, inputs[4])

    inputs, seen = [*batch[:4], torch.tensor([1.0])], []
    for _ in range(2):
        K.plain_pass(losses, inputs, 1.0, tables)
        seen.append([grad.clone() for grad in tables.grads])
        model.zero_grad(set_to_none=True)
        assert not tables.begun()
    assert all(map(torch.equal, *seen))


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
