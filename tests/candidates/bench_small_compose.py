"""Times the composed heads of `candidates/small.py` (record #85) on one GPU.

    python bench_compose.py            one H200: about two minutes
    python bench_compose.py --dry      a CPU, in Triton's interpreter, at tiny shapes

Every row is checked against the PyTorch form in fp32 (||out - ref|| / ||ref||) and then timed
(median of a CUDA graph's replays; the tensors are larger than L2). Per kernel: every launch
configuration of TILES; then forward and backward as the model calls them, compiled, against
torch.compile of the PyTorch form.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

WINDOW, SCALE = 112, 0.1

# (heads a program, warps, stages, registers at most) of each kernel; the first is the file's own.
# mix at 128 registers and dq at 168 spill some 20 registers for one program more a multiprocessor.
TILES = {
    "mix": [(6, 16, 2, None), (6, 16, 1, None), (6, 8, 2, None), (6, 8, 1, 128)],
    "out": [(1, 4, 1, None), (1, 8, 1, None), (6, 4, 2, None), (3, 8, 2, None)],
    "mix_grad": [(6, 16, 2, None), (6, 16, 1, None), (6, 8, 2, None), (6, 8, 1, None)],
    "dq": [(1, 4, 1, None), (1, 4, 1, 168), (6, 4, 2, None)],
    "dk": [(1, 4, 1, 168), (1, 4, 1, None), (6, 4, 2, None)],
    "dv": [(1, 4, 1, 168), (1, 8, 1, 128), (6, 4, 2, None), (3, 4, 2, None)],
}  # fmt: skip


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("small_compose_under_bench", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def bench_compose(K: ModuleType, dry: bool = False) -> dict[str, tuple[int, int, int, Any]]:
    """Print every row; returns the fastest right configuration of each kernel."""
    import torch

    device = "cpu" if dry else "cuda"
    tokens, heads, width = (200, 2, 16) if dry else (49_152, 6, 128)
    names = ("base", "qkv", "w1", "w2")

    def error(out: Any, ref: Any) -> float:
        out, ref = out.detach().float(), ref.detach().float()
        return float((out - ref).norm() / ref.norm())

    def milliseconds(f: Callable[[], Any]) -> float:
        if dry:
            begin = time.perf_counter()
            f()
            return (time.perf_counter() - begin) * 1e3
        from triton.testing import do_bench, do_bench_cudagraph

        try:  # without the time of the launches, as in a step that keeps ahead of the GPU
            with torch.cuda.stream(torch.cuda.Stream()):
                return float(do_bench_cudagraph(f, rep=30, return_mode="median"))
        except Exception as problem:
            print(f"  no graph ({type(problem).__name__}), the next row has its launches in it")
            return float(do_bench(f, warmup=10, rep=50, return_mode="median"))

    def row(name: str, f: Callable[[], Any], errors: Callable[[Any], dict[str, float]]) -> float:
        """One line; infinite where the kernel fails or is wrong by more than 2 %."""
        try:
            first = time.perf_counter()
            out = f()
            if not dry:
                torch.cuda.synchronize()
            first = time.perf_counter() - first
            wrong = errors(out)
            ms = milliseconds(f)
        except Exception as problem:
            print(f"{name:52s} FAILED {type(problem).__name__}: {str(problem)[:160]!r}", flush=True)
            return float("inf")
        text = " ".join(f"{k} {e:.1e}" for k, e in wrong.items())
        bad = not all(e < 0.02 for e in wrong.values())
        print(f"{name:52s} {ms:8.3f}  {text}  ({first:.1f} s){' WRONG' * bad}", flush=True)
        return float("inf") if bad else ms

    def randn(*shape: int, scale: float = 1.0) -> Any:
        return (torch.randn(*shape, device=device) * scale).bfloat16()

    def make(tokens: int) -> tuple[list[Any], Any]:
        qkv = torch.stack(
            [randn(tokens, heads, width, scale=(30 / width**0.5) ** 0.5) for _ in "qk"]
            + [randn(tokens, heads, width)],
            1,
        )
        lengths = torch.randint(1, 1400, (max(tokens // 100, 1),))  # some 700 tokens, as FineWeb
        ends = [int(x) for x in lengths.cumsum(0) if x < tokens]
        cu = torch.tensor([0, *ends, *[tokens] * 40], dtype=torch.int32, device=device)
        small = [randn(tokens, heads) for _ in "12"]
        return [randn(tokens, heads, width), qkv, *small], cu

    leaves, cu = make(tokens)
    base, qkv, w1, w2 = leaves
    q, k, v = qkv.unbind(1)
    grad = randn(tokens, heads, width)
    gates = torch.nn.functional.rms_norm(w1.float(), (heads,), eps=1e-6).bfloat16()
    first = K.first_keys(cu, tokens, WINDOW)
    exact = [t.float().requires_grad_() for t in (base, q, k, v, gates, w2)]
    ref = K.compose_heads_reference(*exact, first, SCALE)
    ref.backward(grad.float())
    print(f"T = {tokens}, H = {heads}, C = {width}; ms, errors against fp32", flush=True)
    row(
        "first_keys, eager", lambda: K.first_keys(cu, tokens, WINDOW),
        lambda o: {"first": float((o != first).sum())},
    )  # fmt: skip

    scale = torch.tensor(SCALE)  # on the CPU

    # Kernels one by one, every configuration.
    def forward() -> Any:
        return K.compose_forward(base, q, k, v, gates, w2, first, scale, WINDOW, True)

    kept = forward()[1:]

    def backward() -> Any:
        return K.compose_backward(grad, q, k, v, gates, w2, first, *kept, scale, WINDOW)

    def forward_errors(o: Any) -> dict[str, float]:
        return {
            "out": error(o[0], ref),
            "mixed": error(o[0].float() - base.float(), ref - exact[0]),
        }

    def backward_errors(o: Any) -> dict[str, float]:
        grads = {x: error(g, e.grad) for x, g, e in zip("qkv", o[:3], exact[1:4], strict=True)}
        return {**grads, "w1": error(o[3], exact[4].grad), "w2": error(o[4], exact[5].grad)}

    only: list[str] = []
    launch, best = K.launch_compose, dict(K.COMPOSE_LAUNCH)

    def launch_only(name: str, *args: Any, **more: Any) -> None:
        if not only or name in only:
            launch(name, *args, **more)

    sums = 0.0
    for name, tiles in TILES.items():
        op, errors = (
            (forward, forward_errors) if name in ("mix", "out") else (backward, backward_errors)
        )
        times = {}
        for tile in tiles:
            K.COMPOSE_LAUNCH = {**best, name: tile}
            label = f"{name:9s} heads {tile[0]} warps {tile[1]} stages {tile[2]} regs {tile[3]}"
            # Checked with all kernels of its pass, timed alone.
            try:
                wrong = errors(op())
                only[:] = [name]
                K.launch_compose = launch_only
                times[tile] = row(label, op, lambda o, wrong=wrong: wrong)
            except Exception as problem:
                print(f"{label:52s} FAILED {type(problem).__name__}: {str(problem)[:160]!r}")
            finally:
                only.clear()
                K.launch_compose = launch
        if times:
            best[name] = min(times, key=lambda t: times[t])
            sums += times[best[name]]
    print(f"the fastest of each: {sums:.3f} ms together\nCOMPOSE_LAUNCH = {best}", flush=True)

    # As the model runs it: compiled, forward and backward.
    compiled = (lambda f: f) if dry else (lambda f: torch.compile(f, dynamic=False, fullgraph=True))

    def plain(base: Any, qkv: Any, w1: Any, w2: Any, cu: Any) -> Any:
        w1 = torch.nn.functional.rms_norm(w1.float(), (heads,), eps=1e-6).to(qkv.dtype)
        first = K.first_keys(cu, base.size(0), WINDOW)
        return K.compose_heads_reference(base, *qkv.unbind(1), w1, w2, first, SCALE)

    def kernels(base: Any, qkv: Any, w1: Any, w2: Any, cu: Any) -> Any:
        return K.compose_heads(base, *qkv.unbind(1), w1, w2, cu, SCALE, WINDOW)

    whole = [t.float().requires_grad_() for t in leaves]
    ref = plain(*whole, cu)
    ref.backward(grad.float())

    def report(title: str, f: Callable[..., Any]) -> None:
        ours = [t.clone().requires_grad_() for t in leaves]
        step = compiled(f)

        def train() -> Any:
            out = step(*ours, cu)
            return (out.detach(), *torch.autograd.grad(out, ours, grad))

        def train_errors(o: Any) -> dict[str, float]:
            grads = {n: error(g, e.grad) for n, g, e in zip(names, o[1:], whole, strict=True)}
            return {"out": error(o[0], ref), **grads}

        row(f"{title}, forward + backward", train, train_errors)
        row(
            f"{title}, forward in training", lambda: step(*ours, cu),
            lambda o: {"out": error(o.detach(), ref)},
        )  # fmt: skip

    report("PyTorch form", plain)
    for settings, title in ((dict(K.COMPOSE_LAUNCH), "kernels as set"), (best, "kernels, fastest")):
        K.COMPOSE_LAUNCH = settings
        if not dry:
            torch._dynamo.reset()
        report(title, kernels)

    tokens = 300 if dry else 262_144
    leaves, cu = make(tokens)
    with torch.no_grad():
        part = slice(tokens - min(tokens, 4096), tokens)
        cut = (K.first_keys(cu, tokens, WINDOW)[part] - part.start).clamp(min=0)
        b, x, a1, a2 = (t[part].float() for t in leaves)
        a1 = torch.nn.functional.rms_norm(a1, (heads,), eps=1e-6)
        ref = K.compose_heads_reference(b, *x.unbind(1), a1, a2, cut, SCALE)[128:]
        for title, f in (("PyTorch form", plain), ("kernels, fastest", kernels)):
            step = compiled(f)
            row(
                f"{title}, forward without gradients, T = {tokens}",
                lambda step=step: step(*leaves, cu),
                lambda o: {"out": error(o[part][128:], ref)},
            )
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry", action="store_true", help="tiny shapes in Triton's interpreter")
    parser.add_argument("--kernels", type=Path, help="another file with the kernels")
    args = parser.parse_args()
    if args.dry:
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
        sys.path.insert(0, str(Path(__file__).parent))
        import test_small_kernels

        test_small_kernels.repair_interpreter()
    import torch

    if not args.dry and not torch.cuda.is_available():
        sys.exit("no CUDA device: use --dry to go through every row on a CPU")
    K = load(args.kernels or Path(__file__).parents[2] / "candidates" / "small.py")
    torch.manual_seed(int(time.time()))
    where = "interpreter" if args.dry else torch.cuda.get_device_name()
    print(f"{where}, torch {torch.__version__}", flush=True)
    bench_compose(K, args.dry)


if __name__ == "__main__":
    main()
