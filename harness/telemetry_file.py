"""The lines of a run's telemetry file, `runs/<run>.gpu.csv`, as the sampler writes them.

    # before {"host": {…}, "gpus": [{cumulative counters}, …], "foreign": 0}
    utc,monotonic_s,gpu,sm_clock_mhz,…        one row a second and GPU (gpu empty: no GPUs)
    # after {…}                               absent if the sampler was killed

Imports nothing heavy: the sampler must be up before the run is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from harness.nvml import GpuSample

COLUMNS = (
    *("utc", "monotonic_s", "gpu", "sm_clock_mhz", "mem_clock_mhz", "temp_c", "power_w"),
    *("throttle", "util_pct", "memory_used_mib", "foreign_pids", "load_1m", "cpu_mhz"),
)
HEADER = ",".join(COLUMNS)


def note_line(
    name: str,
    host: Mapping[str, float | None],
    gpus: Sequence[Mapping[str, int | None]],
    foreign: int,
) -> str:
    """Counters before or after the run: JSON behind a `#`."""
    note = {"host": host, "gpus": gpus, "foreign": foreign}
    return f"# {name} {json.dumps(note, separators=(',', ':'))}\n"


def row_line(
    utc: str,
    monotonic_s: float,
    sample: GpuSample | None,
    foreign_pids: int,
    load_1m: float | None,
    cpu_mhz: float | None,
) -> str:
    """One GPU at one moment; without a GPU (`sample` None) load and processor alone."""
    if sample is None:
        state: tuple[object, ...] = (None,) * 8
    else:
        s, throttle = sample, None if sample.throttle is None else f"{sample.throttle:#x}"
        state = (s.gpu, s.sm_clock_mhz, s.mem_clock_mhz, s.temp_c, s.power_w)
        state += (throttle, s.util_pct, s.memory_used_mib)
    cells = (utc, f"{monotonic_s:.3f}", *state, foreign_pids, load_1m, cpu_mhz)
    return ",".join("" if cell is None else str(cell) for cell in cells) + "\n"
