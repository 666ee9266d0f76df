"""p of the two claims, from samples: the loss is below the target, the candidate is faster.

Each is taken twice: over what finished, and with every unfinished run at its worst, so that ending
a run that looks bad cannot help. Formulae live in `stats/`.
"""

from __future__ import annotations

import math

from harness.samples import PairSample, Samples, final_ms, final_steps
from harness.stats.loss import loss_test, z_rule
from harness.stats.timing import paired_ratio
from harness.stats.unfinished import unfinished_value
from harness.tracks.track import Track


def rule_p(track: Track, losses: list[float], target_loss_nats: float) -> float:
    """p of the track's own loss test; 1 for fewer than two losses."""
    if track.contest.loss_rule == "z-rule":
        p = z_rule(losses, target_loss_nats, sigma=track.contest.loss_sd_nats).p if losses else 1.0
    else:
        p = loss_test(losses, target_loss_nats, track.contest.alpha).p
    return 1.0 if math.isnan(p) else p


def timing_p(track: Track, samples: Samples, upto: int | None = None) -> tuple[float, int]:
    """(p of "candidate is faster", complete pairs) over the pairs of the first `upto` runs.

    On a track compared on steps there is no noise to test: p is 0 when the candidate takes fewer
    steps than the baseline in every pair, else 1.
    """
    pairs = samples.timed(upto)
    candidate = [pair.candidate for pair in pairs if pair.candidate]
    baseline = [pair.baseline for pair in pairs if pair.baseline]
    if track.contest.compared_on == "steps":
        steps = [(final_steps(c), final_steps(b)) for c, b in zip(candidate, baseline, strict=True)]
        fewer = [c is not None and b is not None and c < b for c, b in steps]
        return (0.0 if fewer and all(fewer) else 1.0), len(pairs)
    if len(pairs) < 2:
        return 1.0, len(pairs)
    times = [final_ms(run) for run in candidate], [final_ms(run) for run in baseline]
    if not all(math.isfinite(ms) and ms > 0 for ms in times[0] + times[1]):
        return 1.0, len(pairs)
    p = paired_ratio(times[0], times[1], track.contest.alpha).p
    return (1.0 if math.isnan(p) else p), len(pairs)


def worst_loss_p(
    track: Track, losses: list[float], unfinished: int, target_loss_nats: float
) -> float:
    """`rule_p` with that many candidate runs at their worst beside the finished ones."""
    if not unfinished or not losses:
        return rule_p(track, losses, target_loss_nats)
    worst = unfinished_value(losses, target_loss_nats)
    return rule_p(track, losses + [worst] * unfinished, target_loss_nats)


def worst_ratio_bound(
    track: Track, samples: Samples, unfinished: int, upto: int | None = None
) -> float:
    """One-sided bound of the ratio with that many pairs, of either arm, at their worst; infinite
    for fewer than two complete pairs. On a track compared on steps there is no bound: 0."""
    if track.contest.compared_on == "steps":
        return 0.0
    candidate_ms, baseline_ms = paired_ms(samples.timed(upto))
    if len(candidate_ms) < 2:
        return math.inf
    ratios = [c / b for c, b in zip(candidate_ms, baseline_ms, strict=True)]
    if unfinished:
        worst = math.exp(unfinished_value([math.log(ratio) for ratio in ratios], 0.0))
        ratios += [worst] * unfinished
    return paired_ratio(ratios, [1.0] * len(ratios), track.contest.alpha).upper_bound


def paired_ms(pairs: list[PairSample]) -> tuple[list[float], list[float]]:
    """(candidate, baseline) clocks of the pairs whose clocks are positive numbers."""
    both = [
        (final_ms(pair.candidate), final_ms(pair.baseline))
        for pair in pairs
        if pair.candidate is not None and pair.baseline is not None
    ]
    usable = [(c, b) for c, b in both if c > 0 and b > 0 and math.isfinite(c + b)]
    return [c for c, _ in usable], [b for _, b in usable]
