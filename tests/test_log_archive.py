"""The field's own logs: every figure of every run, where they lie beside the project."""

from __future__ import annotations

import csv

import pytest

from harness.logs import (
    read_log,
)
from tests.support.result_lines import SHARED, codes

needs_archive = pytest.mark.skipif(
    not (SHARED / "archive_expected.csv").is_file(), reason="no ../shared/logs beside the project"
)


def expected_rows() -> list[dict[str, str]]:
    path = SHARED / "archive_expected.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def text_of(value: object) -> str:
    return "" if value is None else str(value)


@needs_archive
@pytest.mark.parametrize("name", sorted({row["file"] for row in expected_rows()}) or ["none"])
def test_archive(name: str) -> None:
    rows = [row for row in expected_rows() if row["file"] == name]
    runs = read_log(SHARED / "archive" / name)
    assert len(runs) == len(rows)
    for row, run in zip(rows, runs, strict=True):
        final, environment = run.final, run.environment
        assert final is not None
        found = {
            "format_family": run.family,
            "run_index": str(run.run_index),
            "n_runs_in_file": str(len(runs)),
            "torch": text_of(environment.torch),
            "python": text_of(environment.python),
            "gpu": text_of(environment.gpu),
            "gpu_count_nvidia_smi": text_of(environment.gpu_count),
            "world_size_stated": text_of(environment.world_size),
            "total_steps": text_of(run.total_steps),
            "final_step": str(final.step),
            "final_val_loss": final.loss_text,
            "train_time_ms": "" if final.train_ms is None else f"{final.train_ms:.0f}",
            "step_avg_ms": "" if final.step_avg_ms is None else f"{final.step_avg_ms:.2f}",
            "peak_alloc_mib": text_of(run.peak_alloc_mib),
            "peak_reserved_mib": text_of(run.peak_reserved_mib),
            "n_val_lines": str(len(run.validations)),
            "truncated_or_crashed": "" if run.complete else "final_val_step<total",
        }
        wanted = {key: row[key] for key in found}
        wanted["format_family"] = wanted["format_family"].split("_")[0].split("+")[0]
        assert found == wanted


@needs_archive
def test_archive_times_reset_exactly_in_the_grace_families() -> None:
    for path in sorted((SHARED / "archive").iterdir()):
        for run in read_log(path):
            reset = any(note.startswith("time-reset") for note in run.notes)
            assert reset == (run.family in {"B", "C", "D", "E1"}), path.name
            assert "time-falls" not in codes(run), path.name
