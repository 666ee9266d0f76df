"""The sampler, its file and the summary, on pretended GPUs and on none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import gpu_processes
from harness.errors import EvidenceError
from harness.gpu_processes import Ownership, foreign_processes
from harness.nvml import open_nvml
from harness.runner.telemetry_process import TelemetrySampler
from harness.telemetry import RunTelemetry, summarise_csv
from harness.telemetry_file import COLUMNS, HEADER
from tests.support.gpus import pretend, pretend_none

ROOT = Path(__file__).resolve().parents[1]


def sampled(path: Path, seconds: float = 0.5) -> RunTelemetry:
    with TelemetrySampler(path, interval_s=0.1) as sampler:
        time.sleep(seconds)
    assert sampler.problem == ""
    return summarise_csv(path.read_text(encoding="utf-8"))


def row(
    at: float, gpu: str = "0", clock: str = "1700", throttle: str = "0x4", util: str = "99"
) -> str:
    cells = dict.fromkeys(COLUMNS, "")
    cells |= {"utc": "2026-11-20T00:00:00Z", "monotonic_s": f"{at}", "gpu": gpu}
    cells |= {"sm_clock_mhz": clock, "throttle": throttle, "util_pct": util, "temp_c": "61"}
    cells |= {"power_w": "690.5", "foreign_pids": "0"}
    return ",".join(cells[name] for name in COLUMNS)


def file_of(*rows: str) -> str:
    return "\n".join((HEADER, *rows)) + "\n"


def test_eight_gpus_through_the_real_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend(monkeypatch)
    summary = sampled(tmp_path / "run.gpu.csv")
    assert summary.complete
    assert summary.samples >= 3
    assert len(summary.gpus) == 8
    assert summary.sm_clock_slowest_mhz == 1755 - 15 * 7
    assert summary.sm_clock_mean_mhz == pytest.approx(1755 - 15 * 3.5)
    assert (summary.temp_max_c, summary.temp_before_c) == (67, 67)
    assert summary.power_mean_w == 690.5
    assert summary.throttle == ("sw_power_cap",)
    assert not summary.hw_slowdown
    assert summary.foreign_processes == 0
    # the pretended counter grows 700 J between the two readings of each GPU
    assert summary.energy_j == 8 * 700
    assert summary.gpus[0].hw_slowdown_ms == 0
    assert summary.gpus[0].nvlink_errors is None
    assert summary.sampler_cpu_s is not None


def test_throttling_in_one_sample_and_in_a_counter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend(monkeypatch, throttle={"5": 0x48})
    summary = sampled(tmp_path / "a.csv", 0.2)
    assert summary.hw_slowdown
    assert summary.throttle == ("sw_power_cap", "hw_slowdown", "hw_thermal")
    assert summary.gpus[5].throttle == ("hw_slowdown", "hw_thermal")
    assert summary.gpus[4].throttle == ("sw_power_cap",)
    # A slowdown that fell between two samples shows in the driver's counter alone.
    pretend(monkeypatch, hw_thermal_ns=250_000_000)
    summary = sampled(tmp_path / "b.csv", 0.2)
    assert summary.throttle == ("sw_power_cap",)
    assert summary.gpus[0].hw_slowdown_ms == 250
    assert summary.hw_slowdown


def test_foreign_process_is_counted_and_ours_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Numbers that mean nothing here, there before the run began: processes outside our namespace.
    pretend(monkeypatch, pids={"2": [999_999_001, 999_999_002], "3": [999_999_001]})
    assert sampled(tmp_path / "a.csv", 0.2).foreign_processes == 2


def test_what_the_run_before_leaves_behind_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend(monkeypatch, pids={"2": [999_999_001]}, pids_reads=3)
    assert sampled(tmp_path / "a.csv", 0.2).foreign_processes == 0


def test_missing_calls_leave_gaps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    missing = ["ClockInfo", "Temperature", "PowerUsage", "UtilizationRates", "FieldValues"]
    missing += ["CurrentClocksEventReasons", "TotalEnergyConsumption", "MemoryInfo"]
    pretend(monkeypatch, count=1, unsupported=[f"nvmlDeviceGet{name}" for name in missing])
    summary = sampled(tmp_path / "a.csv", 0.2)
    assert summary.samples >= 1
    assert (summary.sm_clock_mean_mhz, summary.temp_max_c, summary.power_mean_w) == (None,) * 3
    assert (summary.energy_j, summary.gpus[0].hw_slowdown_ms) == (None, None)
    assert not summary.hw_slowdown


def test_without_gpus_load_and_processor_are_recorded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend_none(monkeypatch)
    started = time.monotonic()
    summary = sampled(tmp_path / "a.csv", 0.3)
    assert time.monotonic() - started < 5
    assert summary.gpus == ()
    assert summary.samples >= 2
    assert summary.load_before is not None
    assert summary.cpu_busy_pct is not None
    assert not summary.hw_slowdown
    assert foreign_processes() == ()


def test_a_short_run_still_has_both_notes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend(monkeypatch, count=1)
    assert sampled(tmp_path / "a.csv", 0.0).complete


def test_a_file_that_cannot_be_written_is_a_problem_and_no_exception(tmp_path: Path) -> None:
    for path, words in ((Path("/dev/full"), "No space left"), (tmp_path / "x/y", "No such file")):
        if path.is_relative_to("/dev") and not path.exists():
            continue
        with TelemetrySampler(path, interval_s=0.05) as sampler:
            time.sleep(0.1)
        assert words in sampler.problem


def test_the_sampler_does_not_outlive_a_killed_harness(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend_none(monkeypatch)
    code = (
        "import sys, time; from pathlib import Path\n"
        "from harness.runner.telemetry_process import TelemetrySampler\n"
        "with TelemetrySampler(Path(sys.argv[1]), 0.1) as s:\n"
        "    print(s._process.pid, flush=True); time.sleep(60)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ['PYTHONPATH']}")
    path = tmp_path / "a.csv"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    ) as harness:
        assert harness.stdout is not None
        sampler = psutil.Process(int(harness.stdout.readline()))
        assert sampler.nice() >= 10
        harness.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs([sampler], timeout=5)
    assert alive == []
    assert summarise_csv(path.read_text()).complete


def test_means_are_of_busy_samples() -> None:
    text = file_of(
        row(1, clock="345", throttle="0x1", util="0"),
        row(2, clock="1700"),
        row(3, clock="1800"),
    )
    summary = summarise_csv(text)
    assert (summary.samples, summary.gpus[0].busy_samples) == (3, 2)
    assert summary.sm_clock_mean_mhz == 1750
    assert summary.sm_clock_min_mhz == 1700
    assert summary.throttle == ("sw_power_cap",)  # idling is no throttling
    assert not summary.complete


def test_a_span_restricts_the_samples() -> None:
    text = file_of(row(1, clock="1000"), row(2, clock="1700"), row(3, clock="1000"))
    assert summarise_csv(text, begin_s=1.5, end_s=2.5).sm_clock_mean_mhz == 1700


def test_cut_and_empty_files() -> None:
    text = file_of(row(1), row(2))
    assert summarise_csv(text + row(3)[:20]).samples == 2
    assert summarise_csv("").samples == 0
    assert summarise_csv(HEADER[:9]).samples == 0
    assert summarise_csv(HEADER + "\n").samples == 0


def test_unknown_throttle_bits_are_shown() -> None:
    assert summarise_csv(file_of(row(1, throttle="0x1004"))).throttle == (
        "sw_power_cap",
        "unknown_0x1000",
    )


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("a,b,c", "3 cells"),
        (row(1, clock="nan"), "sm_clock_mhz is nan"),
        (row(1, clock="1e300"), "sm_clock_mhz is 1e300"),
        (row(1, gpu="x"), "invalid literal"),
        ("# between {}", "unknown note"),
        ('# after {"host": 3, "gpus": [], "foreign": 0}', "a note holds"),
        ('# after {"host": {"load_1m": NaN}, "gpus": [], "foreign": 0}', "a host figure"),
        ('# after {"host": {}, "gpus": [{"energy_mj": 1e999}], "foreign": 0}', "a counter"),
        ("# after " + "[" * 100_000, ""),
    ],
)
def test_malformed_lines_are_named(bad: str, words: str) -> None:
    with pytest.raises(EvidenceError) as caught:
        summarise_csv(file_of(row(1)) + bad + "\n")
    assert caught.value.where == "line 3"
    assert words in caught.value.why
    assert len(caught.value.why) < 500


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=200))
def test_any_text_gives_a_summary_or_a_clear_error(noise: str) -> None:
    for text in (noise, file_of(row(1)) + noise + "\n", "# after " + noise + "\n"):
        problem = _problem(text)
        assert problem is None or problem.where.startswith("line ")


def _problem(text: str) -> EvidenceError | None:
    try:
        summarise_csv(text)
    except EvidenceError as error:
        return error
    return None


def test_preflight_names_processes_and_unexplained_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, pids={"0": [999_999_001]})
    (found,) = foreign_processes()
    assert (found.gpu, found.pid, found.memory_mib) == (0, 999_999_001, 512)
    assert "outside this container" in str(found)
    pretend(monkeypatch, count=2, used_mib=50_215)
    first, second = foreign_processes()
    assert (first.pid, second.gpu) == (None, 1)
    assert "50215 MiB in use" in first.name
    pretend(monkeypatch)
    assert foreign_processes() == ()


def test_ownership_follows_the_process_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_processes, "holds_nvidia_device", lambda _: True)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"]) as child:
        ours = Ownership(os.getpid())
        assert ours.foreign([child.pid, os.getpid(), 1]) == [1]
        assert Ownership(child.pid).foreign([child.pid, os.getpid()]) == [os.getpid()]
        child.kill()
        child.wait()
        # Known as ours while it lived, it stays ours as long as the driver lists it.
        assert ours.foreign([child.pid]) == []


def test_numbers_of_another_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listed number that names, by chance, a process here without an NVIDIA device open."""
    monkeypatch.setattr(gpu_processes, "holds_nvidia_device", lambda _: False)
    owner = Ownership(os.getpid(), before=frozenset({41}))
    assert owner.foreign([41, 42]) == [41]


def test_nvml_without_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with open_nvml() as nvml:
        assert nvml.gpus == []
        assert nvml.problem
        assert nvml.ask("nvmlDeviceGetCount") is None
