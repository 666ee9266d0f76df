"""The audit itself: there, complete, and of the program that was timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.audit_report import AuditReport
from harness.bundle import Run
from harness.checks.check import Check
from harness.verdict import judge
from tests.support.audited import HONEST, judged, mini_bundle, mini_track
from tests.support.series import make_log, make_run


def of(
    report: AuditReport | None, data: Path, runs: list[Run] | None = None, **fields: Any
) -> Check:
    bundle = mini_bundle(HONEST, report, data, runs=tuple(runs or ()), **fields)
    return next(check for check in judge(bundle).checks if check.id == "audit")


def timed(losses: list[float], steps: int = 30) -> list[Run]:
    return [
        make_run("candidate", i + 1, log=make_log(loss, 1000.0, steps))
        for i, loss in enumerate(losses)
    ]


def test_a_track_that_asks_for_it_is_not_proven_without(mini_data: Path) -> None:
    assert of(None, mini_data).status == "unproven"
    assert (
        of(None, mini_data, track=mini_track(scorer='"optional"\nrequired = false')).status
        == "skip"
    )


def test_without_an_audit_the_other_checks_say_so(mini_data: Path) -> None:
    checks = judged(HONEST, None, mini_data)
    assert {checks[n].status for n in ("loss", "leak", "untimed", "compiler")} == {"skip"}
    assert checks["loss"].evidence == "not known: no audit run"


def test_it_must_end_as_the_timed_runs_do(honest_audit: AuditReport, mini_data: Path) -> None:
    assert honest_audit.final is not None
    loss = honest_audit.final.loss_nats
    assert loss is not None
    near = [loss + d for d in (-0.02, 0.0, 0.02)]
    assert of(honest_audit, mini_data, timed(near)).status == "pass"
    other = of(honest_audit, mini_data, timed(near, steps=20))
    assert other.status == "fail"
    assert "ends at step 30, the timed runs at 20" in other.details[0]
    better = of(honest_audit, mini_data, timed([v - 0.3 for v in near]))
    assert better.status == "fail"
    assert "standard deviations from the timed runs'" in better.details[0]


def test_another_source(honest_audit: AuditReport, mini_data: Path) -> None:
    report = honest_audit.model_copy(update={"source_sha256": "1" * 64})
    assert of(report, mini_data).details == (
        "audit/audit.json: another source than the plan's candidate",
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"end": {"exit_code": 1}}, "the audit run failed: exit, exit code 1"),
        ({"end": {"reason": "timeout", "exit_code": None}}, "the audit run failed: timeout"),
        ({"ranks": ()}, "the shim saw no end of rank 0"),
        ({"marks": ()}, "the final validation is missing"),
    ],
)
def test_what_did_not_come_to_its_end_proves_nothing(
    change: dict[str, Any], words: str, honest_audit: AuditReport, mini_data: Path
) -> None:
    if "end" in change:
        change = {"end": honest_audit.end.model_copy(update=change["end"])}
    check = of(honest_audit.model_copy(update=change), mini_data)
    assert check.status == "unproven"
    assert any(words in line for line in check.details)


def test_no_eye_outside_is_a_warning(honest_audit: AuditReport, mini_data: Path) -> None:
    report = honest_audit.model_copy(update={"observer": "not watched from outside: no /proc"})
    assert of(report, mini_data).status == "warn"
