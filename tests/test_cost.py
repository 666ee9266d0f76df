"""What a design costs, before anything is bought."""

from __future__ import annotations

import pytest

from harness.cost import cost_table
from harness.stats.power import power_one_sample
from harness.tracks.track import load_track
from tests.support.series import fake_track

TRACK = fake_track(expected_run_s="360.0")


def test_hours_count_both_arms_and_the_warm_up_pair() -> None:
    rows = {row.design: row for row in cost_table(TRACK, 0.0015, 0.0014, 20.0)}
    assert next(iter(rows)) == "sequential 5/10/15/20"
    ten = rows["fixed 10"]
    assert ten.node_hours == pytest.approx(22 * 0.1)
    assert ten.dollars == pytest.approx(44.0)
    assert ten.power == pytest.approx(power_one_sample(10, 0.0015, 0.0014, 0.01))
    sequential = rows["sequential 5/10/15/20"]
    assert sequential.node_hours == pytest.approx((2 + sequential.mean_runs + 5) * 0.1)
    assert 5 <= sequential.mean_runs <= 20


def test_no_price_no_dollars() -> None:
    assert all(row.dollars is None for row in cost_table(TRACK, 0.0015, 0.0014, None))
    priced = cost_table(load_track("small"), 0.0015, 0.0014, None)
    assert all(row.dollars is not None and row.dollars > 0 for row in priced)


def test_more_margin_and_more_runs_mean_more_power() -> None:
    little, much = (cost_table(TRACK, margin, 0.0014, None) for margin in (0.0005, 0.003))
    for a, b in zip(little, much, strict=True):
        assert a.power < b.power or a.power == b.power == pytest.approx(1)
    fixed = [row.power for row in much if row.design.startswith("fixed")]
    assert fixed == sorted(fixed)
    assert little[0].mean_runs > much[0].mean_runs


def test_the_same_question_has_the_same_answer() -> None:
    assert cost_table(TRACK, 0.0015, 0.0014, 20.0) == cost_table(TRACK, 0.0015, 0.0014, 20.0)
