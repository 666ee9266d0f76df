"""A project on "GitHub", an accepted bundle of its own, its nightly."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.contest import Contest
from tests.workflows.repositories import Nightly, Project, rejudge
from tests.workflows.runner import (
    copy_project,
    git,
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's main branch, with the fake track among its own."""
    origin = tmp_path_factory.mktemp("template") / "origin"
    origin.mkdir()
    copy_project(origin)
    contest = Contest(tmp_path_factory.mktemp("contest"))
    shutil.copy(contest.root / "track.toml", origin / "harness" / "tracks" / "fake.toml")
    for name in ("baseline", "candidates"):
        shutil.copytree(contest.root / name, origin / name)
    (origin / "baseline" / "reference_cpu.py").write_text(
        'print(\'{"parts_ms": {"copy": 4.0}}\')\n'
    )
    (origin / "results" / "history").mkdir(parents=True)
    (origin / "results" / "history" / "fake.csv").write_text("record\n")
    git(origin, "init", "--quiet", "--initial-branch=main")
    git(origin, "add", "--all")
    git(origin, "commit", "--quiet", "-m", "the project")
    return origin


@pytest.fixture(scope="module")
def honest(template: Path, accepted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An accepted bundle, judged by the project that knows its track."""
    bundle = tmp_path_factory.mktemp("honest") / accepted.name
    shutil.copytree(accepted, bundle)
    rejudge(template, bundle)
    return bundle


@pytest.fixture
def project(tmp_path: Path, template: Path) -> Project:
    origin = tmp_path / "origin"
    git(tmp_path, "clone", "--quiet", str(template), str(origin))
    git(origin, "config", "uploadpack.allowAnySHA1InWant", "true")
    return Project(tmp_path, tmp_path / "trace")


@pytest.fixture
def nightly(project: Project) -> Nightly:
    bare = project.root / "bare.git"
    git(project.root, "clone", "--quiet", "--bare", str(project.origin), str(bare))
    git(bare, "config", "uploadpack.allowAnySHA1InWant", "true")
    return Nightly(project.root, bare)
