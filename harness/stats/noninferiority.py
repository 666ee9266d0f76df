""" "Systems only": evidence that a change left the learning alone.

The rule waives the loss test for pure systems changes. The waiver is earned, never declared, by
climbing a ladder; each rung is weaker and dearer than the one above it:

    bitwise      the first k losses are equal to the last printed digit, same seed and data
    envelope     candidate and baseline curves differ no more than two baseline runs do
    final loss   the final losses are non-inferior (one-sided) or equivalent (TOST) within a margin

The last rung is expensive: 2·(z(.99) + z(.9))²·(sigma/m)² runs an arm, that is 207 at m = .0005
and 23 at m = .0015.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from harness.stats.loss import ARCHIVE_SIGMA_NATS
from harness.stats.moments import finite, mean, normal_quantile
from harness.stats.timing import welch

Rung = Literal["bitwise", "envelope", "final loss", "none"]

EARLY_STEPS = 100
"""Steps whose losses the first two rungs look at."""

ENVELOPE_WINDOW = 10
"""Steps to either side over which the envelope is taken; see `curve_envelope` for the reason."""


@dataclass(frozen=True, slots=True)
class BitwisePrefix:
    """How many leading losses of two curves are equal.

    equal     leading values that agree;  compared  values that both curves have
    required  values that must agree;  passed  all of them do
    """

    equal: int
    compared: int
    required: int
    passed: bool


def bitwise_prefix(
    candidate: Sequence[str] | Sequence[float],
    baseline: Sequence[str] | Sequence[float],
    required: int = EARLY_STEPS,
) -> BitwisePrefix:
    """Compare two curves of one seed value by value, step 0 first.

    Pass the strings as printed where they are at hand: they compare what the log shows, with its
    digits. A NaN equals nothing, so two diverged runs do not pass. Raises ValueError for
    required < 2: the loss at step 0 says nothing about training.
    """
    if required < 2:
        raise ValueError(f"at least 2 losses must agree, got required={required}")
    compared = min(len(candidate), len(baseline))
    equal = 0
    for a, b in zip(candidate, baseline, strict=False):
        if a != b or not _is_finite(a):
            break
        equal += 1
    return BitwisePrefix(equal, compared, required, equal >= required)


def _is_finite(value: object) -> bool:
    try:
        return math.isfinite(float(str(value)))
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Envelope:
    """Candidate-baseline differences against baseline-baseline differences, step by step.

    steps          steps compared
    outside        indices of steps at which a candidate run leaves the envelope
    worst_ratio    largest distance over the envelope there; inf where the envelope is 0
    envelope_nats  the envelope at each step
    passed         enough steps, and none outside
    """

    steps: int
    outside: tuple[int, ...]
    worst_ratio: float
    envelope_nats: tuple[float, ...]
    passed: bool


def curve_envelope(
    candidate_curves: Sequence[Sequence[float]],
    baseline_curves: Sequence[Sequence[float]],
    steps: int = EARLY_STEPS,
    window: int = ENVELOPE_WINDOW,
) -> Envelope:
    """Whether every candidate run stays as close to the baseline as baseline runs to each other.

    curves   training losses of the same steps in the same order, one a run, same data order
    steps    leading steps to compare; fewer in any curve means that the rung is not reached
    window   steps to either side over which the envelope is taken

    The envelope at a step is the largest difference between two baseline runs within `window`
    steps of it; the candidate's distance is taken from the mean of the baseline runs. Step by step
    (window 0) even an unchanged candidate leaves the envelope somewhere in 100 steps. With window
    10 and normal noise, white or with a correlation of .9 between steps (2,000 replicates), an
    unchanged candidate stays inside in 11 / 63 / 94 % or 10 / 41 / 82 % of series with 2 / 3 / 5
    baseline runs, one shifted by two sd of that noise in at most 4 or 10 %: run five. An unchanged
    candidate outside has not reached this rung, no more; `worst_ratio` says by how much.
    """
    curves = [*candidate_curves, *baseline_curves]
    enough = bool(candidate_curves) and len(baseline_curves) >= 2
    compared = min([steps, *(len(curve) for curve in curves)]) if enough else 0
    if not all(finite(curve[:compared]) for curve in curves):
        return Envelope(compared, tuple(range(compared)), math.inf, (), False)
    widest = [
        max(abs(a[step] - b[step]) for a, b in combinations(baseline_curves, 2))
        for step in range(compared)
    ]
    envelope = [max(widest[max(0, i - window) : i + window + 1]) for i in range(compared)]
    centre = [mean([curve[step] for curve in baseline_curves]) for step in range(compared)]
    distance = [
        max(abs(curve[step] - centre[step]) for curve in candidate_curves)
        for step in range(compared)
    ]
    outside = tuple(i for i in range(compared) if distance[i] > envelope[i])
    ratios = [
        d / e if e > 0.0 else math.inf for d, e in zip(distance, envelope, strict=True) if d > 0.0
    ]
    return Envelope(
        steps=compared,
        outside=outside,
        worst_ratio=max(ratios, default=0.0),
        envelope_nats=tuple(envelope),
        passed=compared >= steps and not outside,
    )


@dataclass(frozen=True, slots=True)
class NonInferiority:
    """Final losses compared within a margin m, by Welch's test.

    difference      mean candidate − mean baseline, nats;  low, high  its 1 − 2·alpha interval
    margin          m, nats
    p_inferior      one-sided p of H0: difference ≥ +m
    p_superior      one-sided p of H0: difference ≤ −m
    noninferior     p_inferior < alpha: the candidate is not worse by m
    equivalent      both p < alpha (TOST, Schuirmann 1987): neither worse nor better by m. A change
                    that only touches systems should not make the loss better either
    runs_per_arm    runs an arm that the test needs at 90 % power if there is no difference
    """

    n_candidate: int
    n_baseline: int
    difference: float
    low: float
    high: float
    margin: float
    p_inferior: float
    p_superior: float
    noninferior: bool
    equivalent: bool
    runs_per_arm: int


def noninferiority_test(
    candidate_losses: Sequence[float],
    baseline_losses: Sequence[float],
    margin: float = 0.0015,
    alpha: float = 0.01,
    sigma: float = ARCHIVE_SIGMA_NATS,
) -> NonInferiority:
    """Non-inferiority and equivalence of the final losses; both False where no test exists.

    `sigma` only serves `runs_per_arm`. Raises ValueError for a margin that is not positive.
    """
    if not margin > 0.0:
        raise ValueError(f"the margin must be positive, got {margin}")
    plain = welch(candidate_losses, baseline_losses, alpha)
    p_inferior = welch([loss - margin for loss in candidate_losses], baseline_losses, alpha).p
    p_superior = welch(baseline_losses, [loss + margin for loss in candidate_losses], alpha).p
    return NonInferiority(
        n_candidate=len(candidate_losses),
        n_baseline=len(baseline_losses),
        difference=plain.difference,
        low=plain.low,
        high=plain.high,
        margin=margin,
        p_inferior=p_inferior,
        p_superior=p_superior,
        noninferior=p_inferior < alpha,
        equivalent=p_inferior < alpha and p_superior < alpha,
        runs_per_arm=runs_per_arm(margin, sigma, alpha),
    )


def runs_per_arm(
    margin: float, sigma: float = ARCHIVE_SIGMA_NATS, alpha: float = 0.01, power: float = 0.9
) -> int:
    """Runs an arm for non-inferiority at no true difference: 2·(z(1−alpha) + z(power))²·(sigma/m)².

    Rounded up; 208 at m = .0005, 24 at .0015 with the archive's sigma (207.03 and 23.003).
    """
    quantiles = normal_quantile(1.0 - alpha) + normal_quantile(power)
    return math.ceil(2.0 * (quantiles * sigma / margin) ** 2)


def highest_rung(
    bitwise: BitwisePrefix | None = None,
    envelope: Envelope | None = None,
    final_loss: NonInferiority | None = None,
) -> Rung:
    """The strongest rung that the evidence reached; "none" when the waiver is not earned.

    The final-loss rung counts when equivalent, not merely non-inferior: a lower loss is welcome in
    a record, yet it disproves "systems only".
    """
    if bitwise is not None and bitwise.passed:
        return "bitwise"
    if envelope is not None and envelope.passed:
        return "envelope"
    if final_loss is not None and final_loss.equivalent:
        return "final loss"
    return "none"
