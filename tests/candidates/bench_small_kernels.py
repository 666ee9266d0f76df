"""Times the kernels of `candidates/small.py` on one GPU against references, baselines and floors.

    python tests/candidates/bench_small_kernels.py            one H200: about two minutes
    python tests/candidates/bench_small_kernels.py --only ce  one group of those listed in GROUPS
    python tests/candidates/bench_small_kernels.py --dry      a CPU, in Triton's interpreter

Everything is first checked against fp32 (column `err`: ||out - ref|| / ||ref||), then timed
(median; L2 flushed between runs, except Polar Express, which runs from a graph in L2 as it does in
the optimizer). Floor: the larger of bytes at 4.3 TB/s and operations at 790 TFLOP/s
in bf16, 1500 in FP8 (H200; each input read once, each output written once). A row that fails is
printed and passed over; after --budget seconds the remaining ones are skipped.
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

BYTES_PER_S, BF16_FLOPS, FP8_FLOPS = 4.3e12, 790e12, 1500e12
GROUPS = ("peak", "polar", "mlp", "move", "tables", "ce", "head")


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("small_kernels_under_bench", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Bench:
    def __init__(self, args: argparse.Namespace) -> None:
        import torch

        self.torch, self.dry, self.budget = torch, args.dry, args.budget
        self.device = "cpu" if args.dry else "cuda"
        self.start = time.perf_counter()
        self.rows: list[str] = []
        if not args.dry:
            import triton.testing

            self.testing = triton.testing

    def randn(self, *shape: int, scale: float = 1.0) -> Any:
        x = self.torch.randn(*shape, device=self.device, dtype=self.torch.bfloat16)
        return x.mul_(scale)

    def empty(self, *shape: int, dtype: Any = None) -> Any:
        """Memory full of NaN patterns: an element that a kernel leaves out shows in the error."""
        x = self.torch.empty(*shape, dtype=dtype or self.torch.bfloat16, device=self.device)
        x.untyped_storage().fill_(0xFF)
        return x

    def error(self, out: Any, ref: Any) -> float:
        out, ref = out.detach().float(), ref.detach().float()
        return float((out - ref).norm() / ref.norm())

    def milliseconds(self, f: Callable[[], Any], graph: bool, rep_ms: int) -> float:
        if self.dry:
            begin = time.perf_counter()
            f()
            return (time.perf_counter() - begin) * 1e3
        if graph:
            return float(self.testing.do_bench_cudagraph(f, rep=20, return_mode="median"))
        return float(self.testing.do_bench(f, warmup=10, rep=rep_ms, return_mode="median"))

    def measure(
        self, name: str, f: Callable[[], Any], check: Callable[[Any], float] | None = None,
        *, bar: float = 0.0, gbytes: float = 0.0, gflop: float = 0.0, fp8: bool = False,
        graph: bool = False, rep_ms: int = 60,
    ) -> None:  # fmt: skip
        """Check, time and print one row. check: error of what f returns, at most bar."""
        elapsed = time.perf_counter() - self.start
        if elapsed > self.budget:
            self.rows.append(f"{name:46s} skipped: budget of {self.budget:.0f} s is spent")
            return
        try:
            first = time.perf_counter()
            out = f()
            if not self.dry:
                self.torch.cuda.synchronize()
            first = time.perf_counter() - first
            wrong, text = False, "     "
            if check is not None:
                e = check(out)
                wrong, text = not e <= bar, f"{e:.0e}"
            del out
            ms = self.milliseconds(f, graph, rep_ms)
            compute = gflop * 1e9 / (FP8_FLOPS if fp8 else BF16_FLOPS)
            floor = max(gbytes * 1e9 / BYTES_PER_S, compute) * 1e3
            share = f"{floor:7.3f} {100 * floor / ms:4.0f}%" if floor else " " * 13
            row = f"{name:46s} {ms:8.3f} {share}  {text}  {first:5.1f}"
            row += "  WRONG" if wrong else ""
        except Exception as problem:
            row = f"{name:46s} FAILED {type(problem).__name__}: {str(problem)[:160]!r}"
        self.rows.append(row)
        print(row, flush=True)
        if not self.dry:
            self.torch.cuda.empty_cache()


HEADER = f"{'':46s} {'ms':>8s} {'floor':>7s} {'':5s}  {'err':5s}  {'first s':>6s}"


def peaks(b: Bench) -> None:
    torch = b.torch
    n = 64 if b.dry else 8192
    x, y = b.randn(n, n), b.randn(n, n)
    b.measure(f"torch.matmul bf16 {n}^3", lambda: x @ y, gflop=2 * n**3 / 1e9)
    src = b.randn(n, n * 16)
    dst = torch.empty_like(src)
    b.measure("copy", lambda: dst.copy_(src), gbytes=src.numel() * 4 / 1e9)


def quantize_up(up: Any) -> tuple[Any, Any]:
    """Up matrices (L, N, K) bf16 -> e4m3 and fp32 scales (L,)."""
    import torch

    scale = up.abs().amax(dim=(1, 2)) / 448
    return (up / scale[:, None, None]).to(torch.float8_e4m3fn), scale.float()


def polar(b: Bench, K: ModuleType) -> None:
    """The five iterations on one of eight ranks' chunks; floor of the products alone."""
    shapes = {"qk": (8, 256, 768), "vo": (3, 768, 768), "mlp": (3, 3072, 768)}
    if b.dry:
        shapes = {"qk": (2, 32, 48), "mlp": (1, 48, 32)}
    for label, (n, m, k) in shapes.items():
        a, side, other = b.randn(n, m, k), min(m, k), max(m, k)
        b.measure(
            f"Polar Express {label}",
            lambda x=a: K.polar_express(x),
            lambda o, x=a: b.error(o, K.polar_express(x.float())),
            bar=0.1,
            gflop=5 * n * (4 * side * side * other + 2 * side**3) / 1e9,
            graph=True,
        )


