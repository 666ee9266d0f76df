"""Whole logs: every family's shape, several runs in a file, and every hazard of the field."""

from __future__ import annotations

import hashlib
import math

import pytest

from harness.log_families import FAMILIES
from harness.logs import (
    TrainPoint,
    describe_family,
    parse_log,
    read_log,
)
from tests.support.result_lines import FIXTURES, SEPARATOR, codes, one, train, val


def test_record_log_with_its_source() -> None:
    (run,) = read_log(FIXTURES / "record.txt")
    assert run.family == "H"
    assert [point.step for point in run.validations] == [0, 2, 4]
    assert run.train_points == tuple(TrainPoint(i, 30.0 * i) for i in (1, 2, 3, 4))
    assert (run.peak_alloc_mib, run.peak_reserved_mib) == (30220, 38672)
    assert run.complete
    assert run.final is run.validations[-1]
    environment = run.environment
    assert environment.python == "3.12.4"
    assert environment.torch == "2.10.0+cu128"
    assert environment.triton == "3.6.0"
    assert (environment.cuda, environment.driver_cuda) == ("12.8", "12.9")
    assert (environment.gpu, environment.gpu_count) == ("NVIDIA H100 80GB HBM3", 2)
    assert environment.gpu_memory_used_mib == (1530, 50215)
    assert environment.gpu_processes == 1
    assert environment.gpu_busy == (1,)
    assert "busy-gpus" in codes(run)


def test_embedded_source_is_the_script_to_the_byte() -> None:
    (run,) = read_log(FIXTURES / "record.txt")
    assert run.source is not None
    assert run.source.startswith('"""A toy script')
    assert run.source.endswith('MiB")\n')
    assert run.source_sha256 == hashlib.sha256(run.source.encode()).hexdigest()


def test_contract_stdout() -> None:
    (run,) = read_log(FIXTURES / "contract_stdout.log")
    assert run.family == "P"
    assert [point.loss_text for point in run.validations] == ["4.852030", "2.941173", "2.117406"]
    assert len(run.train_points) == 6
    assert run.complete
    assert run.source is None
    assert run.total_steps == 6


def test_grace_period_resets_the_clock() -> None:
    (run,) = read_log(FIXTURES / "grace.txt")
    assert run.family == "B"
    assert codes(run) == {"time-reset", "no-final-newline"}
    assert run.final is not None
    assert run.final.train_ms == 1010.0
    assert run.complete


def test_llmc_log() -> None:
    (run,) = read_log(FIXTURES / "llmc.log")
    assert run.family == "A"
    assert run.total_steps is None
    assert [point.step for point in run.validations] == [0, 2, 4]
    assert run.complete


def test_llmc_log_without_its_last_validation() -> None:
    run = one(["s:0 tel:10.9", "s:0 trl:10.9", "s:1 trl:10.8"])
    assert run.gaps == ("last validation at step 0, training on to 1",)


def test_trials_in_one_file_share_their_step_0() -> None:
    runs = read_log(FIXTURES / "trials.txt")
    assert [run.family for run in runs] == ["T3f"] * 3
    assert [run.run_index for run in runs] == [0, 1, 2]
    assert [(run.trial, run.seed) for run in runs] == [("1/3", 0), ("2/3", 1), ("3/3", 2)]
    assert [[point.step for point in run.validations] for run in runs] == [[0, 15, 30]] * 3
    assert runs[0].environment.world_size == 4
    assert all(run.complete for run in runs)


def test_shared_step_0_without_any_header() -> None:
    lines = [
        line
        for line in (FIXTURES / "trials.txt").read_text().splitlines()
        if not line.startswith(("trial:", "config "))
    ]
    runs = parse_log(lines)
    assert [[point.step for point in run.validations] for run in runs] == [[0, 15, 30]] * 3


def test_echoes_of_a_wrapper_are_no_runs() -> None:
    runs = read_log(FIXTURES / "batch_echo.out")
    assert [run.family for run in runs] == ["T3d", "T3d"]
    assert [run.seed for run in runs] == [2, 3]
    assert [len(run.validations) for run in runs] == [2, 2]
    assert all("echo" in codes(run) for run in runs)
    assert runs[0].environment.listed_gpus == ("NVIDIA H200",)
    assert runs[0].environment.gpu is None


def test_echoes_without_wrapper_lines() -> None:
    first = [val(50, "3.5", 50), val(100, "3.2", 100)]
    second = [val(50, "3.6", 51), val(100, "3.3", 101)]
    runs = parse_log([*first, *first, *second, *second])
    assert [[point.loss_text for point in run.validations] for run in runs] == [
        ["3.5", "3.2"],
        ["3.6", "3.3"],
    ]


