"""What a run without an end counts as, so that ending a run that looks bad cannot help.

Whoever may end two runs of a series and start them again would end the two worst. On a mean
exactly at the target the rule's test (alpha .01, two of n + 2 runs dropped) then passes in 8.9, 9.8
and 8.0 % of series of n = 5, 10 and 20. Putting the dropped runs back at the worst *finished* value
is not enough (8.6, 5.1, 2.7 %): the kept ones are the good ones, and a repeated value even lowers
p by raising n. At the value below, with both tests to pass, it is .06, 1.03 and .68 %
(400,000 replicates).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.stats.moments import finite, sample_sd


def unfinished_value(finished: Sequence[float], bar: float) -> float:
    """One sample sd above both the worst finished value and the bar.

    finished   losses in nats (bar: the target), or log ratios of times (bar: 0)

    NaN for fewer than two values, infinite where one of them diverged.
    """
    if not finite(finished):
        return math.inf
    return max(*finished, bar) + sample_sd(finished)
