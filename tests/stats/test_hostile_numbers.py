"""Numbers come from logs of strangers: every test must answer, without warning or raising."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.stats.anytime import anytime_test
from harness.stats.equal_loss import TRACK_SMALL_RATE, buffer_account, equal_loss_gain
from harness.stats.loss import loss_test, luck_warning, pseudo_replicates, z_rule
from harness.stats.noninferiority import curve_envelope, noninferiority_test
from harness.stats.power import advise
from harness.stats.sequential import conditional_power
from harness.stats.timing import paired_ratio, welch, welch_log_ratio

HOSTILE = st.sampled_from(
    [0.0, -1.0, 3.28, 3.2800001, 3.27, 1e-300, 1e99, -1e99, 1e200, math.nan, math.inf, -math.inf]
)
PAIRS = st.lists(st.tuples(HOSTILE | st.floats(), HOSTILE | st.floats()), max_size=8)


@settings(deadline=None, derandomize=True, database=None, max_examples=400)
@given(PAIRS)
def test_every_function_answers(pairs: list[tuple[float, float]]) -> None:
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    usable = all(map(math.isfinite, a))
    for test in (loss_test(a, 3.28), paired_ratio(a, b)):
        assert math.isnan(test.p) or 0.0 <= test.p <= 1.0
        assert not math.isnan(test.upper_bound)
        assert usable or not test.passed
        assert test.passed == (test.p < test.alpha)
    for p in (z_rule(a, 3.28).p, welch(a, b).p, welch_log_ratio(a, b).p, anytime_test(a, 3.28).p):
        assert math.isnan(p) or 0.0 <= p <= 1.0
    luck_warning(a, 3.28)
    pseudo_replicates([a, b])
    advise(a, 3.28)
    noninferiority_test(a, b)
    curve_envelope([a], [b, b], steps=3)
    buffer_account(a, b, 3.28)
    conditional_power(a, (2, 4, 6, 8), 0.003, 3.28)
    equal_loss_gain(a, b, a, b, rate=TRACK_SMALL_RATE, step_ms=54.0)
