"""Nights made of numbers: rows as `retime` writes them, whole histories of them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from harness.nightly.table import NightlyRow

CLASS = "8 x H100"
RECORD, REFERENCE = "a" * 16, "b" * 16
BEGIN = datetime(2026, 9, 1, 3, 17, tzinfo=UTC)
RECORD_MS = 79_270.0
PARTS_MS = {"matmul_bf16": 8.4, "matmul_fp8": 4.9, "copy": 8.6, "all_reduce": 7.1}


def make_row(kind: str = "record", run: int = 1, **changes: Any) -> NightlyRow:
    """One finished run."""
    is_record = kind != "reference"
    fields: dict[str, Any] = {
        "utc": "2026-09-01T03:17:00.000Z",
        "night": "2026-09-01_small",
        "kind": kind,
        "run": run,
        "state": "finished",
        "counts": kind != "warm-up",
        "note": "",
        "train_ms": RECORD_MS if is_record else 7.08,
        "loss_nats": 3.2786 if is_record else None,
        "steps": 1390 if is_record else None,
        "parts_ms": "",
        "wall_s": 200.0 if is_record else 9.0,
        "hardware_class": CLASS,
        "node_sha256": "c" * 16,
        "settings": "power_limit_w=700 ecc=True",
        "source_sha256": RECORD if is_record else REFERENCE,
        "data_sha256": "d" * 16 if is_record else "",
        "commit": "123456789abc",
        "driver": "570.124",
        "cuda_driver": "12.8",
        "torch": "2.10.0",
        "torch_cuda": "12.8",
        "triton": "3.6.0",
        "fa3": "xformers 0123456789ab",
        "python": "3.12.4",
        "kernel": "6.8.0",
        "libraries": "nvidia-nccl-cu12=2.27.5 xformers=0.0.34",
        "harness": "0.1.0",
        "sm_clock_mean_mhz": 1755.0,
        "sm_clock_slowest_mhz": 1740.0,
        "temp_max_c": 61.0,
        "power_mean_w": 655.0,
        "throttle": "",
        "load_before": 1.2,
    }
    return NightlyRow(**{**fields, **changes})


def make_history(
    nights: int,
    *,
    seed: int = 1,
    sd: float = 0.001,
    step: float = 0.0,
    at: int = 24,
    reference_step: dict[str, float] | None = None,
    loss: Callable[[int], float] = lambda night: 3.2786,
    runs: int = 3,
    **changed: Any,
) -> list[NightlyRow]:
    """Nights of warm-up, records and references; from night `at` on times are longer by `step`.

    sd              night-to-night, relative; runs of a night differ by a third of it
    reference_step  part -> relative shift from night `at` on
    changed         fields of every row from night `at` on
    """
    draw = np.random.default_rng(seed)
    rows = []
    for night in range(nights):
        begun = BEGIN + timedelta(days=night)
        after = night >= at
        of_night = float(draw.normal(0, sd))
        common: dict[str, Any] = {
            "night": f"{begun.date().isoformat()}_small",
            **(changed if after else {}),
        }

        def moment(minutes: float, begun: datetime = begun) -> str:
            utc = (begun + timedelta(minutes=minutes)).isoformat(timespec="milliseconds")
            return utc.replace("+00:00", "Z")

        for run in range(runs + 1):
            factor = 1 + of_night + float(draw.normal(0, sd / 3)) + (step if after else 0.0)
            rows.append(
                make_row(
                    "record" if run else "warm-up",
                    run or 1,
                    utc=moment(4 * run),
                    train_ms=round(RECORD_MS * factor),
                    loss_nats=round(loss(night) + float(draw.normal(0, 0.0014)), 5),
                    **common,
                )
            )
            if not run:
                continue
            shifts = reference_step or {}
            parts = {
                name: ms * (1 + float(draw.normal(0, sd)) + (shifts.get(name, 0.0) * after))
                for name, ms in PARTS_MS.items()
            }
            mean = float(np.exp(np.mean(np.log(list(parts.values())))))
            reference = {k: v for k, v in common.items() if k != "source_sha256"}
            rows.append(
                make_row(
                    "reference",
                    run,
                    utc=moment(4 * run + 3.5),
                    train_ms=float(f"{mean:.8g}"),
                    parts_ms=" ".join(f"{name}={ms:.6g}" for name, ms in parts.items()),
                    **reference,
                )
            )
    return rows
