"""Discretionary rule: do not eat the buffer that the record keeps below the target."""

from __future__ import annotations

from harness.checks.case import Case
from harness.checks.check import Check
from harness.samples import final_loss


def check_buffer(case: Case) -> Check:
    """Warns when the candidate's margin is smaller than the buffer and than the baseline's."""
    contest = case.bundle.track.contest
    baseline = [final_loss(run) for run in case.samples.baselines()]
    margin = case.loss.margin
    claim = "the margin below the target is kept"
    if not baseline or margin is None or not contest.buffer_nats:
        return Check(
            id="buffer",
            status="skip",
            claim=claim,
            evidence="no buffer on this track" if not contest.buffer_nats else "no runs to compare",
        )
    before = case.loss.target_loss_nats - sum(baseline) / len(baseline)
    eaten = margin < contest.buffer_nats and margin < before
    return Check(
        id="buffer",
        status="warn" if eaten else "pass",
        claim=claim,
        evidence=(
            f"margin before {before:+.5f} nats (baseline, n {len(baseline)}), after {margin:+.5f}"
        ),
        remedy=(
            "a change that eats the buffer must beat a plain step cut at equal loss"
            if eaten
            else ""
        ),
        rule="a record that eats the buffer must beat a step cut at equal loss",
    )
