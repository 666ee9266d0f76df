"""GitHub's workflows as data, and their `run:` steps as programs: enough of a runner for tests.

`uses:` steps are not executed. Two are imitated where a test needs what they leave behind:
`checkout`, by git, and the artifact, by a copy.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")


def load(name: str) -> dict[str, Any]:
    """A workflow or action by path from the repository's root; its `on` key is a string."""
    import yaml

    document = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    # YAML 1.1 reads a bare `on` as true; GitHub does not.
    return {"on" if key is True else key: value for key, value in document.items()}


def evaluate(text: str, context: dict[str, str]) -> str:
    """Replace `${{ a.b || 'c' }}`; names that the context lacks are empty, as on GitHub."""

    def value(match: re.Match[str]) -> str:
        for option in match[1].split(" || "):
            found = option[1:-1] if option[0] == option[-1] == "'" else context.get(option, "")
            if found:
                return found
        return ""

    return EXPRESSION.sub(value, text)


@dataclass
class Runner:
    """One job on one machine: a workspace, and the files that steps write for the runner."""

    workspace: Path
    context: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.temp = self.workspace.parent / f"{self.workspace.name}-temp"
        self.temp.mkdir(parents=True)
        self.workspace.mkdir(parents=True, exist_ok=True)

    @property
    def summary(self) -> str:
        path = self.temp / "summary.md"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def run(
        self, document: dict[str, Any], step: dict[str, Any], job: dict[str, Any] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Execute a step's `run:` as GitHub does: bash -e, its env over the job's and file's."""
        layers = (document.get("env", {}), (job or {}).get("env", {}), step.get("env", {}))
        env = {
            **os.environ,
            "GITHUB_OUTPUT": str(self.temp / "output"),
            "GITHUB_PATH": str(self.temp / "path"),
            "GITHUB_STEP_SUMMARY": str(self.temp / "summary.md"),
            "RUNNER_TEMP": str(self.temp),
            **self.variables,
        }
        for layer in layers:
            env |= {k: evaluate(str(v), self.context) for k, v in layer.items()}
        script = self.temp / "step.sh"
        script.write_text(evaluate(step["run"], self.context), encoding="utf-8")
        options = ["-eo", "pipefail"] if step.get("shell") == "bash" else ["-e"]
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", *options, str(script)],
            cwd=self.workspace,
            env=env,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        output = self.temp / "output"
        if output.exists():
            for line in output.read_text(encoding="utf-8").splitlines():
                name, _, value = line.partition("=")
                self.outputs[name] = value
        return done


def step_named(job: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [step for step in job["steps"] if step.get("name") == name]
    return found


def git(folder: Path, *arguments: str) -> str:
    """git, with an identity of its own and nobody's configuration."""
    done = subprocess.run(
        ["git", "-c", "user.name=test", "-c", "user.email=test@example.org", *arguments],
        cwd=folder,
        env={**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def checkout(origin: Path, step: dict[str, Any], context: dict[str, str], workspace: Path) -> Path:
    """What actions/checkout would leave for this step: path, ref, depth, sparse patterns."""
    asked = step.get("with", {})
    folder = workspace / asked.get("path", ".")
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "remote", "add", "origin", origin.as_uri())
    ref = evaluate(asked.get("ref", "main"), context)
    git(folder, "fetch", "--quiet", f"--depth={asked.get('fetch-depth', 1)}", "origin", ref)
    if "sparse-checkout" in asked:
        assert asked["sparse-checkout-cone-mode"] is False
        patterns = asked["sparse-checkout"].split()
        git(folder, "sparse-checkout", "set", "--no-cone", *patterns)
    git(folder, "checkout", "--quiet", "--detach", "FETCH_HEAD")
    return folder


def copy_project(folder: Path) -> None:
    """This project's code and workflows, as a base branch would have them."""
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in ("harness", ".github", ".ci"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("pyproject.toml", "action.yml"):
        shutil.copy(ROOT / name, folder / name)
