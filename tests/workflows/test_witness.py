"""nightly.yml's second pair of jobs executed: bundles signed, signatures committed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.vouching import claimed_digest, statement
from tests.support.tamper import Copy
from tests.workflows.repositories import with_python
from tests.workflows.runner import ROOT, Runner, checkout, git, load, step_named

pytest.importorskip("yaml", reason="PyYAML reads the workflows; it is in the extra `test`")

SIGSTORE = """#!/usr/bin/env python3
import json, sys
verb, option, out, statement = sys.argv[1:]
assert (verb, option) == ("sign", "--bundle")
json.dump({"signed": open(statement).read()}, open(out, "w"))
"""
"""Stands for the sigstore program, which needs the network and GitHub's token."""


@pytest.fixture
def origin(tmp_path: Path, accepted: Path) -> Path:
    """A repository with three bundles: a good one, a doctored one, one that is signed already."""
    root = tmp_path / "origin"
    for name in ("2026-01-01_good", "2026-01-02_bad one", "2026-01-03_signed"):
        shutil.copytree(accepted, root / "results" / name)
    (root / "results" / "nightly").mkdir()
    (root / "results" / "nightly" / "fake.csv").write_text("x\n")
    bad = root / "results" / "2026-01-02_bad one"
    (bad / "verdict.json").write_text("{}")
    (root / "results" / "2026-01-03_signed" / "signatures").mkdir()
    (root / "results" / "2026-01-03_signed" / "signatures" / "nightly.sigstore.json").write_text(
        "{}"
    )
    git(root, "init", "--quiet", "--initial-branch=main")
    git(root, "config", "receive.denyCurrentBranch", "ignore")
    git(root, "add", "--all", "--force")
    git(root, "commit", "--quiet", "-m", "start")
    return root


def job_of(label: str) -> tuple[dict[str, Any], dict[str, Any]]:
    document = load(".github/workflows/nightly.yml")
    return document, document["jobs"][label]


def witness(origin: Path, workspace: Path) -> Runner:
    document, job = job_of("witness")
    runner = Runner(workspace)
    checkout(origin, job["steps"][0], {}, runner.workspace)
    with_python(runner)
    program = runner.temp / "bin" / "sigstore"
    program.write_text(SIGSTORE)
    program.chmod(0o755)
    runner.variables["PYTHONPATH"] = str(ROOT)
    done = runner.run(document, step_named(job, "Sign what verifies"), job)
    assert done.returncode == 0, done.stderr
    assert "::warning::not signed" in done.stdout
    return runner


def test_what_verifies_is_signed_and_committed(origin: Path, tmp_path: Path) -> None:
    first = witness(origin, tmp_path / "witness")
    assert first.outputs == {"signed": "1"}
    signed = [p for p in (first.workspace / "signed").rglob("*") if p.is_file()]
    (file,) = signed
    assert file.relative_to(first.workspace / "signed").as_posix() == (
        "results/2026-01-01_good/signatures/nightly.sigstore.json"
    )
    copy = Copy(origin / "results" / "2026-01-01_good", tmp_path)
    digest = claimed_digest(copy.root, copy.judge())
    assert json.loads(file.read_text())["signed"].encode() == statement(digest)

    document, job = job_of("publish-signatures")
    second = Runner(tmp_path / "publish")
    checkout(origin, job["steps"][0], {}, second.workspace)
    git(second.workspace, "remote", "set-url", "origin", str(origin))
    shutil.copytree(first.workspace / "signed", second.workspace / "signed")
    second.variables |= {"GITHUB_REF_NAME": "main", "GIT_CONFIG_GLOBAL": os.devnull}
    done = second.run(document, step_named(job, "Commit the signatures"), job)
    assert done.returncode == 0, done.stderr
    changed = git(origin, "show", "--name-only", "--format=", "main")
    assert changed == "results/2026-01-01_good/signatures/nightly.sigstore.json"

    git(origin, "reset", "--quiet", "--hard", "main")
    assert witness(origin, tmp_path / "again").outputs == {}, "what is signed is left alone"
