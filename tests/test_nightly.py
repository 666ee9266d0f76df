"""The nightly series: its table, what changed, who did it, the record's margin, the words."""

from __future__ import annotations

import json
import math
import multiprocessing
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import t as student
from scipy.stats import ttest_ind

from harness.errors import UnfitError, UsageError
from harness.nightly import table
from harness.nightly.assess import Assessment, assess
from harness.nightly.causes import compare_reference
from harness.nightly.document import document
from harness.nightly.margin import margin_of
from harness.nightly.nights import take_nights
from harness.nightly.reference import parse_reference
from harness.nightly.table import (
    COLUMNS,
    NightlyRow,
    append_rows,
    format_rows,
    parse_table,
    read_table,
)
from harness.nightly.text import issue, summary, title
from harness.tracks.track import load_track
from tests.support.nightly import CLASS, RECORD, RECORD_MS, make_history, make_row

SMALL = load_track("small")
HEADER = ",".join(COLUMNS) + "\n"


def judged(rows: list[NightlyRow]) -> Assessment:
    return assess(rows, SMALL)


def suspects(rows: list[NightlyRow]) -> tuple[str, ...]:
    (finding,) = judged(rows).findings
    return finding.suspects


# -- the table ------------------------------------------------------------------------------------

WORDS = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=30)


@settings(max_examples=60)
@given(
    note=WORDS,
    fa3=WORDS,
    train_ms=st.none() | st.floats(1e-3, 1e9),
    loss=st.none() | st.floats(-1e3, 1e3),
    steps=st.none() | st.integers(0, 10**9),
    counts=st.booleans(),
)
def test_what_is_written_is_read(note: str, fa3: str, **fields: Any) -> None:
    row = make_row(note=note, fa3=fa3, loss_nats=fields.pop("loss"), **fields)
    assert parse_table(HEADER + format_rows([row]), "t") == (row,)


def test_rows_are_added_and_old_bytes_stay(tmp_path: Path) -> None:
    path = tmp_path / "nightly" / "small.csv"
    assert read_table(path) == ()
    first, second = make_row(), make_row(run=2, note='a "quoted", note')
    append_rows(path, [first])
    before = path.read_bytes()
    append_rows(path, [second])
    assert path.read_bytes().startswith(before)
    assert read_table(path) == (first, second)
    assert [p.name for p in path.parent.iterdir()] == ["small.csv"]


def test_a_table_without_a_last_newline_or_with_foreign_ones_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "small.csv"
    for text in (
        HEADER + format_rows([make_row()]).rstrip("\n"),
        ("\ufeff" + HEADER + format_rows([make_row()])).replace("\n", "\r\n"),
    ):
        path.write_bytes(text.encode())
        append_rows(path, [make_row(run=2)])
        assert [row.run for row in read_table(path)] == [1, 2]
        assert path.read_bytes().startswith(text.encode())


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("", 1, "lacks"),
        ("a,b\n", 1, "unknown a, b"),
        (",".join(reversed(COLUMNS)) + "\n", 1, "another order"),
        (HEADER + "<<<<<<< ours\n" + format_rows([make_row()]), 2, "1 cells instead of"),
        (HEADER + format_rows([make_row()]).replace("79270.0", "-3"), 2, "train_ms"),
        (HEADER + format_rows([make_row()]).replace("79270.0", "nan"), 2, "train_ms"),
        (HEADER + format_rows([make_row()]).replace("record", "rekord"), 2, "kind"),
        (HEADER + format_rows([make_row()]) + "x" * 200_000 + "\n", 3, "field larger"),
        (HEADER + '"open', 2, "unexpected end"),
    ],
)
def test_a_broken_table_is_named_by_line_and_left_alone(
    tmp_path: Path, text: str, line: int, why: str
) -> None:
    path = tmp_path / "small.csv"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        append_rows(path, [make_row()])
    assert caught.value.where == f"{path}:{line}"
    assert why in caught.value.why
    assert path.read_text() == text


def _append(path: Path, run: int) -> None:
    append_rows(path, [make_row(run=run)])


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "small.csv"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append, args=(path, run)) for run in range(1, 13)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(row.run for row in read_table(path)) == list(range(1, 13))


