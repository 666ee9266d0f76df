"""Rows -> nights: one figure a night for the record, and one for the reference beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from harness.nightly.table import NightlyRow, pairs

SOFTWARE = {
    "driver": "GPU driver",
    "cuda_driver": "CUDA of the driver",
    "torch": "torch",
    "torch_cuda": "torch's CUDA",
    "triton": "triton",
    "fa3": "FlashAttention-3",
    "python": "Python",
    "kernel": "kernel",
    "harness": "speedrun",
}


@dataclass(frozen=True, slots=True)
class Night:
    """One night on one node.

    record_ms      median training time of the counted record runs, `runs` of them: one throttled
                   run of three does not move it
    reference_ms   median of the reference runs; None if none finished. parts_ms likewise
    software, settings  name -> version or value, as the night's record runs saw them
    clock_mhz      median SM clock of the record runs; None without GPUs
    """

    name: str
    utc: str
    record_ms: float
    runs: int
    reference_ms: float | None
    parts_ms: dict[str, float]
    source: str
    reference_source: str
    data: str
    node: str
    software: dict[str, str]
    settings: dict[str, str]
    clock_mhz: float | None
    throttle: tuple[str, ...]

    @property
    def day(self) -> str:
        return self.utc[:10]


def hardware_classes(rows: Iterable[NightlyRow]) -> tuple[str, ...]:
    """Classes of the table, the one with the newest run last."""
    newest: dict[str, str] = {}
    for row in rows:
        newest[row.hardware_class] = max(row.utc, newest.get(row.hardware_class, ""))
    return tuple(sorted(newest, key=lambda name: (newest[name], name)))


def take_nights(rows: Sequence[NightlyRow], hardware_class: str) -> tuple[Night, ...]:
    """Nights of one class, oldest first. A night in which no record run counts has no figure and
    is left out."""
    groups: dict[tuple[str, str], list[NightlyRow]] = {}
    for row in rows:
        if row.hardware_class == hardware_class:
            # The node is part of the key: two clones may both write a 2026-11-20_small.
            groups.setdefault((row.night, row.node_sha256), []).append(row)
    nights = [_night(group) for group in groups.values() if _timed(group, "record")]
    return tuple(sorted(nights, key=lambda night: (night.utc, night.name)))


def _timed(rows: Iterable[NightlyRow], kind: str) -> list[NightlyRow]:
    """Runs of a kind whose time counts, in the order they began."""
    found = [
        row
        for row in rows
        if row.kind == kind and row.counts and row.state == "finished" and row.train_ms is not None
    ]
    return sorted(found, key=lambda row: row.utc)


def _night(rows: list[NightlyRow]) -> Night:
    record, reference = _timed(rows, "record"), _timed(rows, "reference")
    first = record[0]
    clocks = [row.sm_clock_mean_mhz for row in record if row.sm_clock_mean_mhz is not None]
    names = set.intersection(*(set(row.parts()) for row in reference)) if reference else set()
    software = {label: getattr(first, name) for name, label in SOFTWARE.items()}
    return Night(
        name=first.night,
        utc=min(row.utc for row in rows),
        record_ms=median(row.train_ms or 0.0 for row in record),
        runs=len(record),
        reference_ms=median(row.train_ms or 0.0 for row in reference) if reference else None,
        parts_ms={name: median(row.parts()[name] for row in reference) for name in sorted(names)},
        source=first.source_sha256,
        reference_source=reference[0].source_sha256 if reference else "",
        data=first.data_sha256,
        node=first.node_sha256,
        software={**software, **pairs(first.libraries)},
        settings=pairs(first.settings),
        clock_mhz=median(clocks) if clocks else None,
        throttle=tuple(sorted({word for row in record for word in row.throttle.split()})),
    )
