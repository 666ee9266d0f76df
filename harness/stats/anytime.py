"""The open-ended design: a one-sided t e-process, valid at every run and however the stream ends.

For runs N(mu, sigma²) let the effect be delta = (target − mu)/sigma. With the right-Haar prior
1/sigma, the Bayes factor of delta against delta = 0 is a likelihood ratio of the scale-invariant
data, so under the null it is a nonnegative martingale of start 1 whatever sigma is, and Ville's
inequality gives P(sup e ≥ 100) ≤ .01 (Wang & Ramdas, "Anytime-valid t-tests and confidence
sequences for Gaussian means with unknown variance", arXiv 2310.03722; Lai 1976). A mean above
the target only lowers it. The two effects .7 and 1.3, half weight each, are margins of .0010 and
.0018 nats at the archive's sigma.

e-values of independent laboratories multiply.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from harness.stats.moments import finite, t_cdf

EFFECTS = (0.7, 1.3)
REJECT_AT = 100.0
"""1/alpha for alpha .01."""

_NODES = 96
_REACH = 12.0
"""The integrand is log-concave with sd ≤ 1 about its mode: 12 each way leaves out < 1e-30."""


@lru_cache(maxsize=1)
def _quadrature() -> tuple[tuple[float, ...], tuple[float, ...]]:
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return tuple(float(x) for x in nodes), tuple(float(w) for w in weights)


def _log_bayes_factor(n: int, r: float, effect: float) -> float:
    """log of the right-Haar Bayes factor of `effect` against 0.

    r is S/√Q for S = Σ(target − x), Q = Σ(target − x)²; it runs from −√n to √n. With v = √Q/sigma
    the factor is exp(−n·effect²/2) · ∫ v^(n−1) exp(−v²/2 + effect·r·v) dv / (2^(n/2−1) Γ(n/2)).
    """
    b = effect * r
    mode = (b + math.sqrt(b * b + 4.0 * (n - 1))) / 2.0
    low, high = max(0.0, mode - _REACH), mode + _REACH
    middle, half = (low + high) / 2.0, (high - low) / 2.0

    def log_integrand(v: float) -> float:
        return (n - 1) * math.log(v) - v * v / 2.0 + b * v

    peak = log_integrand(mode) if mode > 0.0 else 0.0
    nodes, weights = _quadrature()
    total = math.fsum(
        weight * math.exp(log_integrand(middle + half * node) - peak)
        for node, weight in zip(nodes, weights, strict=True)
    )
    normaliser = (n / 2.0 - 1.0) * math.log(2.0) + math.lgamma(n / 2.0)
    return peak + math.log(total * half) - n * effect * effect / 2.0 - normaliser


def e_of_ratio(n: int, r: float, effects: Sequence[float] = EFFECTS) -> float:
    """Mixture e-value of n runs from r = S/√Q; rises with r."""
    logs = [_log_bayes_factor(n, r, effect) for effect in effects]
    highest = max(logs)
    log_e = highest + math.log(math.fsum(math.exp(x - highest) for x in logs) / len(logs))
    return math.exp(min(log_e, 700.0))


def t_e_value(losses: Sequence[float], target: float) -> float:
    """e-value of "the mean loss lies below the target" after these runs.

    Reject at 100 (alpha .01), at any time. Where `loss_test` has no test there is no evidence
    either: 1 for fewer than two or for equal losses, 0 once a loss is not a finite number.
    """
    if not finite(losses):
        return 0.0
    if len(losses) < 2 or min(losses) == max(losses):
        return 1.0
    gaps = [target - loss for loss in losses]
    return e_of_ratio(
        len(losses), math.fsum(gaps) / math.sqrt(math.fsum(gap * gap for gap in gaps))
    )


@dataclass(frozen=True, slots=True)
class AnytimeTest:
    """State of the e-process after n runs.

    e_value       now
    e_max         highest so far; crossing once is enough, however the stream goes on
    n_rejected    runs at the first crossing of `threshold`; None when it has not been crossed
    p             anytime-valid p: min(1, 1/e_max)
    """

    n: int
    e_value: float
    e_max: float
    n_rejected: int | None
    p: float


def anytime_test(
    losses: Sequence[float], target: float, threshold: float = REJECT_AT
) -> AnytimeTest:
    """The e-process over the losses in run order."""
    path = [t_e_value(losses[:n], target) for n in range(1, len(losses) + 1)]
    e_max = max(path, default=1.0)
    rejected = next((n for n, e in enumerate(path, start=1) if e >= threshold), None)
    return AnytimeTest(
        len(losses), path[-1] if path else 1.0, e_max, rejected, min(1.0, 1.0 / max(e_max, 1.0))
    )


def boundary_ratio(n: int, threshold: float = REJECT_AT) -> float:
    """The r = S/√Q at which n runs reach the threshold; +inf where they cannot."""
    low, high = -math.sqrt(n), math.sqrt(n)
    if e_of_ratio(n, high) < threshold:
        return math.inf
    for _ in range(80):
        middle = (low + high) / 2.0
        if e_of_ratio(n, middle) < threshold:
            low = middle
        else:
            high = middle
    return high


def boundary_p(n: int, threshold: float = REJECT_AT) -> float:
    """One-sided t-test p that n runs must reach to cross the threshold; 0 where they cannot.

    t = r·√((n − 1)/(n − r²)).
    """
    r = boundary_ratio(n, threshold)
    if not math.isfinite(r) or n - r * r <= 0.0:
        return 0.0
    return t_cdf(-r * math.sqrt((n - 1) / (n - r * r)), n - 1)