def mlp(b: Bench, K: ModuleType) -> None:
    torch = b.torch
    tokens, width, hidden = (64, 64, 128) if b.dry else (49152, 768, 3072)
    x, g = b.randn(tokens, width), b.randn(tokens, width)
    up, down = b.randn(hidden, width, scale=0.03), b.randn(hidden, width, scale=0.02)
    gflop = 2 * tokens * width * hidden / 1e9
    wide, narrow = tokens * hidden * 2 / 1e9, tokens * width * 2 / 1e9
    up8, sw = quantize_up(up[None])
    up8, x_scale = up8[0], float(x.abs().max()) / 448
    x8 = K.quantize_e4m3(x, x_scale)
    dequant = (sw * x_scale).clone()
    ref = torch.relu(x.float() @ up.float().t()).square()
    ref8 = torch.relu((x8.float() * x_scale) @ (up8.float() * sw).t()).square()
    grad = 2 * (g.float() @ down.float().t()) * ref.sqrt()
    post = ref.to(x.dtype)
    b.measure("MLP up torch.matmul", lambda: x @ up.t(), gflop=gflop, gbytes=wide + narrow)
    if not b.dry:
        plain = torch.compile(lambda x, up: torch.relu(x @ up.t()).square(), dynamic=False)
        b.measure(
            "MLP up compiled relu(x U^T)^2",
            lambda: plain(x, up),
            lambda o: b.error(o, ref),
            bar=8e-3,
            gflop=gflop,
            gbytes=wide + narrow,
        )

    def kernel(a: Any, w: Any, mode: int, **options: Any) -> Callable[[], Any]:
        out = b.empty(tokens, hidden)

        def run() -> Any:
            K.launch_linear_relu2(a, w, out, mode, **options)
            return out

        return run

    b.measure(
        "MLP up bf16",
        kernel(x, up, K.POST),
        lambda o: b.error(o, ref),
        bar=8e-3,
        gflop=gflop,
        gbytes=wide + narrow,
    )
    b.measure(
        "MLP up fp8",
        kernel(x8, up8, K.POST, dequant=dequant),
        lambda o: b.error(o, ref8),
        bar=8e-3,
        gflop=gflop,
        fp8=True,
        gbytes=wide + narrow / 2,
    )
    b.measure(
        "MLP d pre",
        kernel(g, down, K.GRADIENT, post=post),
        lambda o: b.error(o, grad),
        bar=1e-2,
        gflop=gflop,
        gbytes=2 * wide + narrow,
    )
    scale = (ref8.max() / 300).reshape(1).clone()
    b.measure(
        "MLP up fp8, post also in e4m3",
        lambda: K.relu2_up_fp8(x8, up8, dequant, scale),
        lambda o: max(b.error(o[0], ref8), b.error(o[1].float() * scale, ref8) - 0.04),
        bar=8e-3,
        gflop=gflop,
        fp8=True,
        gbytes=1.5 * wide + narrow / 2,
    )
    out = post @ down
    b.measure("MLP down torch.matmul", lambda: post @ down, gflop=gflop, gbytes=wide + narrow)
    down_scale = K.exact_scale(down[None])
    down8_t = K.quantize_e4m3(down, down_scale).t().contiguous()
    post8 = K.quantize_e4m3(post, scale)
    b.measure(
        "MLP down fp8",
        lambda: K.fp8_mm(post8, down8_t.t(), scale, down_scale, True),
        lambda o: b.error(o, out),
        bar=0.07,
        gflop=gflop,
        fp8=True,
        gbytes=wide / 2 + narrow,
    )

    def train(f: Callable[..., Any]) -> Callable[[], Any]:
        leaves = [t.clone().requires_grad_() for t in (x, up, down)]
        return lambda: torch.autograd.grad(f(*leaves), leaves, g)

    b.measure(
        "MLP fwd + bwd, fp8 up", train(lambda x, u, d: K.linear_relu2(x, u, d, up8, x8, dequant))
    )
    b.measure("MLP fwd + bwd, bf16", train(lambda x, u, d: K.linear_relu2(x, u, d)))
    b.measure(
        "MLP fwd + bwd, fp8 up and down",
        train(
            lambda x, u, d: K.linear_relu2_fp8_down(
                x, u, d, up8, x8, dequant, down8_t, down_scale, scale
            )[0]
        ),
    )


