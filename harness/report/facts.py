"""The figures behind the two claims, each with one sentence on what it stands for.

Rule p and design p differ: the first is the test that the rules name, over all counted runs; the
second is the one that the plan allows to decide, at its looks. Both are always printed.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.report import formats as fmt
from harness.verdict_schema import LossResult, TimingResult, Verdict


@dataclass(frozen=True, slots=True)
class Fact:
    """A figure and one sentence on what it stands for."""

    term: str
    value: str
    meaning: str


def reached(verdict: Verdict) -> str:
    """What the candidate took: `4.21 s`, or `3250 steps` where steps are compared."""
    arm = verdict.candidate
    if verdict.compared_on == "steps":
        return "" if arm.steps is None else fmt.many(arm.steps, "step")
    return f"{fmt.seconds(arm.time_mean_ms, 2)} s" if fmt.known(arm.time_mean_ms) else ""


def change(verdict: Verdict) -> str:
    """`−1.90 s, −31.0 %` from the pairs, or the steps saved; empty when there is no comparison."""
    if verdict.compared_on == "steps":
        steps, before = verdict.candidate.steps, verdict.baseline.steps
        if steps is None or not before:
            return ""
        unit = "step" if abs(steps - before) == 1 else "steps"
        return f"{fmt.signed(steps - before, 0)} {unit}, {fmt.percent(steps / before - 1)}"
    saved, ratio = verdict.timing.saved_ms, verdict.timing.ratio
    if saved is None or ratio is None or not (fmt.known(saved) and fmt.known(ratio)):
        return ""
    return f"{fmt.headline_seconds(-saved)} s, {fmt.percent(ratio - 1)}"


def loss_facts(verdict: Verdict) -> tuple[Fact, ...]:
    """Rule p, design p, bound, margin, floor; each with what it stands for."""
    loss, alpha = verdict.loss, verdict.alpha
    target = fmt.plain(loss.target_loss_nats)
    mean = fmt.nats(loss.mean, bound=loss.target_loss_nats)
    test = f" Student's t = {fmt.fixed(loss.t, 3)} with {fmt.fixed(loss.df, 0)} degrees of freedom."
    own = loss.rule_p == verdict.candidate.loss_p  # some tracks have a test of their own
    test = test if own and fmt.known(loss.t) else ""
    facts = [
        Fact(
            "Rule p",
            fmt.p_value(loss.rule_p, alpha),
            f"the track's own test of “mean loss ≤ {target}” over all {loss.n} counted runs, as "
            f"reviewers recompute it; below {fmt.plain(alpha)} passes. It takes no account "
            f"of earlier looks.{test}",
        ),
        *_design(loss, verdict, "the same test"),
        Fact(
            f"{fmt.level(alpha)} upper bound",
            fmt.nats(loss.upper_bound, bound=loss.target_loss_nats),
            f"of the candidate's mean loss, one-sided; the claim needs it below {target}.",
        ),
        Fact(
            "Buffer",
            f"{fmt.signed(loss.margin, fmt.LOSS_DECIMALS)} nats",
            f"target minus mean loss ({target} − {mean}).",
        ),
    ]
    if verdict.compared_on == "steps" and loss.margin is not None and loss.n:
        facts.append(
            Fact(
                "Margin × √n",
                fmt.signed(loss.margin * loss.n**0.5, 5),
                "the figure that a track compared on steps is judged by.",
            )
        )
    if loss.floor_nats is not None:
        facts.append(_floor(loss.mean, loss.floor_nats))
    if loss.worst_case_p is not None:
        facts.append(
            Fact(
                "Worst case p",
                fmt.p_value(loss.worst_case_p, alpha),
                "rule p with every unfinished run one sd above both the target and the worst "
                "finished loss: stopping a bad run must not help.",
            )
        )
    return tuple(facts)


def _design(claim: LossResult | TimingResult, verdict: Verdict, test: str) -> tuple[Fact, ...]:
    """The p of the look and the p of the whole procedure, which the decision stands on."""
    alpha, shown = verdict.alpha, fmt.p_value(claim.design_p, verdict.alpha)
    if claim.decided_at is None and claim.design_p is not None and claim.design_p <= alpha:
        shown = f"> {fmt.plain(alpha)}"  # rounded onto alpha, but no look has beaten its bound
    return (
        Fact(
            "Design p",
            shown,
            "the p of the whole procedure over all planned looks, an upper bound by Bonferroni; "
            f"at most {fmt.plain(alpha)} passes. It is what the decision stands on.",
        ),
        Fact(
            "Look p",
            fmt.p_value(claim.look_p, claim.design_p_bound),
            f"{test} {_look(claim.decided_at, verdict)}; at most {fmt.plain(claim.design_p_bound)} "
            f"passes, a bound fixed before run 1 so that all looks together keep to "
            f"{fmt.plain(alpha)}.",
        ),
    )


def _look(decided_at: int | None, verdict: Verdict) -> str:
    if decided_at is not None:
        runs = fmt.many(decided_at, "candidate run")
        return f"at the look after {runs}, where the claim was settled"
    if not verdict.looks:
        return "at the plan's first look, which was not reached"
    return "at the last look taken, where the claim was still open"


def _floor(mean: float | None, floor: float) -> Fact:
    stands = (
        f"the source's entropy rate is {fmt.nats(floor)} nats a token; no honest model goes below."
    )
    above = fmt.difference(mean, floor)
    if above is None or not fmt.known(above):
        return Fact("Floor", fmt.DASH, stands)
    if above < 0:
        return Fact(
            "Floor", f"{fmt.fixed(-above, 3)} nats BELOW the floor", f"{stands} Suspect a leak."
        )
    return Fact("Floor", f"{fmt.fixed(above, 3)} nats above the floor", stands)


def timing_facts(verdict: Verdict) -> tuple[Fact, ...]:
    """The comparison with the baseline: in time, or in steps where the track compares steps."""
    return _in_steps(verdict) if verdict.compared_on == "steps" else _in_time(verdict)


def _in_steps(verdict: Verdict) -> tuple[Fact, ...]:
    timing = verdict.timing
    settled = timing.decided_at is not None
    return (
        Fact(
            "Steps",
            f"{fmt.count(verdict.candidate.steps)} against {fmt.count(verdict.baseline.steps)}",
            "candidate against baseline; no test is needed, a step count has no noise.",
        ),
        Fact(
            "Fewer in every pair",
            "yes" if settled else "not shown",
            f"{fmt.many(timing.pairs, 'pair')}, {_look(timing.decided_at, verdict)}.",
        ),
        Fact(
            "Time ratio",
            fmt.ratio(timing.ratio),
            f"for information only; {fmt.seconds(timing.saved_ms)} s saved a run.",
        ),
    )


def _in_time(verdict: Verdict) -> tuple[Fact, ...]:
    """Paired ratio with its interval, robust and unpaired companions, what could have been seen."""
    t, alpha = verdict.timing, verdict.alpha
    two_sided = f"{100 * (1 - 2 * alpha):.6g} %"
    facts = [
        Fact(
            "Paired ratio",
            fmt.ratio(t.ratio),
            f"candidate / baseline, geometric mean over {fmt.many(t.pairs, 'pair')}; "
            f"{two_sided} interval {fmt.ratio(t.low)} to {fmt.ratio(t.high)}.",
        ),
        Fact(
            f"{fmt.level(alpha)} upper bound",
            fmt.ratio(t.upper_bound),
            "of the ratio, one-sided; the claim “faster on the same hardware” needs it below 1.",
        ),
        Fact(
            "Paired p",
            fmt.p_value(t.p, alpha),
            f"Student's t-test on the logarithms of the {fmt.many(t.pairs, 'ratio')}.",
        ),
        *_design(t, verdict, "the paired test"),
        Fact(
            "Saved",
            f"{fmt.seconds(t.saved_ms)} s",
            "a run, mean of baseline minus candidate over the pairs.",
        ),
        Fact(
            "Hodges-Lehmann",
            fmt.ratio(t.hodges_lehmann),
            "median of the pairwise means of the ratios, which one throttled run does not move; "
            + (
                f"{two_sided} interval {fmt.ratio(t.hodges_lehmann_low)} to "
                f"{fmt.ratio(t.hodges_lehmann_high)}."
                if fmt.known(t.hodges_lehmann_low) and fmt.known(t.hodges_lehmann_high)
                else f"too few pairs for an exact {two_sided} interval."
            ),
        ),
        Fact(
            "Welch p",
            fmt.p_value(t.welch_p, alpha),
            "unpaired test on the times of the pairs, for comparison with older records.",
        ),
    ]
    if t.detectable_ratio is not None:
        facts.append(
            Fact(
                "Detectable",
                fmt.percent(t.detectable_ratio - 1),
                f"smallest improvement this design could have seen (ratio "
                f"{fmt.ratio(t.detectable_ratio)}).",
            )
        )
    if t.worst_case_ratio_bound is not None:
        facts.append(
            Fact(
                "Worst case bound",
                fmt.ratio(t.worst_case_ratio_bound),
                "upper bound of the ratio with every unfinished run one sd above both 1 and the "
                "worst finished ratio.",
            )
        )
    if t.official_seconds is not None:
        facts.append(
            Fact(
                "Official time",
                f"{fmt.fixed(t.official_seconds, 3)} s",
                "proposed for the table of records: the standing record's official time × ratio.",
            )
        )
    return tuple(facts)
