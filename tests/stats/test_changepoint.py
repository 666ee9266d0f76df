"""Change points: the stated rates by simulation, and hand-made series with known answers."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, ttest_ind

from harness.stats import changepoint
from harness.stats.changepoint import (
    FALSE_ALARMS_PER_NIGHT,
    LEARN_NIGHTS,
    THRESHOLD,
    find_spikes,
    segment,
    simulate_first_alarm,
    solve_threshold,
    watch,
)

SD = 0.001
LEVEL = math.log(79_270.0)


def flat(nights: int, seed: int) -> list[float]:
    """A quiet history of log times."""
    draws = np.random.default_rng(seed).standard_normal(nights)
    return [LEVEL + SD * float(x) for x in draws]


def stepped(nights: int, at: int, shift: float, seed: int) -> list[float]:
    return [x + (shift if i >= at else 0.0) for i, x in enumerate(flat(nights, seed))]


@cache
def first_alarms(kind: str) -> tuple[int, ...]:
    """First alarms of 2,000 histories of forty nights, sd 0.1 %; "step" adds 0.4 % at night 25."""
    rng = np.random.default_rng(2026)
    histories = LEVEL + SD * rng.standard_normal((2_000, 40))
    if kind == "step":
        histories[:, 24:] += 0.004
    return tuple(int(n) for n in simulate_first_alarm(histories))


def binomial_upper(rate: float, trials: int) -> float:
    """What 99.9 % of samples of `trials` stay below at this true rate."""
    return rate + 3.09 * math.sqrt(rate * (1 - rate) / trials)


def test_a_step_of_four_sd_is_found_within_three_nights() -> None:
    alarms = first_alarms("step")
    clean = [night for night in alarms if night >= 24]
    assert len(clean) > 0.97 * len(alarms)
    within = [sum(night < 24 + n for night in clean) / len(clean) for n in (2, 3, 4)]
    assert within[0] > 0.75
    assert within[1] > 0.955  # stated 96.8 %
    assert within[2] > 0.99  # stated 99.6 %


def test_flat_histories_alarm_no_more_often_than_stated() -> None:
    alarms = first_alarms("flat")
    tested = 40 - LEARN_NIGHTS + 1
    stated = 1 - (1 - FALSE_ALARMS_PER_NIGHT) ** tested
    share = sum(night < 40 for night in alarms) / len(alarms)
    assert share <= binomial_upper(stated, len(alarms))
    assert share > 0.01, "a threshold that is never reached would be cheating"


def test_the_threshold_is_the_one_that_simulation_gives() -> None:
    solved = solve_threshold(FALSE_ALARMS_PER_NIGHT, nights=40, histories=6_000, seed=7)
    assert solved == pytest.approx(THRESHOLD, abs=0.15)
    assert solve_threshold(0.01, nights=30, histories=1_000) < solved


def test_the_simulation_is_the_replay() -> None:
    """`simulate_first_alarm` and `watch` are the same rule."""
    rng = np.random.default_rng(4)
    histories = LEVEL + SD * rng.standard_normal((12, 32))
    histories[:6, 20:] += 0.005
    histories[3, 15] += 0.02
    for row, alarm in zip(histories, simulate_first_alarm(histories), strict=True):
        changes = watch([float(x) for x in row]).changes
        assert (changes[0].raised if changes else 32) == alarm


def test_the_statistic_is_the_two_sample_t_of_scipy() -> None:
    values = stepped(14, 9, 0.004, seed=3)
    series = np.asarray([values])
    best = changepoint._best_split(series)
    # The ends are drawn in when far out; in this series they are not.
    splits = [ttest_ind(values[:k], values[k:]) for k in range(2, 13)]
    largest = max(splits, key=lambda test: abs(test.statistic))
    assert math.sqrt(best.t2[0]) == pytest.approx(abs(largest.statistic), rel=1e-9)
    assert best.df[0] == 12
    assert int(best.split[0]) == 9
    z = changepoint._z(best.t2, best.df)[0]
    assert norm.sf(z) == pytest.approx(largest.pvalue / 2, rel=1e-9)


@pytest.mark.parametrize("shift", [0.004, -0.004, 0.2])
def test_size_place_and_direction_of_a_change(shift: float) -> None:
    found = watch(stepped(40, 24, shift, seed=5))
    (change,) = found.changes
    assert change.first == 24
    assert 25 <= change.raised <= 27
    assert change.low < shift < change.high
    assert change.shift == pytest.approx(shift, abs=0.001)
    assert found.begin == 24
    assert found.noise == pytest.approx(SD, rel=0.35)


def test_a_change_and_its_repair_are_two_changes() -> None:
    values = [x + (0.01 if 20 <= i < 24 else 0.0) for i, x in enumerate(flat(40, 6))]
    first, second = watch(values).changes
    assert (first.first, second.first) == (20, 24)
    assert first.shift > 0 > second.shift
    # No ten nights are learnt anew: the spread of the level before is known.
    assert second.raised <= 26


def test_the_place_of_a_change_is_put_right_by_later_nights() -> None:
    """Whatever the alarm thought on its night, two weeks later place and size are right."""
    exact = 0
    for seed in range(20):
        changes = watch(stepped(38, 24, -0.012, seed)).changes
        if len(changes) == 1:  # no false alarm before it
            assert changes[0].first == 24
            assert changes[0].shift == pytest.approx(-0.012, abs=0.0012)
            exact += 1
    assert exact >= 17


def test_one_bad_night_is_set_aside_and_not_called_a_change() -> None:
    for night in (5, 17, 38):
        values = flat(40, 20)
        values[night] += 0.05
        found = watch(values)
        assert found.changes == ()
        assert found.spikes == (night,)
        assert found.noise == pytest.approx(SD, rel=0.35)
        assert len(segment(values)) == 1


def test_tonight_alone_raises_no_alarm_however_bad() -> None:
    values = [*flat(60, 9), LEVEL + 1.0]
    assert watch(values).changes == ()
    (change,) = watch([*values, LEVEL + 1.0]).changes
    assert change.first == 60
    assert change.raised == 61


def test_the_first_nights_are_only_learnt_from() -> None:
    values = stepped(LEARN_NIGHTS - 1, 5, 0.1, seed=1)
    found = watch(values)
    assert found.changes == ()
    assert found.learning == 1
    assert watch([*values, values[-1]]).changes
    assert watch([]).learning == LEARN_NIGHTS
    assert math.isnan(watch([]).noise)


def test_equal_times_are_no_evidence_and_rounding_is_no_change() -> None:
    assert watch([LEVEL] * 40).changes == ()
    rounded = [math.log(round(8_000 + 0.4 * (i % 2))) for i in range(40)]
    assert watch(rounded).changes == ()
    # A step of 0.02 % in a series without any noise stands out of the clock's rounding.
    assert watch([LEVEL] * 20 + [LEVEL + 0.0002] * 10).changes


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_refused(bad: float) -> None:
    for function in (watch, segment):
        with pytest.raises(ValueError, match="finite"):
            function([LEVEL] * 12 + [bad])


def test_segments_of_a_known_series() -> None:
    values = [*flat(15, 10), *(x + 0.006 for x in flat(12, 11)), *flat(20, 12)]
    parts = segment(values)
    assert [(part.begin, part.end) for part in parts] == [(0, 15), (15, 27), (27, 47)]
    assert parts[1].level - parts[0].level == pytest.approx(0.006, abs=0.001)
    assert segment(values, price=1e9) == segment(values, price=1e9)[:1]


def test_segments_agree_with_every_possible_split_into_two() -> None:
    """Brute force over all single splits, on series where one change is the best answer."""
    for seed in range(20):
        values = stepped(24, 13, 0.006, seed)
        parts = segment(values)
        if len(parts) != 2:
            continue
        errors = {
            k: sum((x - np.mean(v)) ** 2 for v in (values[:k], values[k:]) for x in v)
            for k in range(2, 23)
        }
        assert parts[0].end == min(errors, key=errors.__getitem__)


def test_few_flat_series_are_cut() -> None:
    for nights, series, stated in ((12, 300, 0.06), (40, 200, 0.04), (150, 40, 0.04)):
        cut = sum(len(segment(flat(nights, 100 + s))) > 1 for s in range(series))
        assert cut / series <= binomial_upper(stated, series)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-50, 50), max_size=40))
def test_any_series_has_an_answer(values: list[float]) -> None:
    found = watch(values)
    firsts = [change.first for change in found.changes]
    assert firsts == sorted(set(firsts))
    for change in found.changes:
        assert 2 <= change.first <= change.raised < len(values)
        assert change.low <= change.shift <= change.high
    assert found.begin == (firsts[-1] if firsts else 0)
    parts = segment(values)
    assert all(a.end == b.begin for a, b in pairwise(parts))
    assert sum(part.end - part.begin for part in parts) == len(values)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(1e-3, 1e3))
def test_the_unit_does_not_matter(seed: int, scale: float) -> None:
    """In other units (above the floor) the same nights alarm."""
    values = [1e3 * x for x in stepped(30, 18, 0.004, seed)]
    scaled = [scale * x for x in values]
    assert [c.first for c in watch(values).changes] == [c.first for c in watch(scaled).changes]


def test_spikes_need_both_neighbours() -> None:
    values = flat(20, 13)
    values[0] += 0.05
    values[10] += 0.05
    values[11] += 0.05
    assert find_spikes(values) == ()
    assert find_spikes(values[:2]) == ()