def test_a_disk_that_fills_up_leaves_the_table_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "small.csv"
    append_rows(path, [make_row()])
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(table, "replace_file", full)
    with pytest.raises(UnfitError, match="cannot be written"):
        append_rows(path, [make_row(run=2)])
    assert path.read_bytes() == before


def test_rows_doubled_by_a_merge_count_once() -> None:
    rows = format_rows([make_row(), make_row(run=2)])
    assert len(parse_table(HEADER + rows + rows, "t")) == 2


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


# -- margin ---------------------------------------------------------------------------------------


def losses_of(values: list[float], **changes: Any) -> list[NightlyRow]:
    return [make_row(run=i + 1, loss_nats=x, **changes) for i, x in enumerate(values)]


def test_the_margin_is_the_mean_of_all_nights_with_its_interval() -> None:
    values = [3.2780, 3.2791, 3.2784, 3.2772]
    margin = margin_of(losses_of(values), RECORD, SMALL.contest)
    low, high = student.interval(0.95, 3, loc=3.28 - sum(values) / 4, scale=margin.sd_nats / 2)
    assert margin.margin_nats == pytest.approx(0.001825)
    assert (margin.low, margin.high) == pytest.approx((low, high))
    assert margin.n == 4
    assert margin.standing == "thin"


@pytest.mark.parametrize(
    ("centre", "standing"),
    [(3.275, "kept"), (3.2795, "eaten"), (3.2812, "missed"), (3.279, "thin")],
)
def test_what_is_said_of_the_buffer(centre: float, standing: str) -> None:
    values = [centre + 0.0002 * (i % 3 - 1) for i in range(9)]
    assert margin_of(losses_of(values), RECORD, SMALL.contest).standing == standing


def test_other_sources_references_and_unfinished_runs_do_not_enter() -> None:
    rows = [
        *losses_of([3.278, 3.279]),
        make_row("warm-up", loss_nats=3.28),
        *losses_of([3.1, 3.1], source_sha256="e" * 16),
        make_row(run=9, state="failed", counts=False, loss_nats=9.0),
        make_row("reference", loss_nats=1.0, source_sha256=RECORD),
    ]
    margin = margin_of(rows, RECORD, SMALL.contest)
    assert margin.n == 3  # a loss does not depend on cold caches
    assert margin.mean_nats == pytest.approx(3.279)


def test_a_record_that_repeats_itself_is_one_piece_of_evidence() -> None:
    margin = margin_of(losses_of([3.278] * 6), RECORD, SMALL.contest)
    assert (margin.n, margin.repeats, margin.standing) == (1, True, "unknown")
    assert margin.high == math.inf


def test_thirty_nights_settle_the_buffer() -> None:
    """Standard error of ninety losses: .00015 nats."""
    margin = margin_of(make_history(30, seed=5), RECORD, SMALL.contest)
    assert (margin.high - margin.low) / 2 == pytest.approx(1.98 * 0.0014 / math.sqrt(120), rel=0.15)


def test_a_loss_that_rose_with_the_same_code_alerts() -> None:
    rows = make_history(27, seed=6, loss=lambda night: 3.2786 + (0.006 if night >= 24 else 0))
    found = judged(rows)
    assert found.findings == ()
    (move,) = found.loss_moves
    assert move.first_day == "2026-09-25"
    assert "nats higher" in move.headline()
    raised = [r for r in rows if r.night <= move.raised_night]
    assert judged(raised).alert
    assert "nats higher" in title(judged(raised))


# -- words ----------------------------------------------------------------------------------------


def test_the_summary_of_an_alarm() -> None:
    rows = make_history(26, seed=3, step=0.004, torch="2.11.0")
    text = summary(judged(rows))
    assert text.startswith("# Nightly small on 8 x H100: 0.40 % slower since 2026-09-25")
    assert "| software | yes | torch 2.10.0 → 2.11.0 on 2026-09-25 |" in text
    assert "| hardware | no | reference as a whole did not move with it" in text
    assert "**Margin** +0.0" in text
    assert "one false alarm in 1,000 quiet nights" in text
    assert "2026-09-26" in text.split("| night |")[1]


