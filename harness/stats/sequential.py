"""Stopping early, honestly: a one-sample t-test at planned looks, with simulated bounds.

Testing after every run at p < .01 and stopping at the first success has a true alpha of about .05.
Here the looks are planned, and the p-value of the ordinary t-test is compared with one flat bound
at each of them (Pocock 1977 on the p scale). Bounds derived for normal statistics are slightly
liberal for t (.0108 instead of .01), so these are solved in t directly, by simulation. Whoever
passes here also passes the rule's own p < .01.

Everything is on the p scale of a one-sided t-test, so the same bounds serve the losses against the
target and the paired log ratios of the times against zero.

A simulation is vectorised over replicates: 200,000 replicates of 20 runs take under a second.
The open-ended design is in `anytime.py`, bounds for looks that move in `spending.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from harness.stats.anytime import t_e_value
from harness.stats.loss import loss_test
from harness.stats.moments import finite, mean, normal_cdf, sample_sd, t_quantile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = [
    "DEFAULT_LOOKS",
    "FLAT_P_BOUNDS",
    "Crossing",
    "Power",
    "conditional_power",
    "design_p",
    "false_positive_rate",
    "first_crossing",
    "flat_p_bound",
    "power_of",
    "solve_flat_p_bound",
    "t_e_value",
    "t_statistics",
]

DEFAULT_LOOKS = (5, 10, 15, 20)

FLAT_P_BOUNDS: dict[tuple[int, ...], float] = {
    (10,): 0.01,
    (5, 10): 0.0053,  # true alpha .00988
    (10, 20): 0.0055,  # .00996
    (3, 6, 9): 0.0037,  # .00980
    (5, 10, 15): 0.0038,  # .00978
    (4, 8, 12, 16): 0.0031,  # .00998
    (5, 10, 15, 20): 0.0031,  # .00984
    (6, 12, 18, 24): 0.0031,  # .00973
    (5, 10, 15, 20, 25, 30): 0.0024,  # .00998
}
"""Flat p bounds at alpha .01. Beside each the true alpha over 20 million replicates (± .00002)."""

BOUND_DIGITS = 2
"""Bounds are rounded down to this many significant digits."""

SIMULATION_SEED = 20260816
CHUNK_VALUES = 4_000_000
"""Normals held at a time: 32 MB."""


def _checked_looks(looks: Sequence[int]) -> tuple[int, ...]:
    """The looks as a tuple; ValueError unless they rise strictly from at least 2 runs."""
    looks = tuple(looks)
    if not looks or looks[0] < 2 or any(b <= a for a, b in pairwise(looks)):
        raise ValueError(f"looks must rise strictly and start at 2 or more runs, got {looks}")
    return looks


def _checked_bounds(looks: Sequence[int], bounds: float | Sequence[float]) -> tuple[float, ...]:
    """One p bound a look; a single number serves all looks. ValueError for another count."""
    if isinstance(bounds, (int, float)):
        return (float(bounds),) * len(looks)
    if len(bounds) != len(looks):
        raise ValueError(f"{len(looks)} looks need {len(looks)} bounds, got {len(bounds)}")
    return tuple(bounds)


def t_statistics(
    looks: Sequence[int], replicates: int, seed: int, effect: float = 0.0
) -> Iterator[Floats]:
    """Simulated t statistics at each look, in chunks of shape (looks, replicates of the chunk).

    Runs are N(−effect, 1): `effect` is margin/sd, so a true margin makes t negative. The same seed
    gives the same chunks.
    """
    import numpy as np

    looks = _checked_looks(looks)
    rng = np.random.default_rng(seed)
    chunk = max(1, min(replicates, CHUNK_VALUES // looks[-1]))
    for start in range(0, replicates, chunk):
        width = min(chunk, replicates - start)
        total, total_squares = np.zeros(width), np.zeros(width)
        t = np.empty((len(looks), width))
        for k, (before, n) in enumerate(pairwise((0, *looks))):
            runs = rng.standard_normal((n - before, width)) - effect
            total += runs.sum(axis=0)
            total_squares += np.einsum("ij,ij->j", runs, runs)
            variance = (total_squares - total**2 / n) / (n - 1.0)
            t[k] = total / np.sqrt(n * variance)
        yield t


def _smallest_p(looks: Sequence[int], replicates: int, seed: int) -> Floats:
    """Each replicate's smallest one-sided p over the looks, under the null hypothesis."""
    import numpy as np
    from scipy.special import stdtr

    df = np.asarray(looks, dtype=np.float64)[:, None] - 1.0
    return np.concatenate(
        [np.min(stdtr(df, t), axis=0) for t in t_statistics(looks, replicates, seed)]
    )


