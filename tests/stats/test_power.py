"""power.py against the published power table, scipy and simulation."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.stats.power import (
    Price,
    advise,
    power_one_sample,
    runs_needed,
    shrunk_margin,
    shrunk_sd,
    z_runs_needed,
)

QUICK = settings(deadline=None, derandomize=True, database=None, max_examples=100)
SIGMA = 0.00141
TABLE = Path(__file__).parents[2] / "../shared/logs/power_expected.csv"


def test_reproduces_the_power_table() -> None:
    if not TABLE.exists():
        pytest.skip("../shared/logs is not beside the project")
    rows = list(csv.DictReader(TABLE.read_text().splitlines()))
    assert len(rows) == 30
    for row in rows:
        sd, margin = float(row["sd"]), float(row["buffer"])
        for percent in (80, 90, 95):
            assert runs_needed(margin, sd, percent / 100) == int(row[f"n{percent}"])
        for n in (4, 5, 7, 8, 10, 13, 15, 20):
            power = power_one_sample(n, margin, sd)
            assert power == pytest.approx(float(row[f"power_n{n}"]), abs=0.000501)


@pytest.mark.parametrize(
    ("margin", "runs"),
    [
        (0.0005, [83, 107, 129]),
        (0.0010, [23, 29, 35]),
        (0.0012, [17, 21, 25]),
        (0.0015, [12, 15, 17]),
        (0.0020, [8, 10, 11]),
        (0.0030, [6, 6, 7]),
    ],
)
def test_runs_at_the_archive_sigma(margin: float, runs: list[int]) -> None:
    assert [runs_needed(margin, SIGMA, power) for power in (0.8, 0.9, 0.95)] == runs


@pytest.mark.parametrize(
    ("margin", "runs"), [(0.001, [31, 38, 45]), (0.0015, [14, 17, 20]), (0.002, [8, 10, 12])]
)
def test_runs_of_the_z_rule(margin: float, runs: list[int]) -> None:
    assert [z_runs_needed(margin, power=power) for power in (0.8, 0.9, 0.95)] == runs
    assert z_runs_needed(0.0) is None


def test_power_by_simulation() -> None:
    # 100,000 replicates of n = 10, margin .0015: SE .0015.
    runs = 3.2785 + SIGMA * np.random.default_rng(1).standard_normal((100_000, 10))
    p = stats.ttest_1samp(runs, 3.28, axis=1, alternative="less").pvalue
    assert power_one_sample(10, 0.0015, SIGMA) == pytest.approx(np.mean(p < 0.01), abs=0.006)


@QUICK
@given(st.integers(2, 200), st.floats(0.0, 3.0), st.sampled_from([0.01, 0.001, 0.05]))
def test_power_equals_the_noncentral_t(n: int, effect: float, alpha: float) -> None:
    critical = stats.t.ppf(1 - alpha, n - 1)
    expected = stats.nct.sf(critical, n - 1, effect * math.sqrt(n))
    assert power_one_sample(n, effect, 1.0, alpha) == pytest.approx(expected, abs=1e-9)


def test_power_edges() -> None:
    assert power_one_sample(1, 0.01, 0.001) == 0.0
    assert power_one_sample(10, 0.0, 0.001) == pytest.approx(0.01)
    assert power_one_sample(100_001, 0.0, 0.001) == pytest.approx(0.01)
    just_below = power_one_sample(100_000, 1e-5, 0.001)
    assert power_one_sample(100_001, 1e-5, 0.001) == pytest.approx(just_below, abs=1e-4)


@QUICK
@given(st.floats(1e-4, 0.01), st.floats(5e-4, 3e-3), st.sampled_from([0.5, 0.8, 0.95]))
def test_runs_needed_is_the_smallest(margin: float, sd: float, power: float) -> None:
    n = runs_needed(margin, sd, power)
    assert n is not None
    assert power_one_sample(n, margin, sd) >= power
    assert n == 2 or power_one_sample(n - 1, margin, sd) < power


def test_hopeless_margins_have_no_answer() -> None:
    assert runs_needed(0.0, SIGMA) is None
    assert runs_needed(-0.001, SIGMA) is None
    assert runs_needed(1e-9, SIGMA) is None


def test_shrinkage() -> None:
    assert shrunk_margin(0.002, 0.001, 0.0, 0.001) == pytest.approx(0.001)
    assert shrunk_margin(0.002, 1e-9, 0.0) == pytest.approx(0.002)
    assert shrunk_sd([]) == SIGMA
    assert shrunk_sd([3.27]) == SIGMA
    assert shrunk_sd([3.27, math.nan]) == SIGMA
    expected = math.sqrt((10 * SIGMA**2 + 2 * 0.001**2) / 12)
    assert shrunk_sd([3.277, 3.278, 3.279]) == pytest.approx(expected)


def test_the_trade_nobody_prints() -> None:
    # Margin .001 at sd .00141: 29 runs for 90 %. Eight steps more (.43 s) make it .002: 10 runs.
    z = np.linspace(-1, 1, 6)
    losses = (3.279 + SIGMA * (z - z.mean()) / z.std(ddof=1)).tolist()
    advice = advise(losses, 3.28, price=Price(0.05, 24.0), step_ms=54.0)
    assert advice is not None
    assert advice.planning_sd == pytest.approx(SIGMA)
    assert (advice.runs, advice.more_runs) == (29, 23)
    assert advice.node_hours == pytest.approx(1.15)
    assert advice.dollars == pytest.approx(27.6)
    assert advice.steps is not None
    assert advice.steps.steps == 8
    assert advice.steps.extra_ms == pytest.approx(432.0)
    assert advice.steps.runs == 10
    assert advice.steps.dollars == pytest.approx(12.0)


def test_advice_without_hope_price_or_losses() -> None:
    above = advise([3.2805, 3.2815, 3.2800, 3.2810], 3.28)
    assert above is not None
    assert (above.runs, above.more_runs, above.node_hours, above.dollars) == (None,) * 4
    assert above.steps is not None  # the only way out: more steps
    assert above.steps.margin >= 0.002
    assert advise([], 3.28) is None
    assert advise([math.nan], 3.28) is None
    wide = advise([3.275, 3.2752, 3.2749], 3.28)
    assert wide is not None
    assert wide.steps is None
    assert wide.more_runs == 1 or (wide.more_runs or 0) > 0
    assert wide.node_hours is None
    unpriced = advise([3.279, 3.2785], 3.28, price=Price(0.1))
    assert unpriced is not None
    assert unpriced.dollars is None
    assert unpriced.node_hours is not None


def test_a_lucky_pilot_is_shrunk_towards_the_record() -> None:
    pilot = [3.2770, 3.2775, 3.2772]
    plain, shrunk = advise(pilot, 3.28), advise(pilot, 3.28, prior_margin=0.001)
    assert plain is not None
    assert shrunk is not None
    assert 0.001 < shrunk.planning_margin < plain.planning_margin
    assert (shrunk.runs or 0) > (plain.runs or 0)
    assert plain.margin_se == pytest.approx(0.0008, abs=1e-4)
