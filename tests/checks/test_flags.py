"""The checks `flags` and `code` on whole bundles, made by the fake contest."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.bundle import read_bundle
from harness.checks.flags import scan_flags
from harness.source import read_source
from harness.tracks.track import load_track
from harness.verdict import judge
from tests.support.contest import Contest

ROOT = Path(__file__).resolve().parents[2]
# Candidates and standing records; baseline/reference_*.py are probes of a node, no candidates.
SCRIPTS = [
    script
    for folder in ("candidates", "baseline")
    for script in sorted((ROOT / folder).glob("*.py"))
    if not script.name.startswith("reference_")
]
CHEAT = "\n\ndef tune():\n    import torch._inductor.config as c\n\n    c.max_autotune = True\n"
SLEEP = "\n\ndef wait():\n    time.sleep(1)\n"
ODD = "\n\ndef look():\n    import gc\n\n    return gc.get_objects()\n"


def check(contest: Contest, name: str) -> dict[str, object]:
    (found,) = [c for c in contest.verdict()["checks"] if c["id"] == name]  # type: ignore[attr-defined]
    return found


def run(contest: Contest, added: str) -> int:
    script = contest.candidate
    script.write_text(script.read_text(encoding="utf-8") + added, encoding="utf-8")
    return contest.submit("--plan", "fixed", "--runs", "2").returncode


def test_forbidden_flag_fails_the_verdict(contest: Contest) -> None:
    assert run(contest, CHEAT) == 3
    found = check(contest, "flags")
    assert found["status"] == "fail"
    assert found["remedy"] == "remove the setting"
    details = found["details"]
    assert isinstance(details, list)
    assert details[0].startswith("source/candidate/fake.py:")
    assert "torch._inductor.config.max_autotune is set to True" in details[0]
    assert contest.verdict()["decision"] == "rule_broken"


def test_odd_things_are_named_and_code_is_measured(contest: Contest) -> None:
    for script, added in ((contest.candidate, ODD), (contest.baseline, SLEEP)):
        script.write_text(script.read_text(encoding="utf-8") + added, encoding="utf-8")
    assert run(contest, "") in (0, 1)
    found = check(contest, "flags")
    assert found["status"] == "warn"
    lines = found["details"]
    assert isinstance(lines, list)
    assert any("gc.get_objects" in line for line in lines)
    assert any(line.startswith("source/baseline/fake.py:") and "sleeps" in line for line in lines)
    code = check(contest, "code")
    assert code["status"] == "pass"
    assert "1 new function" in str(code["evidence"])
    assert code["details"] == ["new functions: look", "functions gone: wait"]


def test_missing_source_is_skipped(accepted: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(accepted, copy)
    for script in (copy / "source" / "candidate").iterdir():
        script.unlink()
    verdict = judge(read_bundle(copy))
    status = {c.id: c.status for c in verdict.checks}
    assert status["flags"] == "skip"
    assert status["code"] == "skip"
    assert verdict.decision == "rule_broken"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_our_own_scripts_have_nothing_to_look_at(script: Path) -> None:
    findings = scan_flags(read_source(script), load_track("small"))
    assert [f.text() for f in findings if f.severity != "note"] == []