def solve_flat_p_bound(
    looks: Sequence[int],
    alpha: float = 0.01,
    replicates: int = 200_000,
    seed: int = SIMULATION_SEED,
) -> float:
    """The flat p bound whose simulated false-positive rate is at most alpha, rounded down.

    A design rejects when the smallest p over its looks is at or below the bound, so the bound is
    the alpha quantile of that smallest p. A single look needs no simulation: alpha itself.
    Monte Carlo error at 200,000 replicates and alpha .01: 2 % of the bound.
    """
    import numpy as np

    looks = _checked_looks(looks)
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
    if len(looks) == 1:
        return alpha
    allowed = math.floor(alpha * replicates)
    if allowed < 100:
        raise ValueError(
            f"{replicates} replicates hold {allowed} false positives at alpha {alpha}; the bound "
            f"needs at least 100, that is {math.ceil(100 / alpha)} replicates"
        )
    smallest = _smallest_p(looks, replicates, seed)
    exact = float(np.partition(smallest, allowed - 1)[allowed - 1])
    scale = 10.0 ** (BOUND_DIGITS - 1 - math.floor(math.log10(exact)))
    return math.floor(exact * scale) / scale


def flat_p_bound(
    looks: Sequence[int],
    alpha: float = 0.01,
    replicates: int = 200_000,
    seed: int = SIMULATION_SEED,
) -> float:
    """p to reach (p ≤ bound) at each of these looks for a true one-sided level of alpha.

    From FLAT_P_BOUNDS where it stands there, else solved on the spot. Raises ValueError for looks
    that do not rise from 2, or an alpha too small for the replicates.
    """
    looks = _checked_looks(looks)
    if alpha == 0.01 and looks in FLAT_P_BOUNDS:
        return FLAT_P_BOUNDS[looks]
    return solve_flat_p_bound(looks, alpha, replicates, seed)


def _critical_t(looks: Sequence[int], p_bounds: Sequence[float]) -> Floats:
    """t below which a look rejects, as a column; −inf for a bound of zero."""
    import numpy as np

    values = [
        t_quantile(p, n - 1) if p > 0.0 else -math.inf for n, p in zip(looks, p_bounds, strict=True)
    ]
    return np.asarray(values, dtype=np.float64)[:, None]


def false_positive_rate(
    looks: Sequence[int],
    p_bounds: float | Sequence[float],
    replicates: int = 200_000,
    seed: int = SIMULATION_SEED,
) -> tuple[float, float]:
    """Simulated true alpha of a design, and its Monte Carlo standard error."""
    looks = _checked_looks(looks)
    critical = _critical_t(looks, _checked_bounds(looks, p_bounds))
    hits = sum(
        int((t <= critical).any(axis=0).sum()) for t in t_statistics(looks, replicates, seed)
    )
    rate = hits / replicates
    return rate, math.sqrt(rate * (1.0 - rate) / replicates)


def design_p(
    p_values: Sequence[float],
    looks: Sequence[int],
    alpha: float = 0.01,
    replicates: int = 200_000,
    seed: int = SIMULATION_SEED,
) -> float:
    """Design-valid p of a flat design: the smallest level at which it would have rejected by now.

    p_values   the t-test's p at each look reached so far, in order

    It is the null probability that the smallest p over *all* planned looks falls to the smallest
    one seen: simulated, never above Bonferroni's (looks × p), and at most alpha exactly when the
    bound of that alpha was met. NaN before the first look.
    """
    looks = _checked_looks(looks)
    if not p_values:
        return math.nan
    if len(p_values) > len(looks):
        raise ValueError(f"{len(p_values)} p-values for {len(looks)} looks")
    smallest = min(1.0 if math.isnan(p) else p for p in p_values)
    if len(looks) == 1 or smallest in (0.0, 1.0):
        return smallest
    rate, _ = false_positive_rate(looks, smallest, replicates, seed)
    rate = max(smallest, min(rate, len(looks) * smallest, 1.0))
    if smallest <= flat_p_bound(looks, alpha, replicates, seed):
        return min(rate, alpha)
    return max(rate, math.nextafter(alpha, 1.0))


