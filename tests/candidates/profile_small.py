"""Where the time of candidates/small.py goes: one micro-batch of each stage, by part, on one GPU.

    python tests/candidates/profile_small.py             the default program, as one of 8
    python tests/candidates/profile_small.py --record 84 --ranks 4 --top 40
    python tests/candidates/profile_small.py --stages 3 --ablate fused_heads   one stage alone
    torchrun --standalone --nproc-per-node=8 tests/candidates/profile_small.py       whole steps

A rank of eight does one such micro-batch a step, so what is printed is its step without
communication. Data as for small.py (DATA_PATH). For each stage: milliseconds by events, what the
CPU needs to launch it all, what the kernels take and the gaps between them, and the kernels' time
by part. Then the optimizer with the shards of one rank. Parts come from the kernels' names and, for
matrix products, from the shapes of their operands.

Under torchrun: whole steps of the job, one with Adam and one without in each stage, with the
communication, and how much of it no other kernel hides, as rank 0 sees it.
"""

import argparse
import importlib.util
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

SCRIPT = Path(__file__).parents[2] / "candidates" / "small.py"
PARTS = {
    "attention": ("flash", "fmha", "fa3"),
    "heads": ("prepare_heads", "finish_heads"),
    "composed heads": ("compose_",),
    "head + loss": ("cross_entropy", "transpose", "quantize_layouts"),
    "MLP": ("linear_relu2",),
    "tables": ("embedding_dense_backward", "index_put", "indexing_backward", "table_gradient"),
    "copies": ("memcpy", "memset"),
    "communication": ("nccl",),
}
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::_scaled_mm")


def part_of_product(shapes: Iterable[Sequence[int]], dim: int, mlp: int, vocab: int) -> str:
    """Part of a matrix product, by the sizes of its operands (first the tokens')."""
    sizes = {n for shape in shapes for n in shape}
    if vocab in sizes:
        return "head + loss"
    if mlp in sizes:
        return "MLP"
    return "attention, projections" if sizes >= {dim} and min(sizes) >= dim else "gates, MUDD"


def part_of_kernel(name: str) -> str:
    """Part of a kernel that is no matrix product of the library."""
    low = name.lower()
    for part, words in PARTS.items():
        if any(word in low for word in words):
            return part
    if low.startswith("triton"):
        return "elementwise"
    return "other"