def test_a_run_that_died_after_its_shared_step_0_stays_visible() -> None:
    start = val(0, "10.8", 0)
    runs = parse_log([start, val(100, "3.2", 100), start])
    assert [run.complete for run in runs] == [True, False]


def test_train_lines_part_runs_too() -> None:
    lines = [train(1, 10), train(2, 20), val(100, "3.2", 99), train(1, 11), train(2, 21)]
    runs = parse_log(lines)
    assert [len(run.train_points) for run in runs] == [2, 2]
    assert runs[1].gaps == ("no validation line",)


def test_failed_exit_status_of_a_wrapper() -> None:
    run = one(["=== seed 4 start x ===", val(100, "3.2", 9), "=== seed 4 exit_status=1 end x ==="])
    assert run.gaps == ("exit status 1",)


def test_missing_final_validation() -> None:
    run = one([val(50, "3.295", 50), train(99, 98), train(100, 99)])
    assert run.gaps == ("last validation at step 50 of 100, training on to 100",)
    assert not run.complete


def test_missing_end_marker_in_a_family_that_has_one() -> None:
    text = (FIXTURES / "record.txt").read_text()
    assert one(text.splitlines()[:-1]).gaps == ("no `peak memory` line at the end",)


def test_contract_log_with_source_needs_no_end_marker() -> None:
    head = ["import sys", SEPARATOR, "Running Python 3.12.4", "Running PyTorch 2.13.0+cpu"]
    run = one([*head, SEPARATOR, train(1, 5), val(100, "3.2", 100)])
    assert run.complete
    assert run.environment.torch == "2.13.0+cpu"
    assert run.source == "import sys\n"


@pytest.mark.parametrize("loss", ["nan", "inf"])
def test_diverged_run(loss: str) -> None:
    run = one([val(50, "3.4", 50), val(100, loss, 100)])
    assert run.final is not None
    assert not math.isfinite(run.final.loss_nats)
    assert "not-finite" in codes(run)
    assert run.gaps == (f"final val_loss is {loss}",)


def test_two_losses_at_one_step() -> None:
    run = one([val(100, "3.29", 99), val(100, "3.27", 100)])
    assert "two-losses" in codes(run)
    assert not run.complete
    assert [point.loss_text for point in run.validations] == ["3.29", "3.27"]


def test_two_ranks_that_print_one_loss_with_their_own_clocks() -> None:
    run = one([val(50, "3.4", 50), val(50, "3.4", 51), val(100, "3.2", 99), val(100, "3.2", 98)])
    assert [point.train_ms for point in run.validations] == [50.0, 99.0]
    assert "repeated" in codes(run)
    assert run.complete


def test_total_that_changes_within_a_run() -> None:
    run = one([val(50, "3.4", 50, 100), val(60, "3.2", 60, 60)])
    assert "total-changes" in codes(run)
    assert run.total_steps == 100
    assert not run.complete


def test_total_that_changes_among_training_lines() -> None:
    run = one([train(1, 1, 100), train(2, 2, 100), train(3, 3, 3), val(3, "3.2", 3, 3)])
    assert "total-changes" in codes(run)
    assert not run.complete


def test_clock_that_falls_late_is_no_grace_period() -> None:
    run = one([train(30, 300), train(31, 20), val(100, "3.2", 900)])
    assert "time-falls" in codes(run)
    assert run.family == "P"


def test_last_environment_block_counts() -> None:
    fake = [SEPARATOR, "Running Python 3.12.1 (fake)", val(100, "3.1", 1)]
    text = (FIXTURES / "record.txt").read_text().splitlines()
    run = one([*fake, *text])
    assert [point.loss_text for point in run.validations] == ["10.8258", "4.1000", "3.2775"]
    assert "early-block" in codes(run)
    assert run.environment.python == "3.12.4"


def test_banner_after_results_hides_nothing() -> None:
    run = one([val(50, "3.4", 50), val(100, "3.2", 100), SEPARATOR, "all done"])
    assert len(run.validations) == 2


def test_source_and_separator_without_environment() -> None:
    run = one(["import sys", "print('step:1/2 val_loss:9')", SEPARATOR, val(100, "3.2", 100)])
    assert run.source is not None
    assert "no-environment" in codes(run)


def test_unreadable_result_line_is_noted() -> None:
    run = one(["step:50/100 val_loss:3.2.2 train_time:5ms", val(100, "3.2", 100)])
    assert "unreadable" in codes(run)


def test_lines_with_and_without_their_ends_give_the_same() -> None:
    text = (FIXTURES / "record.txt").read_text()
    expected = parse_log(text.splitlines())
    assert parse_log(text.splitlines(keepends=True)) == expected
    assert parse_log(iter(text.replace("\n", "\r\n").splitlines(keepends=True))) == expected


def test_every_family_has_a_description() -> None:
    assert all(describe_family(code) for code in FAMILIES)