def bounded_design_p(
    p_values: Sequence[float], looks: Sequence[int], p_bound: float, alpha: float = 0.01
) -> float:
    """Design-valid p without simulation: an upper bound of `design_p`, the same on every machine.

    p_values   the t-test's p at each look reached so far
    p_bound    the flat bound whose true level is at most alpha

    The chance that any of K looks falls to p is at most K·p (Bonferroni), and at most alpha while
    p meets the bound: min(alpha, K·p) there, max(alpha, K·p) beyond. NaN before the first look.
    """
    looks = _checked_looks(looks)
    if not p_values:
        return math.nan
    smallest = min(1.0 if math.isnan(p) else p for p in p_values)
    if len(looks) == 1:
        return smallest
    together = min(1.0, len(looks) * smallest)
    if smallest <= p_bound:
        return min(alpha, together)
    # Visibly above alpha also after rounding to ten digits: not settled must not read as 0.01.
    return max(alpha * (1 + 1e-6), together)


class Crossing(NamedTuple):
    """Where a design rejected: index of the look, runs at that look, p and the bound it met."""

    look: int
    n: int
    p: float
    bound: float


def first_crossing(
    losses: Sequence[float],
    looks: Sequence[int],
    bounds: float | Sequence[float],
    target: float,
) -> Crossing | None:
    """The first planned look at which the losses, in run order, met their bound; None if none did.

    Looks beyond the runs at hand are not reached; losses between looks are not tested.
    """
    looks = _checked_looks(looks)
    for index, (n, bound) in enumerate(zip(looks, _checked_bounds(looks, bounds), strict=True)):
        if n > len(losses):
            break
        p = loss_test(losses[:n], target).p
        if p <= bound:
            return Crossing(index, n, p, bound)
    return None


def conditional_power(
    losses: Sequence[float],
    looks: Sequence[int],
    bounds: float | Sequence[float],
    target: float,
) -> float:
    """Probability of still passing if the mean and sd seen so far are the true ones.

    The best single remaining look, the sd taken as known: after n of N runs, with t the critical
    value at N, Φ((margin − t·sd/√N)·N/(sd·√(N − n))). It is advice (stop below .05), never a rule:
    a futility stop that does not bind costs no alpha. 1 when a look was passed, 0 when no look
    remains or a run diverged, NaN below two runs.
    """
    looks = _checked_looks(looks)
    bounds = _checked_bounds(looks, bounds)
    if first_crossing(losses, looks, bounds, target) is not None:
        return 1.0
    n, ahead = (
        len(losses),
        [pair for pair in zip(looks, bounds, strict=True) if pair[0] > len(losses)],
    )
    if not ahead or not finite(losses):
        return 0.0
    sd = sample_sd(losses)
    if n < 2 or sd == 0.0:
        return math.nan
    effect = (target - mean(losses)) / sd
    return max(normal_cdf(_pass_z(effect, n, N, p)) for N, p in ahead)


def _pass_z(effect: float, n: int, N: int, p: float) -> float:
    """z of passing at look N given the effect size seen after n runs."""
    if p <= 0.0:
        return -math.inf
    critical = -t_quantile(p, N - 1)
    return (effect - critical / math.sqrt(N)) * N / math.sqrt(N - n)


class Power(NamedTuple):
    """Probability of passing, and the mean number of runs used."""

    power: float
    mean_runs: float


def power_of(
    looks: Sequence[int],
    bounds: float | Sequence[float],
    margin: float,
    sd: float,
    replicates: int = 100_000,
    seed: int = SIMULATION_SEED,
    futility: float | None = None,
) -> Power:
    """Power and mean runs of a design when the true mean lies `margin` nats below the target.

    margin, sd   nats; only their ratio matters
    futility     stop as well when `conditional_power` falls below this (None: never)
    """
    import numpy as np

    looks = _checked_looks(looks)
    bounds = _checked_bounds(looks, bounds)
    critical = _critical_t(looks, bounds)
    passed, runs = 0, 0
    for t in t_statistics(looks, replicates, seed, effect=margin / sd):
        going = np.ones(t.shape[1], dtype=bool)
        for k, n in enumerate(looks):
            hit = going & (t[k] <= critical[k])
            passed += int(hit.sum())
            stop = hit
            if futility is not None and k + 1 < len(looks):
                effect = -t[k] / math.sqrt(n)
                stop = hit | (going & (effect < _futile_effect(looks, bounds, k, futility)))
            elif k + 1 == len(looks):
                stop = going
            runs += n * int(stop.sum())
            going = going & ~stop
    return Power(passed / replicates, runs / replicates)


def _futile_effect(looks: Sequence[int], bounds: Sequence[float], k: int, futility: float) -> float:
    """Effect size seen at look k below which conditional power is under `futility`."""
    from harness.stats.moments import normal_quantile

    z, n = normal_quantile(futility), looks[k]
    return min(
        z * math.sqrt(N - n) / N - t_quantile(p, N - 1) / math.sqrt(N)
        for N, p in zip(looks[k + 1 :], bounds[k + 1 :], strict=True)
        if p > 0.0
    )
