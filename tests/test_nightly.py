"""Nights, changes of the record's time, and who did them."""

from __future__ import annotations

import math

import pytest
from scipy.stats import ttest_ind

from harness.nightly.assess import Assessment, assess
from harness.nightly.causes import compare_reference
from harness.nightly.nights import take_nights
from harness.nightly.table import (
    NightlyRow,
)
from harness.tracks.track import load_track
from tests.support.nightly import CLASS, make_history, make_row

SMALL = load_track("small")


def judged(rows: list[NightlyRow]) -> Assessment:
    return assess(rows, SMALL)


def suspects(rows: list[NightlyRow]) -> tuple[str, ...]:
    (finding,) = judged(rows).findings
    return finding.suspects


# -- nights ---------------------------------------------------------------------------------------


def test_a_night_is_the_median_of_its_counted_runs() -> None:
    rows = [
        make_row("warm-up", 1, train_ms=99_000.0),
        make_row(run=1, train_ms=79_000.0),
        make_row(run=2, train_ms=79_200.0),
        make_row(run=3, train_ms=92_000.0, note="throttled"),
        make_row(run=4, train_ms=10.0, counts=False, note="foreign process"),
        make_row(run=5, train_ms=None, state="failed", counts=False),
        make_row("reference", 1, train_ms=7.0, parts_ms="copy=8 matmul_bf16=6"),
        make_row("reference", 2, train_ms=7.2, parts_ms="copy=8.2 matmul_bf16=6.2"),
        make_row("reference", 3, train_ms=7.1, parts_ms="copy=8.1"),
    ]
    (night,) = take_nights(rows, CLASS)
    assert night.record_ms == 79_200.0
    assert night.runs == 3
    assert night.reference_ms == 7.1
    assert night.parts_ms == {"copy": 8.1}
    assert night.software["nvidia-nccl-cu12"] == "2.27.5"
    assert night.settings == {"power_limit_w": "700", "ecc": "True"}
    assert take_nights(rows[5:], CLASS) == ()


def test_hardware_classes_are_kept_apart_and_the_newest_is_judged() -> None:
    rows = make_history(12, seed=1)
    other = [
        row.model_copy(update={"hardware_class": "8 x H200", "train_ms": 70_000.0})
        for row in make_history(3, seed=2, sd=0.0)
    ]
    late = [row.model_copy(update={"utc": row.utc.replace("2026", "2027")}) for row in other]
    found = judged([*rows, *late])
    assert found.hardware_class == "8 x H200"
    assert len(found.nights) == 3
    assert found.findings == ()
    assert assess([*rows, *late], SMALL, CLASS).nights[0].record_ms > 78_000


# -- forty nights, a step of 0.4 % at night 25 -----------------------------------------------------


def first_alert(rows: list[NightlyRow]) -> int | None:
    """Night (from 1) whose arrival first makes `retime` alert: the table is judged every night."""
    nights = sorted({row.night for row in rows})
    for n in range(len(nights)):
        seen = set(nights[: n + 1])
        if judged([row for row in rows if row.night in seen]).alert:
            return n + 1
    return None


def test_a_step_at_night_25_alerts_within_three_nights_and_once() -> None:
    late = []
    for seed in range(8):
        alerted = first_alert(make_history(30, seed=seed, step=0.004))
        assert alerted is not None
        assert alerted >= 25
        late.append(alerted)
    assert sum(night <= 27 for night in late) >= 7
    rows = make_history(40, seed=0, step=0.004)
    assert not judged(rows).alert, "an alarm is raised once"
    (finding,) = judged(rows).findings
    assert finding.change.shift == pytest.approx(0.004, abs=0.001)
    assert finding.first.day == "2026-09-25"


def test_flat_nights_alert_seldom() -> None:
    alarms = sum(
        bool(judged(make_history(40, seed=100 + seed, runs=1)).findings) for seed in range(40)
    )
    assert alarms <= 4  # stated 2.6 %; 99.9 % of samples of 40 have at most 5


# -- who did it -----------------------------------------------------------------------------------


def test_the_reference_moved_too_hardware() -> None:
    slower = {"matmul_bf16": 0.006, "matmul_fp8": 0.006}
    rows = make_history(28, seed=3, step=0.004, reference_step=slower)
    assert suspects(rows) == ("hardware",)
    (finding,) = judged(rows).findings
    text = " ".join(finding.causes[-1].evidence)
    assert "matmul_bf16 moved too: +0.6" in text
    assert "reference copy" not in text


