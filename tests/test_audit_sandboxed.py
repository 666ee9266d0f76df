"""The audit run of a stranger's script: in the sandbox, and seen from outside as without one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from harness.audit_report import AuditReport
from harness.runner.sandbox import Protection, try_sandbox
from tests.runner.test_sandbox import needs_bwrap
from tests.support.audited import HONEST, cheat, run_audit

pytestmark = needs_bwrap


@pytest.fixture(scope="module")
def protection(mini_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Protection:
    found, problem = try_sandbox(
        sys.executable,
        data=sorted((mini_data / "data" / "mini").iterdir()),
        hidden=(Path.home(),),
        gpu=False,
        packages=("torch",),
        scratch=tmp_path_factory.mktemp("trial"),
    )
    assert problem == ""
    return found


def by_name(report: AuditReport) -> dict[str, Any]:
    return {f"{use.zone}: {use.path}": use for use in report.files}


def test_an_honest_audit_says_the_same_in_a_sandbox(
    honest_audit: AuditReport, mini_data: Path, tmp_path: Path, protection: Protection
) -> None:
    report = run_audit(HONEST, tmp_path, mini_data, protection=protection)
    assert (report.end.reason, report.end.exit_code) == ("exit", 0), (
        tmp_path / "audit" / "run.err"
    ).read_text()
    assert report.observer == "procfs"
    # bwrap's own processes and the rank, known by its id inside, are no children of the run.
    assert report.processes == honest_audit.processes == ()
    assert [rank.rank for rank in report.ranks] == [0]
    assert report.ranks[0].backward == honest_audit.ranks[0].backward
    assert report.scorer.status == "scored", report.scorer.detail
    assert report.scorer.tokens == honest_audit.scorer.tokens
    assert report.scorer.mean_nats == pytest.approx(report.scorer.printed_nats, abs=2e-4)
    data = {name for name in by_name(honest_audit) if name.startswith("data:")}
    assert data == {name for name in by_name(report) if name.startswith("data:")}
    assert report.environment["HOME"] == "$SCRATCH/home"
    assert report.command[0] == sys.executable


def test_what_is_left_in_its_home_runs_nowhere_else(
    mini_data: Path, tmp_path: Path, protection: Protection
) -> None:
    """Its HOME may hold packages that the next interpreter with that HOME would load: the one that
    is asked for the compiler's defaults, and the scorer."""
    sprung = tmp_path / "sprung"
    text = cheat(
        (
            "import torch\n",
            "import torch\n"
            "import site\n"
            "Path_ = __import__('pathlib').Path(site.getusersitepackages())\n"
            "Path_.mkdir(parents=True)\n"
            f"(Path_ / 'usercustomize.py').write_text(\"open({str(sprung)!r}, 'w')\\n\")\n"
            "import torch._inductor.config\n",
        )
    )
    report = run_audit(text, tmp_path / "run", mini_data, protection=protection)
    assert report.end.exit_code == 0, (tmp_path / "run" / "audit" / "run.err").read_text()
    assert not sprung.exists()
    assert report.scorer.status == "scored", report.scorer.detail


def test_weights_that_are_a_link_are_no_weights(
    mini_data: Path, tmp_path: Path, protection: Protection
) -> None:
    secret = tmp_path / "id_ed25519"
    secret.write_text("a private key")
    text = HONEST + (
        "\nif __name__ == '__main__':\n"
        "    weights = __import__('os').environ['SPEEDRUN_CHECKPOINT']\n"
        "    __import__('pathlib').Path(weights).unlink()\n"
        f"    __import__('os').symlink({str(secret)!r}, weights)\n"
    )
    report = run_audit(text, tmp_path / "run", mini_data, protection=protection)
    assert report.scorer.status == "absent"


def test_the_shard_is_not_there_when_weights_are_scored(
    mini_data: Path, tmp_path: Path, protection: Protection
) -> None:
    shard = mini_data / "data" / "mini" / "mini_val.bin"
    text = cheat(("def load_scorer(", f"SHARD = {str(shard)!r}\n\n\ndef load_scorer("))
    lines = text.splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if line.startswith("def load_scorer("))
    lines.insert(at + 1, "    open(SHARD, 'rb').close()\n")
    report = run_audit("".join(lines), tmp_path / "run", mini_data, protection=protection)
    assert report.scorer.status == "failed"
    assert "No such file" in report.scorer.detail
