"""Ending a run that looks bad must not help: simulated with the best cheat there is."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.stats.unfinished import unfinished_value

REPLICATES = 200_000
ALPHA = 0.01


def test_by_hand() -> None:
    # sd of 1, 2, 3 is 1.
    assert unfinished_value([1.0, 2.0, 3.0], 0.0) == 4.0
    assert unfinished_value([1.0, 2.0, 3.0], 5.0) == 6.0
    assert unfinished_value([2.0, 2.0], 1.0) == 2.0
    assert math.isnan(unfinished_value([2.0], 1.0))


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=20), st.floats(-10, 10))
def test_never_better_than_anything_finished_nor_than_the_bar(
    values: list[float], bar: float
) -> None:
    assert unfinished_value(values, bar) >= max(*values, bar)
    assert unfinished_value(values[::-1], bar) == unfinished_value(values, bar)


def p_of(values: Any) -> Any:
    import numpy as np
    from scipy.special import stdtr

    n = values.shape[1]
    t = values.mean(axis=1) / (values.std(axis=1, ddof=1) / np.sqrt(n))
    return stdtr(n - 1, t)


@pytest.mark.parametrize("n", [5, 10, 20])
@pytest.mark.parametrize("ended", [1, 2])
def test_who_ends_the_worst_runs_passes_no_more_often_than_chance(n: int, ended: int) -> None:
    """n + ended runs on a mean exactly at the target; the worst are ended and run again."""
    import numpy as np

    rng = np.random.default_rng(n * 10 + ended)
    runs = np.sort(rng.standard_normal((REPLICATES, n + ended)), axis=1)
    kept = runs[:, :n]
    by_rule = p_of(kept) < ALPHA
    assert by_rule.mean() > 3 * ALPHA, "the cheat would pay, were it not for the second test"
    worst = np.maximum(kept[:, -1:], 0.0) + kept.std(axis=1, ddof=1, keepdims=True)
    some = kept[7].tolist()
    assert worst[7, 0] == pytest.approx(unfinished_value(some, 0.0))
    again = p_of(np.concatenate([kept, np.repeat(worst, ended, axis=1)], axis=1)) < ALPHA
    # The largest of the six is 1.03 % (400,000 replicates); one standard error here is .02 %.
    assert (by_rule & again).mean() <= 0.011
    # The worst finished value, put back as it is, would not do.
    mild = p_of(np.concatenate([kept, np.repeat(kept[:, -1:], ended, axis=1)], axis=1)) < ALPHA
    assert (by_rule & mild).mean() > 0.015


def test_an_honest_series_with_a_real_margin_survives_a_lost_run() -> None:
    """Margin 2 sd, ten runs, one lost at random."""
    import numpy as np

    runs = np.random.default_rng(3).standard_normal((20_000, 10)) - 2.0
    worst = np.maximum(runs.max(axis=1, keepdims=True), 0.0) + runs.std(
        axis=1, ddof=1, keepdims=True
    )
    again = p_of(np.concatenate([runs, worst], axis=1)) < ALPHA
    assert again.mean() > 0.9
