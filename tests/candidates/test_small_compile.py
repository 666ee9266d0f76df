"""Every Triton kernel of `candidates/small.py`, compiled for a Hopper GPU on a machine without one.

Triton's interpreter runs what its compiler refuses (a name that is a tile before an `if` and a
pointer in it, say). Here the launches of a run, on tensors of record size without memory, are
caught and compiled to machine code for compute capability 9.0, with the very constants, warps and
stages they would be started with; ptxas and cuobjdump come with Triton. What a launch would need
beyond registers and shared memory is a defect too: spilled registers are reads and writes that
nobody counted.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the training scripts need torch")
triton = pytest.importorskip("triton", reason="Triton is not installed")

from tests.candidates.test_small_kernels import load_kernels  # noqa: E402

T, D, V, H, C, HIDDEN = 49_152, 768, 50_304, 6, 128, 3072
SHARED_BYTES = 232_448  # that a block can have on Hopper
# Spilled bytes of a thread that pass: the cross entropy of three targets and a prefix needs 255
# registers, and Triton 3.7's ptxas wants two more (3.6's does not).
SPILLED_BYTES = 8
TYPES = {
    torch.bfloat16: "bf16", torch.float32: "fp32", torch.int32: "i32", torch.int64: "i64",
    torch.int16: "i16", torch.uint8: "u8", torch.float8_e4m3fn: "fp8e4nv",
    torch.float8_e5m2: "fp8e5",
}  # fmt: skip
LAUNCH = ("num_warps", "num_stages", "maxnreg")


class Caught:
    """Stands in for a kernel: notes what it is launched with."""

    def __init__(self, kernel: Any, launches: list[tuple[Any, dict[str, Any], dict[str, Any]]]):
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        assert all(0 < n < 2**31 for n in grid)
        assert all(n < 65_536 for n in grid[1:])

        def launch(*args: Any, **given: Any) -> None:
            options = {name: given.pop(name) for name in LAUNCH if name in given}
            named = dict(zip(self.kernel.arg_names, args, strict=False)) | given
            self.launches.append((self.kernel, named, options))

        return launch


def signature_of(kernel: Any, named: dict[str, Any]) -> tuple[dict, dict, dict]:
    """Types, constants and divisibility by 16 of the arguments, as Triton's launcher finds them."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    assert set(named) == set(kernel.arg_names)
    constant = {p.name for p in kernel.params if p.is_constexpr}
    types, constants, attributes = {}, {}, {}
    for number, name in enumerate(kernel.arg_names):
        value = named[name]
        if name in constant:
            types[name], constants[(number,)] = "constexpr", value
        elif isinstance(value, TensorDescriptor):
            block = ",".join(map(str, value.block_shape))
            types[name] = f"tensordesc<{TYPES[value.base.dtype]}[{block}]>"
        elif isinstance(value, torch.Tensor):
            types[name] = "*" + TYPES[value.dtype]
            attributes[(number,)] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            types[name] = "fp32"
        elif value == 1:
            types[name], constants[(number,)] = "constexpr", 1
        else:
            types[name] = "i32"
            if value % 16 == 0:
                attributes[(number,)] = [["tt.divisibility", 16]]
    return types, constants, attributes


