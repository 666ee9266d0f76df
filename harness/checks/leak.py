"""Rule: a score knows only what came before, and is a probability.

Four conditions (parameter-golf #1017): strict causality, a full normalised distribution, score
before update, one pass from left to right. Each is asked of the scorer as a black box
(rescoring.py); this judges the answers.
"""

from __future__ import annotations

from harness.audit_report import Probe, ScorerFacts
from harness.checks.audited import without_audit
from harness.checks.case import Case
from harness.checks.check import Check, Status
from harness.data.stream import is_shard

MOVED_NATS = 1e-3
"""A score that hangs on a later token moves by tenths of a nat; equal kernels give equal bits."""
NOISE_NATS = 0.02
"""More than this between two scorings of one text is not rounding: bf16 logits move by 0.01."""
LOG_SUM = 1e-3
AGREE_NATS = 0.02
TRUNCATED_NATS = 1.0
"""Another length may take another kernel: bf16 tails move by 0.1. A target known moves by more."""
LONGER_NATS = 5e-3
CLAIM = "no score hangs on what comes after it, and every score is a probability"
RULE = "strict causality, a normalised distribution, score before update"


def check_leak(case: Case) -> Check:
    """Fails when a probe moves an earlier score, a row is no distribution or not the one that the
    scores come from, or an answer depends on what was asked before."""
    missing = without_audit(case, "leak", CLAIM, RULE)
    if missing is not None or case.bundle.audit is None:
        return missing or _check("skip", "not known: no audit run")
    facts = case.bundle.audit.scorer
    if facts.status != "scored":
        required = case.bundle.track.audit.scorer == "required" or facts.status == "failed"
        word = "no scorer" if facts.status == "absent" else "the scorer failed"
        return _check(
            "unproven" if required else "skip",
            f"the loss itself was not re-scored, nor probed for leaks: {word} ({facts.detail})",
            "offer load_scorer and save the weights, as the contract says" if required else "",
        )
    noise = max(facts.repeat_moved or 0.0, facts.order_moved or 0.0)
    findings = _memory(facts, noise)
    for probe in facts.probes:
        findings += _probe(probe, noise)
    shards = [name for name in facts.files_read if is_shard(case.bundle.track, name)]
    findings += [f"the scorer reads {name} while it scores" for name in shards]
    status: Status = "fail" if findings else "pass"
    probes = facts.probes
    if not findings and len(probes) < 2:
        status = "unproven"
    return _check(
        status,
        f"{len(probes)} positions in {facts.probe_tokens:,} tokens: earlier scores move "
        f"{_most(probes, 'earlier_moved'):.2g}, rows {_most(probes, 'row_moved'):.2g}, "
        f"|log Σp| {_most(probes, 'log_sum'):.2g}, rescored {noise:.2g}",
        "a score may use earlier tokens only, and must come from a full distribution"
        if findings
        else "",
        tuple(findings),
    )


def _memory(facts: ScorerFacts, noise: float) -> list[str]:
    findings = []
    if (facts.repeat_moved or 0.0) > NOISE_NATS:
        findings.append(
            f"the same text scored twice moves by {facts.repeat_moved:.3g} nats: it was adapted to"
        )
    if (facts.order_moved or 0.0) > NOISE_NATS:
        findings.append(
            f"a score moves by {facts.order_moved:.3g} nats with what was scored before it"
        )
    if (facts.longer_moved or 0.0) > max(LONGER_NATS, 2 * noise):
        findings.append(
            f"the first {facts.probe_tokens:,} scores move by {facts.longer_moved:.3g} nats on "
            "average when the text goes on after them"
        )
    if facts.negative:
        findings.append(f"{facts.negative:,} scores are below zero: probabilities above one")
    return findings


def _probe(probe: Probe, noise: float) -> list[str]:
    at = f"position {probe.position} ({probe.place})"
    what = "the next token" if probe.change == "one" else "all later tokens"
    moved = max(MOVED_NATS, 4 * min(noise, NOISE_NATS))
    findings = []
    if probe.earlier_moved > moved:
        findings.append(f"{at}: earlier scores move by {probe.earlier_moved:.3g} with {what}")
    if probe.row_moved > moved:
        findings.append(f"{at}: its distribution moves by {probe.row_moved:.3g} with {what}")
    if probe.truncated_moved is not None and probe.truncated_moved > TRUNCATED_NATS:
        findings.append(
            f"{at}: its distribution moves by {probe.truncated_moved:.3g} where no target is given"
        )
    if abs(probe.log_sum) > LOG_SUM:
        findings.append(f"{at}: its probabilities sum to e^{probe.log_sum:.3g}, not to 1")
    if probe.disagreement > AGREE_NATS:
        findings.append(f"{at}: score and distribution differ by {probe.disagreement:.3g}")
    if probe.swapped_disagreement > AGREE_NATS + moved:
        findings.append(
            f"{at}: for another target, score and distribution differ by "
            f"{probe.swapped_disagreement:.3g}"
        )
    return findings


def _most(probes: tuple[Probe, ...], name: str) -> float:
    return max((abs(float(getattr(probe, name))) for probe in probes), default=0.0)


def _check(status: Status, evidence: str, remedy: str = "", details: tuple[str, ...] = ()) -> Check:
    return Check(
        id="leak",
        status=status,
        claim=CLAIM,
        evidence=evidence,
        remedy=remedy,
        rule=RULE,
        details=details[:40],
    )
