"""Judging what the scorer answered: thresholds, and scorers that are not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.audit_report import AuditReport, Probe, ScorerFacts
from harness.checks.check import Check
from tests.support.audited import HONEST, judged, mini_track


def of(
    check: str, honest: AuditReport, data: Path, scorer: str = '"optional"', **facts: Any
) -> Check:
    report = honest.model_copy(update={"scorer": honest.scorer.model_copy(update=facts)})
    return judged(HONEST, report, data, track=mini_track(scorer=scorer))[check]


@pytest.mark.parametrize("check", ["loss", "leak"])
def test_no_scorer_is_said_plainly(check: str, honest_audit: AuditReport, mini_data: Path) -> None:
    absent = ScorerFacts(status="absent", detail="the script does not offer load_scorer")
    fields = absent.model_dump()
    optional = of(check, honest_audit, mini_data, **fields)
    assert optional.status == "skip"
    assert optional.evidence.startswith("the loss itself was not re-scored")
    required = of(check, honest_audit, mini_data, scorer='"required"', **fields)
    assert required.status == "unproven"
    assert "load_scorer" in required.remedy


@pytest.mark.parametrize("check", ["loss", "leak"])
def test_a_scorer_that_fails_proves_nothing(
    check: str, honest_audit: AuditReport, mini_data: Path
) -> None:
    found = of(check, honest_audit, mini_data, status="failed", detail="it took too long")
    assert found.status == "unproven"
    assert "it took too long" in found.evidence


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (0.0, "pass"), (1.9e-4, "pass"), (-1.9e-4, "pass"), (2.2e-4, "fail"), (-2.2e-4, "fail"),
        (1e9, "fail"),
    ],
)  # fmt: skip
def test_two_tenths_of_a_millinat(
    change: float, status: str, honest_audit: AuditReport, mini_data: Path
) -> None:
    printed = honest_audit.scorer.printed_nats
    assert printed is not None
    assert of("loss", honest_audit, mini_data, mean_nats=printed + change).status == status


def test_every_token_is_scored(honest_audit: AuditReport, mini_data: Path) -> None:
    assert of("loss", honest_audit, mini_data, tokens=8191).status == "unproven"
    assert of("loss", honest_audit, mini_data, printed_nats=None).status == "unproven"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"earlier_moved": 0.002}, "earlier scores move by 0.002"),
        ({"row_moved": 0.002}, "its distribution moves by 0.002"),
        ({"truncated_moved": 1.5}, "where no target is given"),
        ({"log_sum": 0.0012}, "sum to e^0.0012"),
        ({"log_sum": -0.0012}, "sum to e^-0.0012"),
        ({"disagreement": 0.03}, "score and distribution differ by 0.03"),
        ({"swapped_disagreement": 0.03}, "for another target"),
    ],
)
def test_one_bad_probe_is_enough(
    change: dict[str, float], words: str, honest_audit: AuditReport, mini_data: Path
) -> None:
    probes = honest_audit.scorer.probes
    bad = (*probes[:-1], probes[-1].model_copy(update=change))
    check = of("leak", honest_audit, mini_data, probes=bad)
    assert check.status == "fail"
    assert words in check.details[0]


def test_rounding_of_half_precision_is_no_leak(honest_audit: AuditReport, mini_data: Path) -> None:
    """Scores that move by 0.005 when repeated may move by as much in a probe."""
    probe = honest_audit.scorer.probes[0]
    noisy: tuple[Probe, ...] = tuple(
        probe.model_copy(update={"row_moved": 0.01, "earlier_moved": 0.008, "truncated_moved": 0.2})
        for _ in range(16)
    )
    fields = {"probes": noisy, "repeat_moved": 0.005, "order_moved": 0.004}
    assert of("leak", honest_audit, mini_data, **fields).status == "pass"
    assert of("leak", honest_audit, mini_data, probes=noisy).status == "fail"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"repeat_moved": 0.03}, "it was adapted to"),
        ({"order_moved": 0.03}, "with what was scored before it"),
        ({"longer_moved": 0.01}, "when the text goes on after them"),
        ({"negative": 3}, "3 scores are below zero"),
        ({"files_read": ("mini_val.bin",)}, "the scorer reads mini_val.bin"),
    ],
)
def test_memory_of_the_scorer(
    change: dict[str, Any], words: str, honest_audit: AuditReport, mini_data: Path
) -> None:
    check = of("leak", honest_audit, mini_data, **change)
    assert check.status == "fail"
    assert words in check.details[0]


def test_too_few_probes_prove_nothing(honest_audit: AuditReport, mini_data: Path) -> None:
    assert of("leak", honest_audit, mini_data, probes=()).status == "unproven"
