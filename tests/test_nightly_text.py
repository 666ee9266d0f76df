"""The record's margin over all nights, and the night in words."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

from harness.nightly.assess import Assessment, assess
from harness.nightly.document import document
from harness.nightly.margin import margin_of
from harness.nightly.table import (
    NightlyRow,
)
from harness.nightly.text import issue, summary, title
from harness.tracks.track import load_track
from tests.support.nightly import RECORD, RECORD_MS, make_history, make_row

SMALL = load_track("small")


def judged(rows: list[NightlyRow]) -> Assessment:
    return assess(rows, SMALL)


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


def test_an_empty_series_is_said_in_whole_sentences() -> None:
    text = summary(assess([], load_track("tiny")))
    assert text.startswith(
        "# Nightly tiny: no run is recorded yet\n\nThere is no night with a time yet."
    )
    assert "0 nights; change-point model" in text
