"""Rule: the mean final validation loss is at or below the target, significantly."""

from __future__ import annotations

from harness.checks.case import Case
from harness.checks.check import Check
from harness.samples import final_loss
from harness.stats.loss import luck_warning


def check_significance(case: Case) -> Check:
    """Passes when a look beat the design's bound, the rule's own p over all runs holds, and it
    holds again with every unfinished run at its worst (stats/unfinished.py)."""
    loss, contest = case.loss, case.bundle.track.contest
    claim = f"mean final loss is below {loss.target_loss_nats:g} nats, p < {contest.alpha:g}"
    rule = f"mean val loss ≤ {loss.target_loss_nats:g} with p < {contest.alpha:g}"
    if loss.n < 2 or loss.mean is None or loss.rule_p is None:
        return Check(
            id="significance",
            status="unproven",
            claim=claim,
            evidence=f"{loss.n} counted candidate runs finished with a usable loss",
            remedy="run the whole series: speedrun submit --resume",
            rule=rule,
        )
    details = [
        f"design: p {loss.look_p:.2g} at the look of {loss.decided_at} runs, bound "
        f"{loss.design_p_bound:g}; p of the whole procedure ≤ {loss.design_p:.2g}"
        if loss.decided_at and loss.look_p is not None and loss.design_p is not None
        else f"design: no look has beaten its bound {loss.design_p_bound:g} yet"
    ]
    holds = loss.decided_at is not None and loss.rule_p < contest.alpha
    if loss.worst_case_p is not None:
        holds = holds and loss.worst_case_p < contest.alpha
        details.append(f"with every unfinished run at its worst: p {loss.worst_case_p:.2g}")
    losses = [final_loss(run) for run in case.samples.candidates()]
    lucky = luck_warning(losses, loss.target_loss_nats, contest.loss_sd_nats)
    if lucky is not None:
        details.append(
            f"the spread is suspiciously small (sd {loss.sd:.5f}, usual {contest.loss_sd_nats:g})"
        )
    sd = f"{loss.sd:.5f}" if loss.sd is not None else "none"
    return Check(
        id="significance",
        status="pass" if holds else "unproven",
        claim=claim,
        evidence=f"n {loss.n}, mean {loss.mean:.5f}, sd {sd}, rule p {loss.rule_p:.2g}",
        remedy="" if holds else "more runs, or more margin; the advice below has the numbers",
        rule=rule,
        details=tuple(details),
    )
