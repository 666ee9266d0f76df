"""The reference workload of GPU tracks: what this node can do, whatever the record does.

    torchrun --standalone --nproc-per-node=8 baseline/reference_gpu.py

`speedrun retime` runs it beside the record every night. When the record slows down and this does
too, it is the node. It must never change: the harness compares nights of one source hash only.

Up to four parts, each the median of many short repeats, each repeat as slow as its slowest GPU:
bf16 and FP8 matrix products (clocks, power, tensor cores), a copy inside the GPU's own memory
(HBM), and an all-reduce over all GPUs (NVLink). FP8 needs compute capability 8.9, the all-reduce
two GPUs. Rank 0 prints one JSON line, which also names the slowest GPU of each part. About eight
seconds, most of it start-up; needs torch and 3 GiB a GPU.
"""

import json
import os
import statistics
import time
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Sizes:
    """Each repeat should take 5 to 20 ms: long beside a launch, short beside a clock's drift."""

    matrix: int = 8192  # 1.1 TFLOP a product: 1.4 ms at 800 bf16 TFLOP/s
    products: int = 6
    copied: int = 1 << 30  # bytes: 2.1 GB of traffic, 0.7 ms at 3 TB/s
    copies: int = 12
    reduced: int = 256 << 20  # bytes of bf16
    reductions: int = 8
    repeats: int = 60
    untimed: int = 15  # also heats the chip: power, not voltage, limits a warm GPU


# --------------------------------------------------------------------------------------------------
# Parts: each returns a function that queues one repeat on the device


def matmul_bf16(sizes, device):
    n = sizes.matrix
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16)
    b = torch.randn(n, n, device=device, dtype=torch.bfloat16)
    out = torch.empty(n, n, device=device, dtype=torch.bfloat16)

    def repeat():
        for _ in range(sizes.products):
            torch.matmul(a, b, out=out)

    return repeat


def matmul_fp8(sizes, device):
    """e4m3 x e4m3 -> bf16 with a scale a tensor; the second factor is column-major, as cuBLAS asks.

    Each scale has storage of its own: slices of a longer tensor were refused under CUDA 13.
    """
    n = sizes.matrix
    a = torch.randn(n, n, device=device).to(torch.float8_e4m3fn)
    b = torch.randn(n, n, device=device).to(torch.float8_e4m3fn).t()
    scale_a, scale_b = (torch.ones((), device=device, dtype=torch.float32) for _ in "ab")

    def repeat():
        for _ in range(sizes.products):
            torch._scaled_mm(a, b, scale_a=scale_a, scale_b=scale_b, out_dtype=torch.bfloat16)

    return repeat


def copy(sizes, device):
    source = torch.ones(sizes.copied // 4, device=device)
    target = torch.empty_like(source)

    def repeat():
        for _ in range(sizes.copies):
            target.copy_(source)

    return repeat


def all_reduce(sizes, device):
    # Zeros stay zeros: a sum that grows would end at infinity.
    tensor = torch.zeros(sizes.reduced // 2, device=device, dtype=torch.bfloat16)

    def repeat():
        for _ in range(sizes.reductions):
            dist.all_reduce(tensor)

    return repeat


def has_fp8(device):
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def parts(device):
    """Name -> maker, for what this node can do."""
    chosen = {"matmul_bf16": matmul_bf16}
    if has_fp8(device):
        chosen["matmul_fp8"] = matmul_fp8
    chosen["copy"] = copy
    if dist.get_world_size() > 1:
        chosen["all_reduce"] = all_reduce
    return chosen


# --------------------------------------------------------------------------------------------------
# Timing: the host's clock around a synchronised repeat; all GPUs begin each repeat together, since
# they share power and fabric


def wait_for(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_part(make, sizes, device):
    """Milliseconds of each repeat on each rank: [ranks][repeats]."""
    repeat = make(sizes, device)
    times = torch.zeros(sizes.repeats, dtype=torch.float64, device=device)
    for i in range(-sizes.untimed, sizes.repeats):
        wait_for(device)
        dist.barrier()
        wait_for(device)
        begun = time.perf_counter()
        repeat()
        wait_for(device)
        if i >= 0:
            times[i] = 1e3 * (time.perf_counter() - begun)
    everyone = [torch.empty_like(times) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, times)
    return [rank.tolist() for rank in everyone]


def run(sizes, device):
    """What is printed: parts_ms, and for each part the slowest rank with its own median."""
    parts_ms, slowest = {}, {}
    for name, make in parts(device).items():
        ranks = time_part(make, sizes, device)
        parts_ms[name] = round(statistics.median(map(max, zip(*ranks, strict=True))), 5)
        medians = [round(statistics.median(times), 5) for times in ranks]
        slowest[name] = [medians.index(max(medians)), max(medians), min(medians)]
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return {
        "reference": device.type,
        "processes": dist.get_world_size(),
        "parts_ms": parts_ms,
        "slowest_rank_its_ms_fastest_ms": slowest,
    }


def main():
    torch.manual_seed(0)
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", device_id=device)
    result = run(Sizes(), device)
    if dist.get_rank() == 0:
        print(json.dumps(result), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
