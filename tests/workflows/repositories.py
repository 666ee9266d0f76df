"""Repositories of our own: the project on "GitHub", its pull requests, its nights."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.workflows.runner import (
    Runner,
    checkout,
    evaluate,
    git,
    load,
    step_named,
)

ANNOTATION_OF_X = r"::(warning|notice) file=results/x`\|<b>%3A%3Aerror%3A%3Ay[^:]*::[^\n]*"
TRACE = "import pathlib; pathlib.Path({path!r}).write_text(__name__)\n"


@dataclass
class Project:
    """A repository on "GitHub" with the fake track among its own, and a merged pull request."""

    root: Path
    trace: Path

    @property
    def origin(self) -> Path:
        return self.root / "origin"

    def verify(self, change: Callable[[Path], None]) -> tuple[Runner, int, str]:
        """Open a pull request with `change`, run verify.yml's steps on it."""
        base = git(self.origin, "rev-parse", "main")
        git(self.origin, "checkout", "--quiet", "-B", "pull", "main")
        change(self.origin)
        git(self.origin, "add", "--all", "--force")
        git(self.origin, "commit", "--quiet", "--allow-empty", "-m", "a pull request")
        git(self.origin, "checkout", "--quiet", "-B", "merge", "main")
        git(self.origin, "merge", "--quiet", "--no-ff", "-m", "merge", "pull")
        context = {
            "github.event.pull_request.base.sha": base,
            "github.sha": git(self.origin, "rev-parse", "merge"),
        }
        document = load(".github/workflows/verify.yml")
        (job,) = document["jobs"].values()
        workspace = self.root / "work"
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout"):
                checkout(self.origin, step, context, workspace)
        # The step "Install" needs a package index: the base checkout on the path stands for it.
        runner = Runner(workspace, context, {"PYTHONPATH": str(workspace / "base")})
        with_python(runner)
        done = runner.run(document, step_named(job, "Verify and check"), job)
        assert "Traceback" not in done.stderr, done.stderr
        return runner, done.returncode, done.stdout


def with_python(runner: Runner) -> None:
    """`python` is this one; nothing is written beside the sources it imports."""
    shims = runner.temp / "bin"
    shims.mkdir()
    for name, arguments in (
        ("python", ""),
        ("python3", ""),
        ("speedrun", "-P -m harness.cli.main"),
    ):
        # A wrapper: through a link Python would not find its environment.
        (shims / name).write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
        (shims / name).chmod(0o755)
    runner.variables |= {
        "PATH": f"{shims}{os.pathsep}{os.environ['PATH']}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def rejudge(project: Path, bundle: Path) -> None:
    code = (
        "import pathlib, sys; from harness.bundle import BundlePaths; "
        "from harness.publish import write_verdict; "
        "write_verdict(BundlePaths(pathlib.Path(sys.argv[1])))"
    )
    env = {**os.environ, "PYTHONPATH": str(project), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-P", "-c", code, str(bundle)], env=env, check=True)


def add_bundle(bundle: Path, name: str = "2026-11-20_fake") -> Callable[[Path], None]:
    return lambda repo: shutil.copytree(bundle, repo / "results" / name) and None


GH = """#!/usr/bin/env python3
import json, os, sys
log = os.environ["GH_LOG"]
body = sys.argv[sys.argv.index("--body-file") + 1] if "--body-file" in sys.argv else ""
with open(log, "a") as handle:
    handle.write(json.dumps([*sys.argv[1:], open(body).read() if body else ""]) + "\\n")
if sys.argv[1:3] == ["issue", "list"]:
    print(os.environ.get("GH_OPEN", ""))
"""


@dataclass
class Nightly:
    """The two jobs of a night, from a clone to the pushed series."""

    root: Path
    origin: Path

    def night(
        self, number: int, mode: str = "", open_issue: str = ""
    ) -> tuple[dict[str, subprocess.CompletedProcess[str]], list[list[str]], Runner]:
        document = load(".github/workflows/nightly.yml")
        retime, publish = document["jobs"]["retime"], document["jobs"]["publish"]
        context = {"inputs.track": "fake", "inputs.runs": "1"}
        first = Runner(self.root / f"gpu{number}", context)
        checkout(self.origin, retime["steps"][0], context, first.workspace)
        with_python(first)
        first.variables |= {
            "PYTHONPATH": str(first.workspace),
            "XDG_CACHE_HOME": str(self.root / "cache"),
            "GITHUB_STEP_SUMMARY": str(first.temp / "summary.md"),
        }
        data = first.workspace / "data" / "fake"
        data.mkdir(parents=True)
        for name in ("fake_train_000001.bin", "fake_val.bin"):
            (data / name).write_bytes(b"tokens")
        if mode:
            record = first.workspace / "baseline" / "fake.py"
            record.write_text(record.read_text().replace("MODE = ''", f"MODE = {mode!r}"))
        done = {"retime": first.run(document, step_named(retime, "Retime"), retime)}
        if not first.outputs.get("night"):
            return done, [], first
        second = Runner(self.root / f"publish{number}", context)
        second.context |= {
            "needs.retime.outputs.code": first.outputs["code"],
            "needs.retime.outputs.night": first.outputs["night"],
        }
        checkout(self.origin, publish["steps"][0], context, second.workspace)
        git(second.workspace, "remote", "set-url", "origin", str(self.origin))
        self.artifact(step_named(retime, "Keep the night"), first, second.workspace / "night")
        with_python(second)
        gh = second.temp / "bin" / "gh"
        gh.write_text(GH)
        gh.chmod(0o755)
        calls = second.temp / "gh.jsonl"
        second.variables |= {
            "GITHUB_REF_NAME": "main", "GH_LOG": str(calls), "GH_OPEN": open_issue,
            "GIT_CONFIG_GLOBAL": os.devnull,
        }  # fmt: skip
        for name in ("Commit the series", "Open or update the issue", "Say so"):
            step = step_named(publish, name)
            if "!= '0'" in step.get("if", "") and first.outputs["code"] == "0":
                continue
            done[name] = second.run(document, step, publish)
        lines = calls.read_text().splitlines() if calls.exists() else []
        return done, [json.loads(line) for line in lines], first

    def artifact(self, step: dict[str, Any], first: Runner, target: Path) -> None:
        """What upload-artifact and download-artifact carry over: the paths that are there."""
        context = {
            "env.TRACK": "fake",
            **{f"steps.retime.outputs.{k}": v for k, v in first.outputs.items()},
        }
        for path in evaluate(step["with"]["path"], context).split():
            source = first.workspace / path
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target / path)
            elif source.exists():
                shutil.copy(source, target / path)

    def file(self, path: str) -> str:
        return git(self.origin, "show", f"main:{path}")