def test_a_reference_that_moves_the_other_way_is_no_witness() -> None:
    faster = dict.fromkeys(("matmul_bf16", "copy"), -0.01)
    assert suspects(make_history(28, seed=3, step=0.004, reference_step=faster)) == ()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"torch": "2.11.0"}, "torch 2.10.0 → 2.11.0 on 2026-09-25"),
        ({"driver": "580.1"}, "GPU driver 570.124 → 580.1 on 2026-09-25"),
        ({"fa3": "hub 99"}, "FlashAttention-3 xformers 0123456789ab → hub 99 on 2026-09-25"),
        ({"kernel": "6.9"}, "kernel 6.8.0 → 6.9 on 2026-09-25"),
        (
            {"libraries": "nvidia-nccl-cu12=2.28 xformers=0.0.34"},
            "nvidia-nccl-cu12 2.27.5 → 2.28 on 2026-09-25",
        ),
        ({"libraries": "xformers=0.0.34"}, "nvidia-nccl-cu12 2.27.5 → none on 2026-09-25"),
    ],
)
def test_versions_changed_software(changed: dict[str, str], says: str) -> None:
    rows = make_history(28, seed=3, step=0.004, **changed)
    assert suspects(rows) == ("software",)
    (finding,) = judged(rows).findings
    assert says in finding.causes[2].evidence
    assert finding.headline().endswith(": software")


def test_a_driver_that_moves_the_reference_leaves_two_suspects() -> None:
    rows = make_history(
        28, seed=3, step=0.004, reference_step=dict.fromkeys(("copy",), 0.01), driver="580.1"
    )
    assert suspects(rows) == ("software", "hardware")


def test_its_own_code_and_its_data() -> None:
    assert suspects(make_history(28, seed=3, step=-0.012, source_sha256="e" * 16)) == ("record",)
    assert suspects(make_history(28, seed=3, step=0.004, data_sha256="e" * 16)) == ("data",)


def test_a_setting_of_the_node_is_hardware() -> None:
    rows = make_history(28, seed=3, step=0.004, settings="power_limit_w=500 ecc=True")
    assert suspects(rows) == ("hardware",)
    assert "power_limit_w 700 → 500" in judged(rows).findings[0].causes[-1].evidence[1]


def test_another_node_is_evidence_and_convicts_only_where_the_reference_is_silent() -> None:
    rows = make_history(28, seed=3, step=0.004, node_sha256="e" * 16)
    (finding,) = judged(rows).findings
    assert finding.suspects == ()
    assert any("another node" in line for line in finding.causes[-1].evidence)
    silent = [row for row in rows if row.kind != "reference"]
    assert suspects(silent) == ("hardware",)


def test_nothing_changed_but_the_time_is_unexplained() -> None:
    rows = make_history(28, seed=3, step=0.004)
    assert suspects(rows) == ()
    assert judged(rows).findings[0].verdict() == "unexplained"


def test_a_changed_reference_says_nothing() -> None:
    rows = make_history(28, seed=3, step=0.004)
    rows = [
        row.model_copy(update={"source_sha256": "9" * 16})
        if row.kind == "reference" and row.night >= "2026-09-25"
        else row
        for row in rows
    ]
    cause = judged(rows).findings[0].causes[-1]
    assert cause.found is None
    assert "says nothing" in cause.evidence[0]


def test_clocks_that_fell_are_named() -> None:
    rows = make_history(28, seed=3, step=0.02, sm_clock_mean_mhz=1500.0, throttle="sw_power_cap")
    text = " ".join(judged(rows).findings[0].causes[-1].evidence)
    assert "mean SM clock 1755 → 1500 MHz" in text
    assert "sw_power_cap" in text


def test_the_references_test_is_scipys() -> None:
    nights = take_nights(make_history(20, seed=4), CLASS)
    moved = compare_reference(nights[:12], nights[12:])
    assert moved is not None
    whole = moved[0]
    one, two = (
        [math.log(n.reference_ms or 1) for n in part] for part in (nights[:12], nights[12:])
    )
    test = ttest_ind(two, one)
    assert whole.p == pytest.approx(test.pvalue, rel=1e-9)
    interval = test.confidence_interval(1 - 0.01 / 5)
    assert (whole.low, whole.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert len(moved) == 5
    assert compare_reference(nights[:1], nights[1:]) is None