def gaps(spans: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(busy, idle) of a timeline of (start, end), overlaps counted once."""
    busy, idle, reached = 0.0, 0.0, None
    for start, end in sorted(spans):
        if reached is not None and start > reached:
            idle += start - reached
        busy += max(0.0, end - max(start, reached if reached is not None else start))
        reached = end if reached is None else max(reached, end)
    return busy, idle


ANNOTATIONS = ("## ", "Torch-Compiled Region", "CompiledFunction")


def on_gpu(events: Iterable[Any]) -> list[Any]:
    """What ran on the GPU, without the spans that profiler and compiler lay over it."""
    return [
        event
        for event in events
        if event.device_type.name == "CUDA"
        and not getattr(event, "is_user_annotation", False)
        and not event.name.startswith(ANNOTATIONS)
    ]


def exposed(spans: Sequence[tuple[float, float]], over: Sequence[tuple[float, float]]) -> float:
    """How long some of `spans` ran and none of `over`."""
    both, _ = gaps([*spans, *over])
    return both - gaps(over)[0]


def by_part(
    events: Sequence[Any], sizes: tuple[int, int, int]
) -> tuple[dict[str, float], dict[str, float]]:
    """Microseconds by part and by kernel, from a profile's events with shapes; sizes: channels, the
    MLP's hidden ones, vocabulary."""
    parts: dict[str, float] = defaultdict(float)
    kernels: dict[str, float] = defaultdict(float)
    in_products: dict[str, float] = defaultdict(float)
    for event in events:
        if event.name in PRODUCTS and event.kernels:
            shapes = [s for s in event.input_shapes if len(s) > 1]
            part = part_of_product(shapes, *sizes)
            for kernel in event.kernels:
                parts[part] += kernel.duration
                in_products[kernel.name] += kernel.duration
                kernels[f"{kernel.name[:60]} {shapes}"] += kernel.duration
    for event in on_gpu(events):
        kernels[event.name] += event.time_range.elapsed_us()
    for name, spent in list(kernels.items()):
        rest = spent - in_products.get(name, 0.0)
        if name in in_products:  # its share in products is listed with the shapes
            del kernels[name]
            if rest > 1.0:
                kernels[name] = rest
        if " [" not in name and rest > 1.0:
            parts[part_of_kernel(name)] += rest
    return parts, kernels


def table(title: str, rows: dict[str, float], count: int, most: int) -> None:
    """Milliseconds a repetition, largest first."""
    print(title)
    for name, spent in sorted(rows.items(), key=lambda row: -row[1])[:most]:
        print(f"    {spent / count / 1000:8.3f} ms  {name[:150]}")


def measure(
    run: Callable[[], None],
    sizes: tuple[int, int, int],
    title: str,
    repeats: int,
    top: int,
    tell: bool = True,
) -> None:
    """Times `run` by events, then profiles it, and prints both; without `tell` it only runs it as
    often, as one of several ranks."""
    import torch

    count = 3
    if not tell:
        for _ in range(3 + repeats + count):
            run()
        torch.cuda.synchronize()
        return

    for _ in range(3):
        run()
    torch.cuda.synchronize()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    began = time.perf_counter()
    for _ in range(repeats):
        run()
    launched_ms = (time.perf_counter() - began) * 1000 / repeats
    end.record()
    torch.cuda.synchronize()
    total_ms = start.elapsed_time(end) / repeats

    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds, record_shapes=True, acc_events=True) as profile:
        for _ in range(count):
            run()
        torch.cuda.synchronize()
    events = list(profile.events())
    launches = on_gpu(events)
    busy, idle = gaps([(e.time_range.start, e.time_range.end) for e in launches])
    print(
        f"{title}: {total_ms:.2f} ms, launched in {launched_ms:.2f}; {len(launches) // count}"
        f" launches; profiled: kernels {busy / count / 1e3:.2f}, gaps {idle / count / 1e3:.2f}"
    )
    sent = [(e.time_range.start, e.time_range.end) for e in launches if "nccl" in e.name.lower()]
    if sent:
        others = [e for e in launches if "nccl" not in e.name.lower()]
        alone = exposed(sent, [(e.time_range.start, e.time_range.end) for e in others])
        print(f"  communication that nothing hides: {alone / count / 1e3:.3f} ms")
    parts, kernels = by_part(events, sizes)
    table("  by part", parts, count, 20)
    table("  by kernel", kernels, count, top)


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("small_candidate", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["small_candidate"] = module
    spec.loader.exec_module(module)
    return module


def whole_steps(small: ModuleType, cfg: Any, repeats: int, top: int) -> None:
    """Steps of the job this process is a rank of, with Adam and without, in each stage."""
    import torch.distributed as dist

    place, log, trainer = small.get_ready(cfg, cfg.total_steps, (), None)
    log.close()
    tell, cfg = place.rank == 0, trainer.cfg
    sizes = (cfg.model_dim, cfg.mlp_dim, cfg.vocab_size)
    loader = small.TrainLoader(cfg, place.rank, place.world, place.device)
    for stage in range(3):
        for step in (trainer.schedule.starts[stage] + 2, trainer.schedule.starts[stage] + 3):
            kind = "with Adam" if trainer.schedule.is_adam_step(step) else "without"
            title = f"stage {stage + 1}, a step {kind}"
            measure(lambda s=step: trainer.train_step(loader, s), sizes, title, repeats, top, tell)
            sys.stdout.flush()
    dist.barrier()
    dist.destroy_process_group()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=8, help="as one of so many (8)")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--top", type=int, default=25, help="kernels to list for each stage")
    parser.add_argument(
        "--stages",
        default="1,2,3",
        metavar="A,B",
        help="these stages alone, without validation and updates",
    )
    known, others = parser.parse_known_args(argv)
    if not set(known.stages.split(",")) <= {"1", "2", "3"}:
        parser.error(f"--stages {known.stages}: 1, 2 and 3 are the stages")

    # Before CUDA is asked for anything: a rank hides the others' GPUs from itself first.
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        small = load()
        whole_steps(small, small.parse(others)[0], known.repeats, known.top)
        return 0

    import torch

    if not torch.cuda.is_available():
        print("error: profiling needs a GPU", file=sys.stderr)
        return 4
    small = load()
    cfg, _ = small.parse(others)
    device = torch.device("cuda", 0)
    cfg, lines = small.fit_to_device(cfg, device)
    attention = small.find_attention(device)
    small.use_attention(attention)
    print(*lines, f"attention: {attention.name}", torch.cuda.get_device_name(), sep="\n")
    small.leave_default_stream(cfg, device)
    sizes = (cfg.model_dim, cfg.mlp_dim, cfg.vocab_size)
    began = time.perf_counter()
    trainer = small.Trainer(cfg, 0, known.ranks, device, small.Log(1))
    trainer.accumulation = 1
    trainer.model.set_grad_scale(1.0)
    trainer.optimizer.sparse = None
    loader = small.TrainLoader(cfg, 0, known.ranks, device)

    def clear() -> None:
        trainer.model.zero_grad(set_to_none=True)

    def micro_batch() -> None:
        trainer.forward_backward(loader, trainer.schedule.starts[stage] + 2)
        clear()

    stages = [int(number) - 1 for number in known.stages.split(",")]
    for stage in stages:
        trainer.set_stage(trainer.schedule.starts[stage])
        trainer.recording = cfg.graphs
        micro_batch()
        trainer.recording = False
        torch.cuda.synchronize()
        print(f"compiled after {time.perf_counter() - began:.0f} s", flush=True)
        measure(micro_batch, sizes, f"stage {stage + 1}", known.repeats, known.top)
        sys.stdout.flush()
    if len(stages) < 3:
        return 0
    batch = trainer.fake_validation_batch()
    last = cfg.total_steps
    with torch.no_grad():
        measure(
            lambda: trainer.validation_losses(batch, last),
            sizes, f"validation, {cfg.val_tokens_per_rank} tokens", 3, 10,
        )  # fmt: skip
    with torch.no_grad():
        measure(trainer.optimizer.compile_updates, sizes, "all updates", known.repeats, known.top)
        measure(
            lambda: trainer.model.quantize_mlp(exact=False), sizes, "quantise", known.repeats, 5
        )
    print(f"peak memory allocated: {torch.cuda.max_memory_allocated() >> 20} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
