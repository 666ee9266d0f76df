"""The workflows' form; the action's steps."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.tamper import Copy
from tests.workflows.repositories import with_python
from tests.workflows.runner import (
    ROOT,
    Runner,
    load,
    step_named,
)

pytest.importorskip("yaml", reason="PyYAML reads the workflows; it is in the extra `test`")


WORKFLOWS = sorted(p.relative_to(ROOT).as_posix() for p in ROOT.glob(".github/workflows/*.yml"))
BASH = ("bash", "--noprofile", "--norc")


def steps_of(name: str) -> list[dict[str, Any]]:
    document = load(name)
    if "runs" in document:
        return list(document["runs"]["steps"])
    return [step for job in document["jobs"].values() for step in job["steps"]]


def test_the_workflows_are_there() -> None:
    names = {Path(name).stem for name in WORKFLOWS}
    assert {"ci", "verify", "nightly"} <= names


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_may_read_and_nothing_else_unless_a_job_says_so(name: str) -> None:
    document = load(name)
    assert document["permissions"] == {"contents": "read"}
    for job in document["jobs"].values():
        assert job["timeout-minutes"] <= 120
    assert "pull_request_target" not in document["on"]
    assert "workflow_run" not in document["on"]
    assert "secrets." not in json.dumps(document)


@pytest.mark.parametrize("name", [*WORKFLOWS, "action.yml"])
def test_steps_take_values_by_environment_and_actions_come_from_github(name: str) -> None:
    for step in steps_of(name):
        if "run" in step:
            # A value pasted into a script is executed: a branch may be named $(…).
            assert "${{" not in step["run"]
        else:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])


@pytest.mark.parametrize("name", WORKFLOWS)
def test_only_the_job_that_pushes_keeps_a_token(name: str) -> None:
    for label, job in load(name)["jobs"].items():
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout"):
                keeps = step.get("with", {}).get("persist-credentials") is not False
                assert keeps == label.startswith("publish")


@pytest.mark.parametrize("name", [*WORKFLOWS, "action.yml"])
def test_every_script_is_bash_that_parses(name: str, tmp_path: Path) -> None:
    for step in steps_of(name):
        if "run" not in step:
            continue
        script = tmp_path / "step.sh"
        script.write_text(step["run"], encoding="utf-8")
        subprocess.run([*BASH, "-n", str(script)], check=True)
        if shutil.which("shellcheck"):
            command = ["shellcheck", "--shell=bash", str(script)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout


@pytest.mark.skipif(not shutil.which("actionlint"), reason="actionlint is not installed")
def test_actionlint_finds_nothing() -> None:
    done = subprocess.run(
        ["actionlint", *(str(ROOT / name) for name in WORKFLOWS)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_ci_runs_what_contributors_run() -> None:
    job = load(".github/workflows/ci.yml")["jobs"]["test"]
    assert step_named(job, "Lint, types, tests")["run"] == ".ci/run"
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    versions = job["strategy"]["matrix"]["python-version"]
    supported = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(f"Python :: {version}" in supported for version in versions)
    assert len(versions) == supported.count("Python :: 3.")


def test_pull_requests_are_verified_as_data() -> None:
    document = load(".github/workflows/verify.yml")
    assert list(document["on"]) == ["pull_request"]
    (job,) = document["jobs"].values()
    assert "permissions" not in job
    base, pr = (s for s in job["steps"] if s.get("uses", "").startswith("actions/checkout"))
    assert base["with"]["ref"] == "${{ github.event.pull_request.base.sha }}"
    assert pr["with"]["sparse-checkout"].split() == ["/results/"]
    assert all(step["with"]["persist-credentials"] is False for step in (base, pr))
    scripts = " ".join(step.get("run", "") for step in job["steps"])
    assert 'install --quiet --disable-pip-version-check "./base[sign]"' in scripts
    assert "./pr" not in scripts
    assert "working-directory" not in json.dumps(job)


def test_only_the_job_without_training_code_may_write() -> None:
    jobs = load(".github/workflows/nightly.yml")["jobs"]
    assert "permissions" not in jobs["retime"]
    assert jobs["publish"]["permissions"] == {"contents": "write", "issues": "write"}
    assert "retime" not in " ".join(s.get("run", "") for s in jobs["publish"]["steps"]).split()
    assert jobs["retime"]["steps"][0]["with"]["persist-credentials"] is False


def test_a_workflows_identity_is_had_by_the_nightly_witness_alone() -> None:
    """Whoever holds an id-token signs in the project's name: no job of a pull request may."""
    holders = {
        (name, label)
        for name in WORKFLOWS
        for label, job in load(name)["jobs"].items()
        if "id-token" in job.get("permissions", {})
    }
    assert holders == {(".github/workflows/nightly.yml", "witness")}
    document = load(".github/workflows/nightly.yml")
    assert set(document["on"]) == {"schedule", "workflow_dispatch"}
    witness = document["jobs"]["witness"]
    assert witness["permissions"] == {"contents": "read", "id-token": "write"}
    assert witness["if"] == "github.ref_name == github.event.repository.default_branch"
    jobs = document["jobs"]
    assert jobs["publish-signatures"]["permissions"] == {"contents": "write"}


def test_the_action_verifies_a_bundle(accepted: Path, tmp_path: Path) -> None:
    document = load("action.yml")
    step = step_named(document["runs"], "Run")
    for name, doctor, code in (("good", False, 0), ("bad", True, 3)):
        copy = Copy(accepted, tmp_path / name)
        if doctor:
            copy.edit("runs/candidate-01.log", "val_loss:3.2", "val_loss:3.1")
        context = {"inputs.command": "verify", "inputs.bundle": str(copy.root)}
        runner = Runner(tmp_path / f"work-{name}", context)
        with_python(runner)
        runner.variables["PYTHONPATH"] = str(ROOT)
        scripts = runner.temp / "speedrun" / "bin"
        scripts.mkdir(parents=True)
        (scripts / "speedrun").symlink_to(runner.temp / "bin" / "speedrun")
        done = runner.run(document, step)
        assert done.returncode == code, done.stderr
        assert runner.outputs["exit-code"] == str(code)
        assert f"speedrun verify: exit code {code}" in runner.summary
        assert ("ACCEPTED" in runner.summary) is not doctor
        assert re.search(r"^::stop-commands::[0-9a-f]{32}$", done.stdout, re.MULTILINE)


def test_the_action_says_what_its_inputs_are() -> None:
    document = load("action.yml")
    assert set(document["inputs"]) == {"command", "bundle", "arguments", "python-version"}
    assert all(entry["description"] for entry in document["inputs"].values())
    assert document["runs"]["using"] == "composite"
    assert all("shell" in step for step in document["runs"]["steps"] if "run" in step)
