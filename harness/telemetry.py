"""What a run's telemetry file says, summarised: clocks, power, heat, throttling, other processes.

The file (`runs/<run>.gpu.csv`, form in telemetry_file.py) is written by a sampler in a process of
its own while the run goes. Reading it is a pure function, so that a verdict can be recomputed from
the evidence.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from typing import Any

from pydantic import Field

from harness.errors import EvidenceError
from harness.nvml import HW_SLOWDOWN_MASK, THROTTLE_REASONS
from harness.plan import Record
from harness.telemetry_file import COLUMNS, HEADER

BUSY_PCT = 50  # samples below belong to start-up and compilation, and say nothing of clocks
LIMIT = 1e15
_IDLE = 0x001


class GpuTelemetry(Record):
    """One GPU over one run; means over busy samples (utilisation at least 50 %)."""

    gpu: int
    samples: int
    busy_samples: int
    sm_clock_mean_mhz: float | None
    sm_clock_min_mhz: float | None
    temp_max_c: float | None
    power_mean_w: float | None
    throttle: tuple[str, ...]
    hw_slowdown_ms: float | None = Field(description="hardware cut the clocks; driver's counters")
    sw_power_cap_ms: float | None
    sw_thermal_ms: float | None
    ecc_uncorrected: int | None
    pcie_replays: int | None
    nvlink_errors: int | None
    energy_j: float | None


class RunTelemetry(Record):
    """One run. None where nothing was measured; without GPUs only load and processor remain."""

    samples: int = Field(description="moments sampled, all GPUs at once")
    complete: bool = Field(description="the sampler saw the end of the run")
    gpus: tuple[GpuTelemetry, ...]
    sm_clock_mean_mhz: float | None = Field(description="over all GPUs, busy samples")
    sm_clock_slowest_mhz: float | None = Field(description="mean clock of the slowest GPU")
    sm_clock_min_mhz: float | None
    temp_max_c: float | None
    temp_before_c: float | None = Field(description="hottest GPU when the run began")
    power_mean_w: float | None = Field(description="per GPU, busy samples")
    energy_j: float | None = Field(description="all GPUs, from the driver's counters")
    throttle: tuple[str, ...] = Field(description="reasons seen, idling left out")
    hw_slowdown: bool
    foreign_processes: int = Field(description="most at once, not of this run, on its GPUs")
    load_before: float | None = Field(description="1-minute load average before the run")
    cpu_mhz_mean: float | None
    cpu_busy_pct: float | None = Field(description="of all cores, whole run")
    cpu_steal_pct: float | None = Field(description="taken by the hypervisor")
    sampler_cpu_s: float | None = Field(description="what the sampling itself took")
    node_up_since_s: float | None = Field(
        default=None, description="when the node was started, s since 1970: wall less monotonic"
    )


@dataclass(frozen=True)
class _Row:
    utc_s: float | None
    monotonic_s: float
    gpu: int | None
    sm_clock_mhz: float | None
    temp_c: float | None
    power_w: float | None
    throttle: int
    util_pct: float | None
    foreign_pids: int
    cpu_mhz: float | None

    @property
    def busy(self) -> bool:
        """Cards that do not state utilisation count as busy when they are not idling."""
        if self.util_pct is None:
            return not self.throttle & _IDLE
        return self.util_pct >= BUSY_PCT


def summarise_csv(
    text: str, *, begin_s: float | None = None, end_s: float | None = None
) -> RunTelemetry:
    """Summary of a telemetry file's text. Pure.

    begin_s, end_s   restrict samples to this span of the monotonic clock (say, the timed part)

    Raises EvidenceError naming the line that cannot be read. A last line that is cut (the sampler
    was killed) is left out; an empty file (it never began) gives a summary of no samples.
    """
    before, after, rows = _read(text)
    rows = [
        row
        for row in rows
        if (begin_s is None or row.monotonic_s >= begin_s)
        and (end_s is None or row.monotonic_s <= end_s)
    ]
    gpus = tuple(
        _gpu(index, [row for row in rows if row.gpu == index], before, after)
        for index in sorted({row.gpu for row in rows if row.gpu is not None})
    )
    busy = [row for row in rows if row.gpu is not None and row.busy]
    energies = [gpu.energy_j for gpu in gpus if gpu.energy_j is not None]
    first = min((row.monotonic_s for row in rows), default=None)
    host_before, host_after = before.get("host", {}), after.get("host", {})
    slow = any(row.throttle & HW_SLOWDOWN_MASK for row in rows)
    return RunTelemetry(
        samples=len({row.monotonic_s for row in rows}),
        complete=bool(after),
        gpus=gpus,
        sm_clock_mean_mhz=_mean([row.sm_clock_mhz for row in busy]),
        sm_clock_slowest_mhz=_pick(min, [gpu.sm_clock_mean_mhz for gpu in gpus]),
        sm_clock_min_mhz=_pick(min, [row.sm_clock_mhz for row in busy]),
        temp_max_c=_pick(max, [row.temp_c for row in rows]),
        temp_before_c=_pick(max, [row.temp_c for row in rows if row.monotonic_s == first]),
        power_mean_w=_mean([row.power_w for row in busy]),
        energy_j=round(sum(energies), 1) if energies else None,
        throttle=_reasons(rows),
        hw_slowdown=slow or any((gpu.hw_slowdown_ms or 0) > 0 for gpu in gpus),
        foreign_processes=_most_foreign(rows, before, after),
        load_before=_number(host_before, "load_1m"),
        cpu_mhz_mean=_mean([row.cpu_mhz for row in rows]),
        cpu_busy_pct=_share("busy_s", host_before, host_after),
        cpu_steal_pct=_share("steal_s", host_before, host_after),
        sampler_cpu_s=_number(host_after, "sampler_cpu_s"),
        node_up_since_s=_pick(
            median, [row.utc_s - row.monotonic_s for row in rows if row.utc_s is not None]
        ),
    )


def _read(text: str) -> tuple[dict[str, Any], dict[str, Any], list[_Row]]:
    lines = text.split("\n")
    lines.pop()  # "" after a final newline, else a line that was never finished
    notes: dict[str, dict[str, Any]] = {"before": {}, "after": {}}
    rows: list[_Row] = []
    seen_header = False
    for number, line in enumerate(lines, start=1):
        try:
            if line.startswith("#"):
                _, name, document = line.split(" ", 2)
                if name not in notes:
                    raise ValueError(f"unknown note {name!r}")
                notes[name] = _note(document)
            elif line == HEADER:
                seen_header = True
            elif line:
                if not seen_header:
                    raise ValueError(f"the header should stand here: {HEADER}")
                rows.append(_row(line))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise EvidenceError(
                "a telemetry file cannot be read",
                where=f"line {number}",
                why=f"{error}: {line[:80]!r}",
                fix="restore the file as it was written; it is never edited by hand",
            ) from None
    return notes["before"], notes["after"], rows


def _note(document: str) -> dict[str, Any]:
    value = json.loads(document)
    if not isinstance(value, dict) or not isinstance(value.get("host"), dict):
        raise ValueError("a note holds host, gpus and foreign")
    counters = [n for gpu in value["gpus"] for n in gpu.values()] + [value["foreign"]]
    if not all(n is None or (isinstance(n, int) and 0 <= n < 1 << 64) for n in counters):
        raise ValueError("a counter is a natural number or null")
    if not all(n is None or _sane(n) for n in value["host"].values()):
        raise ValueError("a host figure is a number or null")
    return value


def _sane(value: object) -> bool:
    """A finite number of a size that sums and products survive."""
    return isinstance(value, int | float) and -LIMIT < value < LIMIT


def _row(line: str) -> _Row:
    cells = line.split(",")
    if len(cells) != len(COLUMNS):
        raise ValueError(f"{len(cells)} cells instead of {len(COLUMNS)}")
    row = dict(zip(COLUMNS, cells, strict=True))

    def number(name: str) -> float | None:
        if row[name] == "":
            return None
        value = float(row[name])
        if not _sane(value):
            raise ValueError(f"{name} is {row[name]}")
        return value

    monotonic_s = number("monotonic_s")
    if monotonic_s is None:
        raise ValueError("monotonic_s is empty")
    return _Row(
        utc_s=_seconds(row["utc"]) if row["utc"] else None,
        monotonic_s=monotonic_s,
        gpu=int(row["gpu"]) if row["gpu"] else None,
        sm_clock_mhz=number("sm_clock_mhz"),
        temp_c=number("temp_c"),
        power_w=number("power_w"),
        throttle=int(row["throttle"], 0) if row["throttle"] else 0,
        util_pct=number("util_pct"),
        foreign_pids=int(row["foreign_pids"] or 0),
        cpu_mhz=number("cpu_mhz"),
    )


def _seconds(utc: str) -> float:
    moment = datetime.fromisoformat(utc)
    # Without a zone it is UTC, wherever the file is read.
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _gpu(
    index: int, rows: list[_Row], before: dict[str, Any], after: dict[str, Any]
) -> GpuTelemetry:
    def grown(*names: str) -> int | None:
        """Growth of cumulative counters over the run, those known summed; None if none is."""
        start, end = _counters(before, index), _counters(after, index)
        known = [n for n in names if start.get(n) is not None and end.get(n) is not None]
        return sum(max(0, end[n] - start[n]) for n in known) if known else None

    def grown_ms(*names: str) -> float | None:
        value = grown(*names)
        return None if value is None else round(value / 1e6, 3)

    busy = [row for row in rows if row.busy]
    energy_mj = grown("energy_mj")
    return GpuTelemetry(
        gpu=index,
        samples=len(rows),
        busy_samples=len(busy),
        sm_clock_mean_mhz=_mean([row.sm_clock_mhz for row in busy]),
        sm_clock_min_mhz=_pick(min, [row.sm_clock_mhz for row in busy]),
        temp_max_c=_pick(max, [row.temp_c for row in rows]),
        power_mean_w=_mean([row.power_w for row in busy]),
        throttle=_reasons(rows),
        hw_slowdown_ms=grown_ms("hw_thermal_ns", "hw_power_brake_ns"),
        sw_power_cap_ms=grown_ms("sw_power_cap_ns"),
        sw_thermal_ms=grown_ms("sw_thermal_ns"),
        ecc_uncorrected=grown("ecc_uncorrected"),
        pcie_replays=grown("pcie_replays"),
        nvlink_errors=grown("nvlink_errors"),
        energy_j=None if energy_mj is None else energy_mj / 1000,
    )


def _counters(note: dict[str, Any], index: int) -> dict[str, Any]:
    return next((gpu for gpu in note.get("gpus", []) if gpu.get("gpu") == index), {})


def _most_foreign(rows: list[_Row], before: dict[str, Any], after: dict[str, Any]) -> int:
    """Most foreign processes at one moment: over GPUs the most, as one process may use several."""
    counts = [row.foreign_pids for row in rows]
    counts += [int(note.get("foreign") or 0) for note in (before, after)]
    return max(counts, default=0)


def _reasons(rows: list[_Row]) -> tuple[str, ...]:
    mask = 0
    for row in rows:
        mask |= row.throttle
    known = [name for bit, name in THROTTLE_REASONS.items() if mask & bit and bit != _IDLE]
    unknown = mask & ~sum(THROTTLE_REASONS)
    return (*known, *((f"unknown_{unknown:#x}",) if unknown else ()))


def _number(note: dict[str, Any], name: str) -> float | None:
    value = note.get(name)
    return float(value) if isinstance(value, int | float) else None


def _share(name: str, before: dict[str, Any], after: dict[str, Any]) -> float | None:
    """Percent of all processor time between the two notes."""
    values = [_number(note, key) for key in (name, "total_s") for note in (before, after)]
    if any(value is None for value in values):
        return None
    a, b, start, end = (float(value or 0) for value in values)
    return round(100 * (b - a) / (end - start), 1) if end > start else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(math.fsum(known) / len(known), 1) if known else None


def _pick(choose: Callable[[list[float]], float], values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return choose(known) if known else None
