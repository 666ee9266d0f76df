"""judge: the decision table, the same bytes from the same evidence, and its schema."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from harness.bundle import read_bundle
from harness.checks.check import Check, Status
from harness.schemas import all_schemas
from harness.verdict import CHECKS, decide, judge, verdict_text
from harness.verdict_schema import EXIT_CODES, Decision, Verdict
from tests.support.series import make_bundle, make_plan, make_run, make_series
from tests.support.tamper import Copy

STATUSES: tuple[Status, ...] = ("pass", "fail", "unproven", "warn", "skip")


def check(name: str, status: Status) -> Check:
    return Check(id=name, status=status, claim="c", evidence="e")


@pytest.mark.parametrize(
    ("statuses", "decision"),
    [
        ({}, "accepted"),
        ({"loss": "pass", "runs": "pass"}, "accepted"),
        ({"loss": "pass", "leak": "skip", "buffer": "warn"}, "accepted"),
        ({"loss": "unproven"}, "not_proven"),
        ({"loss": "unproven", "runs": "warn"}, "not_proven"),
        ({"runs": "fail"}, "runs_failed"),
        ({"runs": "fail", "loss": "unproven"}, "runs_failed"),
        ({"evidence": "fail"}, "rule_broken"),
        ({"evidence": "fail", "runs": "fail"}, "rule_broken"),
        ({"evidence": "fail", "loss": "unproven", "buffer": "warn"}, "rule_broken"),
    ],
)
def test_decision_table(statuses: dict[str, Status], decision: Decision) -> None:
    assert decide(tuple(check(name, s) for name, s in statuses.items())) == decision


def test_one_failing_check_beats_everything_wherever_it_stands() -> None:
    for others in itertools.product(STATUSES, repeat=3):
        for place in range(4):
            checks = [check(f"c{i}", s) for i, s in enumerate(others)]
            checks.insert(place, check("broken", "fail"))
            assert decide(tuple(checks)) == "rule_broken"


def test_accepted_needs_every_check_to_hold_or_not_to_bind() -> None:
    for statuses in itertools.product(STATUSES, repeat=3):
        decision = decide(tuple(check(f"c{i}", s) for i, s in enumerate(statuses)))
        assert (decision == "accepted") == (not {"fail", "unproven"} & set(statuses))


# -- bytes ---------------------------------------------------------------------------------------


def test_the_same_bundle_gives_the_same_bytes(accepted: Path, tmp_path: Path) -> None:
    claimed = (accepted / "verdict.json").read_text(encoding="utf-8")
    assert verdict_text(judge(read_bundle(accepted))) == claimed
    assert verdict_text(judge(read_bundle(accepted))) == claimed
    # Under another name, in another place, with other times of change.
    copy = Copy(accepted, tmp_path)
    renamed = copy.root.rename(tmp_path / "another name")
    for path in renamed.rglob("*"):
        path.touch()
    assert verdict_text(judge(read_bundle(renamed))) == claimed


def test_the_verdict_does_not_hang_on_the_place_or_the_day(
    accepted: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    monkeypatch.setenv("LC_ALL", "C")
    claimed = (accepted / "verdict.json").read_text(encoding="utf-8")
    assert verdict_text(judge(read_bundle(accepted))) == claimed


def test_judging_reads_nothing_but_the_bundle_it_is_given() -> None:
    plan = make_plan()
    runs = make_series(
        plan,
        [3.27, 3.271, 3.2705, 3.2695, 3.2702],
        [76e3, 76.1e3, 76.05e3, 75.9e3, 76.02e3],
        [80e3, 80.1e3, 80.05e3, 79.9e3, 80.02e3],
    )
    one, two = (judge(make_bundle(plan, runs)) for _ in range(2))
    assert one == two
    assert one.decision == "accepted", one.checks


# -- schema --------------------------------------------------------------------------------------


def test_verdict_json_obeys_the_published_schema(accepted: Path) -> None:
    text = (accepted / "verdict.json").read_text(encoding="utf-8")
    verdict = Verdict.model_validate_json(text)
    assert verdict_text(verdict) == text
    obeys(json.loads(text), all_schemas()["verdict"])


def test_plan_environment_and_ledger_obey_theirs(accepted: Path) -> None:
    schemas = all_schemas()
    for name in ("plan", "environment"):
        obeys(json.loads((accepted / f"{name}.json").read_text(encoding="utf-8")), schemas[name])
    for line in (accepted / "ledger.jsonl").read_text(encoding="utf-8").splitlines():
        obeys(json.loads(line), schemas["ledger"])


def test_a_document_that_breaks_the_schema_is_told() -> None:
    schema = all_schemas()["verdict"]
    with pytest.raises(AssertionError):
        obeys({"schema_version": 1}, schema)


def obeys(value: Any, schema: dict[str, Any], root: dict[str, Any] | None = None) -> None:
    """The part of JSON Schema that pydantic's models make; a keyword it does not know fails."""
    root = root or schema
    known = {
        "$defs", "$ref", "additionalProperties", "anyOf", "const", "default", "description",
        "discriminator", "enum", "exclusiveMaximum", "exclusiveMinimum", "items", "maxItems",
        "minItems", "minimum", "oneOf", "pattern", "prefixItems", "properties", "required",
        "title", "type",
    }  # fmt: skip
    assert set(schema) <= known, set(schema) - known
    if "$ref" in schema:
        obeys(value, root["$defs"][schema["$ref"].rsplit("/", 1)[1]], root)
        return
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        fitting = 0
        for option in options:
            try:
                obeys(value, option, root)
            except AssertionError:
                continue
            fitting += 1
        assert fitting >= 1, (value, options)
        return
    kinds: dict[str, Any] = {
        "object": dict, "array": list, "string": str, "integer": int, "boolean": bool,
        "null": type(None), "number": (int, float),
    }  # fmt: skip
    if "type" in schema:
        assert isinstance(value, kinds[schema["type"]]), (value, schema)
    if "const" in schema:
        assert value == schema["const"]
    if "enum" in schema:
        assert value in schema["enum"]
    if isinstance(value, dict):
        for name in schema.get("required", ()):
            assert name in value, name
        for name, item in value.items():
            inner = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
            assert inner not in (None, False), f"unknown field {name}"
            if isinstance(inner, dict):
                obeys(item, inner, root)
    if isinstance(value, list):
        assert schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
        for i, item in enumerate(value):
            prefix = schema.get("prefixItems", [])
            obeys(item, prefix[i] if i < len(prefix) else schema.get("items", {}), root)


