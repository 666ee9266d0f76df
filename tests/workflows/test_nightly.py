"""nightly.yml executed: both jobs of a night."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.nightly.table import read_table
from tests.workflows.repositories import Nightly, with_python
from tests.workflows.runner import (
    ROOT,
    Runner,
    git,
    load,
    step_named,
)

pytest.importorskip("yaml", reason="PyYAML reads the workflows; it is in the extra `test`")


def test_a_quiet_night_is_committed_and_opens_nothing(nightly: Nightly) -> None:
    done, calls, gpu = nightly.night(1)
    assert done["retime"].returncode == 0, done["retime"].stderr
    assert gpu.outputs["code"] == "0"
    assert done["Commit the series"].returncode == 0, done["Commit the series"].stderr
    assert done["Say so"].returncode == 0
    assert calls == []
    night = gpu.outputs["night"]
    assert json.loads(nightly.file(f"{night}/night.json"))["state"] == "ended"
    kept = git(nightly.origin, "ls-tree", "-r", "--name-only", "main", "results/nightly")
    assert "results/nightly/fake.csv" in kept.splitlines()
    assert any(path.startswith("results/nightly/source/") for path in kept.splitlines())
    assert ".log" not in kept


def test_a_table_that_grew_meanwhile_and_a_branch_that_moved_lose_nothing(
    nightly: Nightly, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a night runs, another clone pushes one; while it is committed, a README."""
    nightly.night(1)
    carry = Nightly.artifact

    def meanwhile(self: Nightly, step: dict[str, Any], first: Runner, target: Path) -> None:
        carry(self, step, first, target)
        other = tmp_path / "other"
        git(tmp_path, "clone", "--quiet", str(nightly.origin), str(other))
        table = other / "results" / "nightly" / "fake.csv"
        header, *rows = table.read_text().splitlines(keepends=True)
        table.write_text("".join([header, *rows, *(row.replace("Z,", "1Z,", 1) for row in rows)]))
        git(other, "commit", "--quiet", "--all", "-m", "a night elsewhere")
        git(other, "push", "--quiet", "origin", "HEAD:main")
        # The job's checkout comes after that push, and before the next one.
        git(target.parent, "fetch", "--quiet", "--depth=1", "origin", "main")
        git(target.parent, "checkout", "--quiet", "--detach", "FETCH_HEAD")
        (other / "README.md").write_text("moved\n")
        git(other, "add", "--all")
        git(other, "commit", "--quiet", "-m", "meanwhile")
        git(other, "push", "--quiet", "origin", "HEAD:main")

    monkeypatch.setattr(Nightly, "artifact", meanwhile)
    done, _, _ = nightly.night(2)
    assert done["Commit the series"].returncode == 0, done["Commit the series"].stderr
    assert "the branch has moved" in done["Commit the series"].stdout
    path = tmp_path / "fake.csv"
    path.write_text(nightly.file("results/nightly/fake.csv") + "\n")
    assert len(read_table(path)) == 9
    assert nightly.file("README.md") == "moved"


def test_failed_runs_open_one_issue_and_update_it(nightly: Nightly) -> None:
    done, calls, gpu = nightly.night(1, mode="crash")
    assert gpu.outputs["code"] == "5"
    assert done["retime"].returncode == 0, "the other job says so"
    assert done["Say so"].returncode == 5
    verbs = [call[:2] for call in calls]
    assert verbs == [["label", "create"], ["issue", "list"], ["issue", "create"]]
    created = calls[2]
    assert created[created.index("--title") + 1].startswith("Nightly fake on 1 of ")
    assert created[created.index("--label") + 1] == "nightly-fake"
    assert "CUDA out of memory" in created[-1]
    assert "speedrun retime --track fake --runs 1" in created[-1]
    _, calls, _ = nightly.night(2, mode="crash", open_issue="7")
    assert [call[:3] for call in calls[2:]] == [["issue", "edit", "7"], ["issue", "comment", "7"]]


def test_a_night_that_never_began_fails_where_it_stands(nightly: Nightly) -> None:
    document = load(".github/workflows/nightly.yml")
    retime = document["jobs"]["retime"]
    runner = Runner(nightly.root / "empty", {"inputs.track": "small"})
    with_python(runner)
    runner.variables["PYTHONPATH"] = str(ROOT)
    done = runner.run(document, step_named(retime, "Retime"), retime)
    assert done.returncode in (2, 4)
    assert runner.outputs["night"] == ""
