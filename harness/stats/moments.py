"""Sample moments and Student's t, shared by every test in `stats/`.

Sums use `math.fsum`, so a mean does not depend on the order of its values and a bundle judged
twice gives the same bytes. scipy.special is imported instead of scipy.stats: the same functions
(`scipy.stats.t` calls them), at about half the import time, which `verify` pays on every start.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

LARGEST = 1e100
"""Beyond this magnitude a value counts as diverged: its square would overflow a double."""

RELATIVE_RESOLUTION = 1e-12
"""A spread below this share of the mean is rounding of the arithmetic, not variance."""


def finite(values: Sequence[float]) -> bool:
    """Whether every value is a usable number: not NaN, not infinite, not beyond LARGEST."""
    return all(abs(value) <= LARGEST for value in values)


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean; NaN of nothing."""
    return math.fsum(values) / len(values) if values else math.nan


def sample_sd(values: Sequence[float]) -> float:
    """Sample standard deviation with n − 1; NaN below two values, exactly 0 for equal values."""
    if len(values) < 2:
        return math.nan
    if min(values) == max(values):
        return 0.0
    centre = mean(values)
    sd = math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))
    return 0.0 if sd <= RELATIVE_RESOLUTION * abs(centre) else sd


def t_cdf(t: float, df: float) -> float:
    """P(T ≤ t) of Student's t with `df` degrees of freedom."""
    from scipy.special import stdtr

    return float(stdtr(df, t))


def t_quantile(probability: float, df: float) -> float:
    """The value that Student's t with `df` degrees of freedom stays below with `probability`."""
    from scipy.special import stdtrit

    return float(stdtrit(df, probability))


def normal_cdf(z: float) -> float:
    """P(Z ≤ z) of the standard normal."""
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


def normal_quantile(probability: float) -> float:
    """The value that the standard normal stays below with `probability`."""
    from scipy.special import ndtri

    return float(ndtri(probability))