def compiled(kernel: Any, named: dict[str, Any], options: dict[str, Any]) -> Any:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types, constants, attributes = signature_of(kernel, named)
    source = ASTSource(kernel, signature=types, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def stack_bytes(binary: bytes, folder: Path) -> int:
    """Bytes a thread keeps outside of its registers."""
    path = folder / "kernel.cubin"
    path.write_bytes(binary)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    told = subprocess.run(
        [tool, "--dump-resource-usage", path], capture_output=True, text=True, check=True
    ).stdout
    found = re.findall(r"STACK:(\d+).* LOCAL:(\d+)", told)
    assert len(found) == 1, told
    return sum(map(int, found[0]))


def empty(*shape: int, dtype: Any = torch.bfloat16) -> Any:
    return torch.empty(shape, dtype=dtype, device="meta")


def plain(operator: Any) -> Callable[..., Any]:
    """What a custom operator runs on a GPU; called itself on such tensors, it runs its fake."""
    return operator._init_fn


def fp8(*shape: int) -> Any:
    return empty(*shape, dtype=torch.float8_e4m3fn)


def numbers(*shape: int) -> Any:
    return empty(*shape, dtype=torch.float32)


def indices(*shape: int, dtype: Any = torch.int64) -> Any:
    return empty(*shape, dtype=dtype)


def transposes(K: ModuleType) -> None:
    plain(K.transpose_copy)(empty(D, V), empty(V, D))
    plain(K.transpose_copy)(fp8(T, V), fp8(V, T))
    plain(K.transpose_add)(empty(V, D), empty(D, V))


def casts(K: ModuleType) -> None:
    plain(K.quantize_both_layouts)(empty(D, V), 0.01)
    tiles = (HIDDEN // K.DOWN_TILE) * (D // K.DOWN_TILE)
    K.quantize_down(
        empty(12, HIDDEN, D), numbers(12), 1.12, fp8(12, D, HIDDEN), numbers(12), numbers(12, tiles)
    )


def tables(K: ModuleType) -> None:
    sorted_rows = indices(T, dtype=torch.int32), indices(T)
    for count, rows, width in ((5, V, D), (1, V, D), (1, 15 * V, 192)):
        K.add_rows(empty(count * rows, width), [empty(T, width)] * count, *sorted_rows)


def mlp(K: ModuleType) -> None:
    K.relu2_up(fp8(T, D), fp8(HIDDEN, D), numbers(1))
    K.relu2_up(empty(T, D), empty(HIDDEN, D), None)
    K.relu2_up_fp8(fp8(T, D), fp8(HIDDEN, D), numbers(1), numbers(1))
    plain(K.relu2_grad)(empty(T, D), empty(HIDDEN, D), empty(T, HIDDEN))


def cross_entropies(K: ModuleType) -> None:
    for weights, prefix in ((3, True), (2, True), (1, False), (3, False)):
        more = (indices(T), numbers(1)) if prefix else (None, None)
        plain(K.cross_entropy_op)(
            empty(T, V), indices(T), numbers(weights), *more, 0.75 / 448, 1.0, True
        )
    plain(K.cross_entropy_op)(
        empty(T, V), indices(T), numbers(1), None, None, 0.75 / 448, 1.0, False
    )


def heads(K: ModuleType) -> None:
    one, other = empty(T, H, C), empty(T, H, C)
    for paired, offset, added, tapped in (
        (True, False, False, False),
        (True, False, True, False),
        (False, False, True, True),
        (False, True, False, True),
        (False, True, True, False),
    ):
        cos, qkv = empty(T, 2 * C if paired else C), empty(T, 3 * D)
        extra = one if added else None
        plain(K.prepare_heads_op)(qkv, extra, cos, cos, H, offset, tapped)
        grads = one, one, one, one if tapped else None
        plain(K.prepare_heads_grad)(*grads, qkv, cos, cos, offset, added)
    for xsa, gate in (
        (None, empty(T, H)),
        (empty(H), empty(T, H)),
        (empty(T, H), None),
        (empty(T, 2 * H)[:, :H], empty(T, 2 * H)[:, H:]),
    ):
        plain(K.finish_heads_op)(one, other, None, xsa, gate)
        plain(K.finish_heads_grad)(empty(T, D), one, other, xsa, gate)


def composition(K: ModuleType) -> None:
    base, q, k, v = (empty(T, H, C) for _ in range(4))
    w1, w2 = empty(T, H), empty(T, H)
    first, scale = indices(T, dtype=torch.int32), torch.tensor(0.1)
    for keep in (True, False):
        _, mix, lse = plain(K.compose_forward)(base, q, k, v, w1, w2, first, scale, 112, keep)
        if keep:
            plain(K.compose_backward)(base, q, k, v, w1, w2, first, mix, lse, scale, 112)


CALLS = (transposes, casts, tables, mlp, cross_entropies, heads, composition)


@pytest.fixture(scope="module")
def K() -> ModuleType:
    return load_kernels()


def caught_launches(
    K: ModuleType, call: Callable[[ModuleType], None], patch: pytest.MonkeyPatch
) -> list[tuple[Any, dict[str, Any], dict[str, Any]]]:
    launches: list[tuple[Any, dict[str, Any], dict[str, Any]]] = []
    for name, value in list(vars(K).items()):
        if name.endswith("_kernel") and isinstance(value, triton.runtime.JITFunction):
            patch.setattr(K, name, Caught(value, launches))
    patch.setattr(K, "uses_kernel", lambda x: True)
    patch.setattr(K, "programs_at_once", lambda x: 132)
    patch.setattr(torch.Tensor, "data_ptr", lambda self: 0)  # of a descriptor's base: aligned
    call(K)
    return launches


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Triton's wheels with ptxas are for Linux")
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_kernels_compile_for_hopper(
    call: Callable[[ModuleType], None], K: ModuleType, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    with monkeypatch.context() as patch:
        launches = caught_launches(K, call, patch)
    assert launches
    for kernel, named, options in launches:
        machine_code = compiled(kernel, named, options)
        name = f"{kernel.fn.__name__} {options}"
        assert machine_code.metadata.shared <= SHARED_BYTES, name
        assert stack_bytes(machine_code.asm["cubin"], tmp_path) <= SPILLED_BYTES, name


def test_every_kernel_is_among_them(K: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    for call in CALLS:
        with monkeypatch.context() as patch:
            seen |= {kernel.fn.__name__ for kernel, *_ in caught_launches(K, call, patch)}
    kernels = {
        value.fn.__name__
        for name, value in vars(K).items()
        if name.endswith("_kernel") and isinstance(value, triton.runtime.JITFunction)
    }
    assert seen == kernels
    assert len(kernels) > 12


def test_what_the_interpreter_lets_pass_is_found(tmp_path: Path) -> None:
    """The defect that was: a tile's name, in a block of its own, for a pointer."""
    source = tmp_path / "defect.py"
    source.write_text(
        "import triton\nimport triton.language as tl\n\n\n@triton.jit\ndef defect_kernel(p, n):\n"
        "    at = tl.arange(0, 64)\n    if tl.load(p) > 0:\n        at = p + at\n"
        "        tl.store(at, 1.0)\n"
    )
    import importlib.util

    spec = importlib.util.spec_from_file_location("defect", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(Exception, match="redefines it as pointer"):
        compiled(module.defect_kernel, {"p": numbers(64), "n": 64}, {"num_warps": 4})
