"""Rule: the candidate is faster than the standing record on the same hardware."""

from __future__ import annotations

from harness.checks.case import Case
from harness.checks.check import Check


def check_timing(case: Case) -> Check:
    """Passes when a look beat the design's bound and the one-sided bound over all pairs is < 1;
    on a track compared on steps, when the candidate takes fewer in every pair."""
    if case.bundle.track.contest.compared_on == "steps":
        return _fewer_steps(case)
    timing, alpha = case.timing, case.bundle.track.contest.alpha
    claim = "the candidate is faster than the baseline on the same hardware"
    rule = "faster than the prior record when both run on the same hardware"
    if timing.ratio is None or timing.upper_bound is None or timing.p is None:
        return Check(
            id="timing",
            status="unproven",
            claim=claim,
            evidence=f"{timing.pairs} complete pairs",
            remedy="run the whole series: speedrun submit --resume",
            rule=rule,
        )
    holds = timing.decided_at is not None and timing.upper_bound < 1
    details = [
        f"paired t-test on log ratios, p {timing.p:.2g}; one-sided {1 - alpha:.0%} bound "
        f"{timing.upper_bound:.5f}"
    ]
    if timing.worst_case_ratio_bound is not None:
        holds = holds and timing.worst_case_ratio_bound < 1
        details.append(
            f"with every unfinished run at its worst: bound {timing.worst_case_ratio_bound:.5f}"
        )
    if timing.hodges_lehmann is not None:
        details.append(f"Hodges-Lehmann ratio {timing.hodges_lehmann:.5f}")
    slower = timing.low is not None and timing.low > 1
    return Check(
        id="timing",
        status="pass" if holds else "unproven",
        claim=claim,
        evidence=(
            f"{timing.pairs} pairs, ratio {timing.ratio:.5f}, "
            f"98 % interval {timing.low:.5f} to {timing.high:.5f}"
        ),
        remedy=(
            ""
            if holds
            else "the candidate is slower: nothing to prove"
            if slower
            else "more pairs, or a larger gain; the advice below has the numbers"
        ),
        rule=rule,
        details=tuple(details),
    )


def _fewer_steps(case: Case) -> Check:
    timing = case.timing
    holds = timing.decided_at is not None
    return Check(
        id="timing",
        status="pass" if holds else "unproven",
        claim="the candidate takes fewer steps than the baseline",
        evidence=f"{timing.pairs} complete pairs compared on their final step",
        remedy="" if holds else "the candidate must end at an earlier step in every pair",
        rule="fewest steps to the target",
    )
