"""What the hardware check says of clocks. Its refusals: tests/exploits/test_other_hardware.py."""

from __future__ import annotations

from harness.telemetry import summarise_csv
from harness.verdict import judge
from tests.support.series import make_bundle, make_plan, make_run

HEADER = (
    "utc,monotonic_s,gpu,sm_clock_mhz,mem_clock_mhz,temp_c,power_w,throttle,util_pct,"
    "memory_used_mib,foreign_pids,load_1m,cpu_mhz\n"
)


def telemetry(mhz: int, watts: float, throttle: str = "0x4"):
    """Two seconds at work and one idle."""
    rows = [(mhz - 10, watts, throttle, 99), (mhz + 10, watts, throttle, 98), (345, 80, "0x1", 0)]
    return summarise_csv(
        HEADER
        + "".join(
            f"2026-11-20T12:00:0{i}Z,{100 + i},0,{clock},3201,50,{power},{why},{util},9,0,1,2100\n"
            for i, (clock, power, why, util) in enumerate(rows)
        )
    )


def details(runs) -> str:
    checks = judge(make_bundle(make_plan(), runs)).checks
    return " ".join(next(check for check in checks if check.id == "hardware").details)


def test_what_the_gpus_ran_at_is_told_for_each_arm() -> None:
    runs = [make_run("candidate", i, telemetry=telemetry(1700 + i, 685.0)) for i in (1, 2, 3)]
    runs += [make_run("baseline", i, telemetry=telemetry(1980, 410.0, "0x0")) for i in (1, 2, 3)]
    assert details(runs) == (
        "clocks while busy: candidate: 1,702 MHz at 685 W a GPU, lowered by sw power cap; "
        "baseline: 1,980 MHz at 410 W a GPU"
    )


def test_warm_up_runs_and_other_states_do_not_count() -> None:
    runs = [
        make_run("candidate", 0, telemetry=telemetry(900, 100.0)),
        make_run("candidate", 1, state="failed", telemetry=telemetry(900, 100.0)),
        make_run("candidate", 2, telemetry=telemetry(1500, 600.0)),
    ]
    assert details(runs).startswith("clocks while busy: candidate: 1,500 MHz at 600 W a GPU")


def test_without_gpus_nothing_is_said() -> None:
    assert details([make_run("candidate", 1), make_run("baseline", 1)]) == ""