def test_every_decision_has_its_exit_code(accepted: Path) -> None:
    verdict = judge(read_bundle(accepted))
    for decision, code in EXIT_CODES.items():
        assert verdict.model_copy(update={"decision": decision}).exit_code == code


# -- what it says --------------------------------------------------------------------------------


def test_the_ids_of_the_checks_are_unique_and_all_there(accepted: Path) -> None:
    ids = [c.id for c in judge(read_bundle(accepted)).checks]
    assert len(ids) == len(set(ids)) == len(CHECKS)
    assert {"significance", "timing", "evidence", "runs", "completion", "design", "conduct"} <= {
        *ids
    }


def test_every_started_run_is_listed_whatever_became_of_it() -> None:
    plan = make_plan()
    runs = [
        *make_series(plan, [3.27, 3.271], [76e3, 76.1e3], [80e3, 80.1e3]),
        make_run("candidate", 3, state="failed", note="crash: exit code 1"),
        make_run("candidate", 3, state="lost", attempt=2, note="killed"),
    ]
    verdict = judge(make_bundle(plan, runs, closed=False))
    assert [row.run_id for row in verdict.runs] == [run.run_id for run in runs]
    assert [row.state for row in verdict.runs][-2:] == ["failed", "lost"]
    assert verdict.runs[-2].note == "crash: exit code 1"
    assert verdict.runs[0].curve is not None


def test_headlines_say_the_worst_first() -> None:
    plan = make_plan()
    good = make_series(plan, [3.27, 3.271], [76e3, 76.1e3], [80e3, 80.1e3])
    headline = judge(make_bundle(plan, good)).headline
    assert all(name in headline for name in ("significance", "timing", "completion"))
    arm = plan.pairs[3].order[0]
    failed = [*good, *[make_run(arm, 3, state="failed", attempt=i) for i in (1, 2, 3)]]
    verdict = judge(make_bundle(plan, failed, closed=False))
    assert verdict.decision == "runs_failed"
    assert verdict.headline.startswith("runs: ")
    assert f"{arm}-03" in verdict.headline


def test_nothing_at_all_is_not_proven_and_no_traceback() -> None:
    verdict = judge(make_bundle(make_plan(), [], closed=False))
    assert verdict.decision == "not_proven"
    assert verdict_text(verdict)
