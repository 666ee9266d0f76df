"""Rule: the printed loss is that of the final weights on the official tokens."""

from __future__ import annotations

from harness.checks.audited import without_audit
from harness.checks.case import Case
from harness.checks.check import Check

TOLERANCE_NATS = 2e-4
CLAIM = "the final weights score the printed loss on the official validation tokens"
RULE = "the loss is the mean over the track's validation tokens"


def check_loss(case: Case) -> Check:
    """Fails when the harness's own loop over the official tokens gives another loss than the audit
    run printed; skipped, or unproven where the track asks for a scorer, without one."""
    missing = without_audit(case, "loss", CLAIM, RULE)
    if missing is not None or case.bundle.audit is None:
        return missing or _check("skip", "not known: no audit run")
    facts, track = case.bundle.audit.scorer, case.bundle.track
    wanted = track.data.validation_tokens
    if facts.status == "absent":
        required = track.audit.scorer == "required"
        return _check(
            "unproven" if required else "skip",
            f"the loss itself was not re-scored: {facts.detail}",
            "offer load_scorer and save the weights, as the contract says" if required else "",
        )
    if facts.status == "failed" or facts.mean_nats is None:
        return _check(
            "unproven",
            f"the scorer failed: {facts.detail}",
            "see audit/scorer.err; mend load_scorer",
        )
    printed = facts.printed_nats
    if printed is None:
        return _check("unproven", "the audit run printed no final loss", "see audit/run.err")
    evidence = (
        f"{facts.tokens:,} tokens: {facts.mean_nats:.6f} nats re-scored, {printed:.6f} printed, "
        f"difference {facts.mean_nats - printed:+.6f}"
    )
    if facts.tokens != wanted:
        return _check(
            "unproven",
            f"{evidence}; the track validates on {wanted:,} tokens",
            "speedrun data check",
        )
    if abs(facts.mean_nats - printed) > TOLERANCE_NATS:
        return _check(
            "fail",
            evidence,
            f"print what the weights score on the first {wanted:,} validation tokens, all digits",
        )
    return _check("pass", evidence)


def _check(status: str, evidence: str, remedy: str = "") -> Check:
    return Check(
        id="loss",
        status=status,  # type: ignore[arg-type]
        claim=CLAIM,
        evidence=evidence,
        remedy=remedy,
        rule=RULE,
    )
