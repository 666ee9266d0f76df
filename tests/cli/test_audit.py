"""`speedrun audit`, and the audit at the end of `speedrun submit`, with trainers that train."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.bundle import read_bundle
from harness.ledger import Audited, Closed
from tests.support.audited import HONEST, TRACK, cheat
from tests.support.contest import ROOT
from tests.support.tamper import Copy

Done = subprocess.CompletedProcess[str]


class MiniContest:
    """A folder with the mini track: the candidate takes 30 steps, the baseline 90."""

    def __init__(self, root: Path, data: Path) -> None:
        self.root, self.data = root, data
        self.candidate, self.baseline = root / "candidates/mini.py", root / "baseline/mini.py"
        for path in (self.candidate, self.baseline):
            path.parent.mkdir(parents=True)
        self.candidate.write_text(HONEST)
        self.baseline.write_text(cheat(("= 30, 15, 2", "= 90, 15, 2")))
        self.track(looks="[2]")

    def track(self, **replaced: str) -> None:
        text = TRACK
        for name, value in replaced.items():
            text = "\n".join(
                f"{name} = {value}" if line.startswith(f"{name} =") else line
                for line in text.splitlines()
            )
        (self.root / "track.toml").write_text(text)

    def run(self, *arguments: str) -> Done:
        return subprocess.run(
            [sys.executable, "-m", "harness.cli.main", *arguments],
            cwd=self.root,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "XDG_CACHE_HOME": str(self.root / "cache"),
                "COLUMNS": "200",
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def audit(self, *arguments: str) -> Done:
        return self.run(
            "audit", "candidates/mini.py", "--track", "track.toml", "--data", str(self.data),
            *arguments,
        )  # fmt: skip

    @property
    def bundle(self) -> Path:
        (only,) = sorted((self.root / "results").glob("*"))
        return only


@pytest.fixture
def mini(tmp_path: Path, mini_data: Path) -> MiniContest:
    return MiniContest(tmp_path, mini_data)


def statuses(checks: list[dict[str, Any]]) -> dict[str, str]:
    return {check["id"]: check["status"] for check in checks}


@pytest.mark.slow
def test_submit_ends_with_an_audit(mini: MiniContest) -> None:
    done = mini.run("submit", "--track", "track.toml", "--data", str(mini.data), "--json")
    verdict = json.loads(done.stdout)
    found = statuses(verdict["checks"])
    own = ("audit", "loss", "leak", "data", "untimed", "compiler", "convergence")
    assert {name: found[name] for name in own} == dict.fromkeys(own, "pass"), done.stderr
    bundle = read_bundle(mini.bundle)
    assert bundle.problems == ()
    assert [type(event) for event in bundle.events[-2:]] == [Closed, Audited]
    names = {path.name for path in (mini.bundle / "audit").iterdir()}
    assert names == {"audit.json", "run.log", "run.times", "run.err", "scorer.err"}
    # Judged again offline, from the evidence alone.
    again = mini.run("verify", str(mini.bundle))
    assert again.returncode == done.returncode
    assert "does not follow" not in again.stderr
    # No second audit: the bundle has its own.
    before = (mini.bundle / "ledger.jsonl").read_bytes()
    resumed = mini.run("submit", "--resume", str(mini.bundle))
    assert resumed.returncode == done.returncode
    assert (mini.bundle / "ledger.jsonl").read_bytes() == before


def test_a_bundle_without_an_audit_gets_it(
    accepted: Path, mini: MiniContest, tmp_path: Path
) -> None:
    """The fake trainers' track asks for none; `audit` gives it one all the same."""
    copy = Copy(accepted, tmp_path)
    done = mini.run("audit", str(copy.root))
    assert done.returncode == 0, done.stderr
    bundle = read_bundle(copy.root)
    assert bundle.problems == ()
    assert isinstance(bundle.events[-1], Audited)
    assert "the script does not offer load_scorer" in done.stderr
    verified = copy.verify()
    assert verified.differences == ()
    assert {c.id: c.status for c in verified.verdict.checks}["audit"] == "pass"
    before = copy.text("ledger.jsonl")
    once_more = mini.run("audit", str(copy.root))
    assert once_more.returncode == 0, once_more.stderr
    assert "not recorded" in once_more.stderr
    assert copy.text("ledger.jsonl") == before


def test_a_script_alone(mini: MiniContest) -> None:
    done = mini.audit("--json", "--keep", "kept")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert set(statuses(document["checks"]).values()) == {"pass"}
    assert document["report"]["scorer"]["status"] == "scored"
    assert (mini.root / "kept" / "audit.json").is_file()
    assert not (mini.root / "results").exists()


def test_a_cheat_alone(mini: MiniContest) -> None:
    mini.candidate.write_text(cheat(("copy.deepcopy(model.state_dict())", "model.state_dict()")))
    done = mini.audit()
    assert done.returncode == 3
    assert "✗ untimed" in done.stderr
    assert "keep what was trained before the clock" in done.stderr


def test_a_script_that_crashes_proves_nothing(mini: MiniContest) -> None:
    mini.candidate.write_text(cheat(("def main():\n", "def main():\n    raise KeyError\n")))
    done = mini.audit()
    assert done.returncode == 1
    assert "the audit run failed: exit, exit code 1" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("audit", "none.py"), "no script at none.py"),
        (("audit", "candidates/mini.py", "--track", "none"), "no track named 'none'"),
    ],
)
def test_usage(arguments: tuple[str, ...], words: str, mini: MiniContest) -> None:
    done = mini.run(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