def moves(b: Bench, K: ModuleType) -> None:
    torch = b.torch
    tokens, vocab, width = (64, 264, 32) if b.dry else (49152, 50304, 768)
    src = torch.randint(0, 120, (tokens, vocab), dtype=torch.uint8, device=b.device)
    src = src.view(torch.float8_e5m2)
    dst = b.empty(vocab, tokens, dtype=torch.float8_e5m2)
    gbytes = 2 * tokens * vocab / 1e9

    def unequal(o: Any) -> float:
        rows = slice(0, 4096)  # the comparison itself needs memory
        same = torch.equal(dst[:, rows].view(torch.uint8), src[rows].t().view(torch.uint8))
        ends = torch.equal(dst[:, -64:].view(torch.uint8), src[-64:].t().view(torch.uint8))
        return 0.0 if same and ends else 1.0

    b.measure("transpose G, torch", lambda: dst.copy_(src.t()), unequal, gbytes=gbytes)
    dst.untyped_storage().fill_(0xFF)
    b.measure("transpose G", lambda: K.transpose_copy(src, dst), unequal, gbytes=gbytes)
    head, embed = b.randn(width, vocab, scale=0.3), b.empty(vocab, width)
    gbytes = width * vocab * 4 / 1e9
    b.measure("tie: embed = head^T, torch", lambda: embed.copy_(head.t()), gbytes=gbytes)
    b.measure(
        "tie: embed = head^T",
        lambda: K.transpose_copy(head, embed),
        lambda o: b.error(embed, head.t()),
        gbytes=gbytes,
    )
    total = head.clone()
    b.measure("tie: head += embed^T, torch", lambda: total.add_(embed.t()), gbytes=gbytes * 1.5)
    total.copy_(head)  # the first call is checked: 2 head, embed being head^T
    b.measure(
        "tie: head += embed^T",
        lambda: K.transpose_add(embed, total),
        lambda o: b.error(total, 2 * head),
        bar=1e-6,
        gbytes=gbytes * 1.5,
    )
    b.measure(
        "quantise head, both layouts",
        lambda: K.quantize_both_layouts(head, 1.6 / 448),
        lambda o: b.error(o[0].float() * 1.6 / 448, head) - 0.02,
        bar=0.06,
        gbytes=gbytes,
    )
    layers, hidden = (2, 128) if b.dry else (12, 3072)
    down = b.randn(layers, hidden, width, scale=0.02)
    down8 = b.empty(layers, width, hidden, dtype=torch.float8_e4m3fn)
    scale, used = K.exact_scale(down), K.exact_scale(down)
    tiles = -(-hidden // 64) * -(-width // 64)
    amax = b.empty(layers, tiles, dtype=torch.float32)
    b.measure(
        "quantise 12 down matrices (delayed)",
        lambda: K.quantize_down(down, scale, 1.12, down8, used, amax),
        gbytes=down.numel() * 3 / 1e9,
    )
    bank = b.randn(layers, 2, hidden, width, scale=0.02)
    up8 = b.empty(layers, hidden, width, dtype=torch.float8_e4m3fn)
    scales, cast = K.up_scales, K.cast_up
    if not b.dry:
        scales, cast = (torch.compile(f, dynamic=False, fullgraph=True) for f in (scales, cast))
    b.measure(
        "quantise 12 up matrices (exact, as the model does)",
        lambda: cast(bank, scales(bank), up8, used),
        lambda o: b.error(up8.float() * used[:, None, None], bank[:, 0]) - 0.02,
        bar=0.06,
        gbytes=down.numel() * 5 / 1e9,
    )


def tables(b: Bench, K: ModuleType) -> None:
    """Gradients of the looked-up tables, as the compiler makes them and from sorted tokens. Tokens
    by Zipf's law, as in text: the most frequent of 50,304 is 9 % of them."""
    torch = b.torch
    import torch.nn.functional as F

    shapes = ((5, 300, 24),) if b.dry else ((5, 50304, 768), (1, 754_560, 192), (1, 50304, 768))
    for tokens in (70,) if b.dry else (16_384, 49_152):
        for count, rows, width in shapes:
            weights = 1 / torch.arange(1, min(rows, 50304) + 1, device=b.device).double()
            found = torch.multinomial(weights, tokens, replacement=True).int()
            if count == 1 and width < 768:
                found = (found * 1009 + found.roll(1)) % rows  # pairs: few are frequent
            grads = [b.randn(tokens, width) for _ in range(count)]
            table = b.randn(count * rows, width).requires_grad_()
            at = found[None] + torch.arange(count, device=b.device)[:, None].int() * rows
            gbytes = (count * rows + 2 * count * tokens) * width * 2 / 1e9
            name = f"T {tokens}, {count} x {rows} x {width}"

            def lookup(table: Any, at: Any = at) -> Any:
                return F.embedding(at, table).unbind(0)

            compiled = lookup if b.dry else torch.compile(lookup, dynamic=False)

            def by_compiler(f: Any = compiled, table: Any = table, grads: Any = grads) -> Any:
                return torch.autograd.grad(f(table), table, grads)[0]

            wanted = by_compiler()
            by = torch.sort(found, stable=True)

            def by_us(grads: Any = grads, by: Any = by, like: Any = table) -> Any:
                into = torch.zeros_like(like, requires_grad=False)
                K.add_rows(into, grads, *by)
                return into

            def right(o: Any, wanted: Any = wanted) -> float:
                return b.error(o, wanted)

            b.measure(f"{name}, compiler", by_compiler, right, bar=5e-3, gbytes=gbytes)
            b.measure(f"{name}, sorted", by_us, right, bar=5e-3, gbytes=gbytes)
            b.measure(f"{name}, zeros", lambda t=table: torch.zeros_like(t))
            b.measure(f"{name}, sort", lambda f=found: torch.sort(f, stable=True))
            del wanted, table, grads


def cross_entropy(b: Bench, K: ModuleType) -> None:
    torch = b.torch
    vocab = 2 * 1024 + 200 if b.dry else 50304
    shapes = ((8, 2),) if b.dry else ((49152, 1), (16384, 3))
    for tokens, n in shapes:
        logits = b.randn(tokens, vocab, scale=3.0)
        targets = torch.randint(vocab, (tokens,), device=b.device)
        weights = torch.tensor([1.0, 0.5, 0.25], device=b.device)[:n]
        gbytes = 3 * tokens * vocab / 1e9
        part = min(tokens, 2048)
        # Rows of the last part: their missing targets (beyond T) are the reference's too.
        args = (logits[-part:], targets[-part:], weights, 0.75 / 448, 1.0)
        ref_losses, ref_grad = K.softcapped_mtp_cross_entropy_reference(*args)

        def wrong(o: Any, refs: Any = (ref_losses, ref_grad), part: int = part) -> float:
            losses, grad = o[0][-part:], o[1][-part:].float()
            # e5m2 alone gives about 0.06 of the gradient's norm.
            return max(b.error(losses, refs[0]), b.error(grad, refs[1]) - 0.08)

        b.measure(
            f"CE T={tokens} n={n}",
            lambda x=logits, y=targets, w=weights: K.cross_entropy_op(
                x, y, w, None, None, 0.75 / 448, 1.0, True
            ),
            wrong,
            bar=2e-3,
            gbytes=gbytes,
        )
        if not b.dry and n == 1:

            def plain(x: Any, y: Any) -> Any:
                z = 23.0 * torch.sigmoid((x + 5.0) / 7.5)
                return torch.nn.functional.cross_entropy(z.float(), y, reduction="none")

            compiled = torch.compile(plain, dynamic=False)
            b.measure(
                f"CE T={tokens} compiled F.cross_entropy, forward",
                lambda f=compiled, x=logits, y=targets: f(x, y),
                gbytes=gbytes * 2 / 3,
            )
            leaf = logits.requires_grad_()
            b.measure(
                f"CE T={tokens} compiled, forward + backward",
                lambda f=compiled, x=leaf, y=targets: torch.autograd.grad(f(x, y).sum(), x),
                gbytes=gbytes * 4 / 3,
            )


def head(b: Bench, K: ModuleType) -> None:
    torch = b.torch
    tokens, vocab, width = (16, 520, 32) if b.dry else (49152, 50304, 768)
    x, w = b.randn(tokens, width), b.randn(width, vocab, scale=0.05)
    x_s, w_s, grad_s = 100 / 448, 1.6 / 448, 0.75 / 448
    gflop = 2 * tokens * width * vocab / 1e9
    big, small = tokens * vocab / 1e9, (tokens + vocab) * width / 1e9
    x8 = K.quantize_e4m3(x, x_s)
    w8, w8_t = K.quantize_both_layouts(w, w_s)
    part = slice(0, min(tokens, 1024))
    ref = x[part].float() @ w.float()
    b.measure(
        "head logits, fp8",
        lambda: K.fp8_mm_static(x8, w8_t.t(), x_s, w_s, True),
        lambda o: b.error(o[part], ref),
        bar=0.06,
        gflop=gflop,
        fp8=True,
        gbytes=2 * big + small,
    )
    if not b.dry:
        b.measure(
            "head logits, torch.matmul bf16",
            lambda: x @ w,
            lambda o: b.error(o[part], ref),
            bar=5e-3,
            gflop=gflop,
            gbytes=2 * big + 2 * small,
        )
    g = b.randn(tokens, vocab).to(torch.float8_e5m2)
    g_t, x8_t = K.transposed(g), K.transposed(x8)
    dx = g[part].float() @ w.float().t() * grad_s
    b.measure(
        "head dx, fp8",
        lambda: K.fp8_mm_static(g, w8.t(), grad_s, w_s, False),
        lambda o: b.error(o[part], dx),
        bar=0.06,
        gflop=gflop,
        fp8=True,
        gbytes=big + small,
    )
    dw = x.float().t() @ g[:, part].float() * grad_s
    b.measure(
        "head dW, fp8",
        lambda: K.fp8_mm_static(x8_t, g_t.t(), x_s, grad_s, False),
        lambda o: b.error(o[:, part], dw),
        bar=0.06,
        gflop=gflop,
        fp8=True,
        gbytes=big + small,
    )
    targets = torch.randint(vocab, (tokens,), device=b.device)
    weights = torch.ones(1, device=b.device)
    leaves = [t.clone().requires_grad_() for t in (x, w)]

    def both(x: Any, w: Any) -> Any:
        return K.fused_head_loss(
            x, w, targets, weights, x_s, w_s, grad_s, torch.ones(1, device=b.device)
        )

    b.measure(
        "head + loss, fwd + bwd, eager", lambda: torch.autograd.grad(both(*leaves).sum(), leaves)
    )
    if not b.dry:
        compiled = torch.compile(both, dynamic=False, fullgraph=True)
        b.measure(
            "head + loss, fwd + bwd, compiled",
            lambda: torch.autograd.grad(compiled(*leaves).sum(), leaves),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry", action="store_true", help="tiny shapes in Triton's interpreter")
    parser.add_argument("--only", nargs="*", choices=GROUPS, default=GROUPS)
    parser.add_argument("--budget", type=float, default=140.0, help="seconds (default 140)")
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
    script = Path(__file__).parents[2] / "candidates" / "small.py"
    K = load(args.kernels or script)
    torch.manual_seed(int(time.time()))
    b = Bench(args)
    where = "interpreter" if args.dry else torch.cuda.get_device_name()
    print(f"{where}, torch {torch.__version__}\n{HEADER}", flush=True)
    groups = {
        "peak": lambda: peaks(b), "ce": lambda: cross_entropy(b, K), "head": lambda: head(b, K),
        "mlp": lambda: mlp(b, K), "move": lambda: moves(b, K), "polar": lambda: polar(b, K),
        "tables": lambda: tables(b, K),
    }  # fmt: skip
    for name, group in groups.items():
        if name in args.only:
            try:
                group()
            except Exception as problem:
                print(f"{name}: FAILED {type(problem).__name__}: {str(problem)[:300]}", flush=True)
            if not args.dry:
                torch.cuda.empty_cache()
    bad = [r for r in b.rows if "FAILED" in r or "WRONG" in r or "skipped" in r]
    print(f"{time.perf_counter() - b.start:.0f} s, {len(b.rows)} rows, {len(bad)} bad")


if __name__ == "__main__":
    main()
