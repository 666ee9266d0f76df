"""The reference workload of CPU tracks: what this machine can do, whatever the record does.

    python baseline/reference_cpu.py [processes]

`speedrun retime` runs it beside the record every night. When the record slows down and this does
too, it is the machine. It must never change: the harness compares nights of one source hash only.

Three parts, each the median of many short repeats, each repeat as slow as its slowest process:
interpreting Python, multiplying matrices, moving memory. It prints one JSON line. Two to five
seconds; needs numpy.
"""

import os

# One thread a process, as the record's own processes have; set before numpy is imported.
for name in (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
):
    os.environ[name] = "1"

import json
import multiprocessing
import statistics
import sys
import time

import numpy as np

REPEATS = 120
UNTIMED = 5  # the first repeats meet cold caches and a clock that is still rising

# --------------------------------------------------------------------------------------------------
# The parts: each takes about 5 ms on a server core of 2022


def interpret(state):
    """Integer arithmetic in pure Python: the congruential generator of Numerical Recipes."""
    x = 1
    for _ in range(80_000):
        x = (1664525 * x + 1013904223) & 0xFFFFFFFF
    state["check"] = x


def multiply(state):
    """Nine products of 320 x 320 float32 matrices: fits in the second-level cache."""
    a, b = state["a"], state["b"]
    for _ in range(9):
        np.matmul(a, b, out=state["c"])


def move(state):
    """Copy 32 MiB three times: larger than the caches of a core, so memory decides."""
    for _ in range(3):
        np.copyto(state["to"], state["from"])


PARTS = {"python": interpret, "matmul": multiply, "copy": move}

# --------------------------------------------------------------------------------------------------
# Timing: all processes begin each repeat together, because a contest's processes do


def worker(barrier, results):
    draw = np.random.default_rng(1)
    state = {
        "a": draw.standard_normal((320, 320), dtype=np.float32),
        "b": draw.standard_normal((320, 320), dtype=np.float32),
        "c": np.empty((320, 320), np.float32),
        "from": np.ones(4 << 20),
        "to": np.empty(4 << 20),
    }
    state["to"].fill(0)  # the pages exist before the first copy
    times = {name: [] for name in PARTS}
    for repeat in range(UNTIMED + REPEATS):
        for name, part in PARTS.items():
            barrier.wait(timeout=60)
            begun = time.perf_counter()
            part(state)
            if repeat >= UNTIMED:
                times[name].append(1e3 * (time.perf_counter() - begun))
    results.put(times)


def main():
    processes = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(processes), context.Queue()
    workers = [context.Process(target=worker, args=(barrier, results)) for _ in range(processes)]
    for process in workers:
        process.start()
    times = [results.get(timeout=300) for _ in workers]
    for process in workers:
        process.join()
    parts_ms = {
        name: round(statistics.median(map(max, *(t[name] for t in times), [0.0] * REPEATS)), 5)
        for name in PARTS
    }
    print(json.dumps({"reference": "cpu", "processes": processes, "parts_ms": parts_ms}))


if __name__ == "__main__":
    main()