def test_the_summary_of_quiet_and_of_young_series() -> None:
    quiet = summary(judged(make_history(20, seed=3)))
    assert quiet.startswith("# Nightly small on 8 x H100: no change")
    assert "Night-to-night sd 0.1" in quiet
    assert "still learning its own noise: 7 nights to go" in summary(judged(make_history(3)))
    assert "no night with a time yet" in summary(judged([]))
    failed = summary(judged([]), ["record 1: exit code 1"])
    assert "1 run failed" in failed
    assert "record 1: exit code 1" in failed


def test_old_changes_and_single_bad_nights_are_kept_in_sight() -> None:
    rows = make_history(40, seed=0, step=0.004)
    rows = [
        row.model_copy(update={"train_ms": row.train_ms * 1.05})
        if row.night == "2026-10-05_small" and row.kind == "record" and row.train_ms
        else row
        for row in rows
    ]
    text = summary(judged(rows))
    earlier = text.split("**Earlier**")[1]
    assert "slower since 2026-09-25" in earlier
    assert "2026-10-05: a single night +4.9" in earlier


def test_hostile_words_stay_words() -> None:
    rows = make_history(26, seed=3, step=0.004, driver="<img src=x> @all | \x1b[2J")
    text = issue(judged(rows), ["record 1: `x` | <b>"], "speedrun retime")
    for bad in ("<img", "<b>", "@all", "\x1b"):
        assert bad not in text
    (line,) = [line for line in text.splitlines() if "&lt;img" in line]
    assert len(re.findall(r"(?<!\\)\|", line)) == 4, "a cell stays one cell"


def test_the_issue_is_title_empty_line_body() -> None:
    found = judged(make_history(26, seed=3, step=0.004))
    lines = issue(found, [], "speedrun retime --track small --runs 3").splitlines()
    assert lines[0] == title(found)
    assert lines[1] == ""
    assert lines[2].startswith("The record took")
    assert lines[-2] == "speedrun retime --track small --runs 3"


def test_the_document_is_json_and_complete() -> None:
    rows = make_history(26, seed=3, step=0.004, torch="2.11.0")
    found = judged(rows)
    tonight = [row for row in rows if row.night == found.nights[-1].name]
    text = json.dumps(document(found, tonight, [], 1, Path("results/nightly/x")), allow_nan=False)
    read = json.loads(text)
    assert read["alert"] is True
    (change,) = read["changes"]
    assert change["suspects"] == ["software"]
    assert change["shift"] == pytest.approx(0.004, abs=0.001)
    assert read["margin"]["n"] == 26 * 4
    assert len(read["runs"]) == 7
    assert read["level_ms"] > RECORD_MS


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.integers(0, 1000), st.integers(0, 14), st.floats(-0.5, 0.5))
def test_any_table_gives_an_answer(seed: int, nights: int, step: float) -> None:
    rows = make_history(nights, seed=seed, step=step, at=7, runs=1)
    found = judged(rows)
    assert summary(found)
    document(found, [], [], 0, None)


# -- the reference's output -----------------------------------------------------------------------


def test_parts_are_read_and_weigh_alike() -> None:
    text = 'noise\n{"reference": "gpu", "parts_ms": {"copy": 2.0, "matmul": 8.0}}\nmore\n'
    figure = parse_reference(text)
    assert figure is not None
    assert figure.time_ms == pytest.approx(4.0)
    assert figure.parts_ms == {"copy": 2.0, "matmul": 8.0}


def test_lines_of_the_contract_will_do() -> None:
    lines = [
        f"step:{n}/9 val_loss:1 train_time:{ms}ms step_avg:1ms" for n, ms in ((0, 0), (9, 1234))
    ]
    text = "\n".join(lines) + "\n"
    figure = parse_reference(text)
    assert figure is not None
    assert (figure.time_ms, figure.parts_ms) == (1234.0, {})


@pytest.mark.parametrize(
    "line",
    [
        "",
        "hello",
        "{",
        "[" * 100_000,
        '{"parts_ms": {}}',
        '{"parts_ms": {"copy": 0}}',
        '{"parts_ms": {"copy": NaN}}',
        '{"parts_ms": {"copy": true}}',
        '{"parts_ms": {"a b=c": 1.0}}',
        '{"parts_ms": [1.0]}',
        "step:9/9 val_loss:1 train_time:0ms step_avg:1ms",
    ],
)
def test_anything_else_is_no_figure(line: str) -> None:
    assert parse_reference(line) is None
