"""A repository with an accepted bundle in it, shielded from the git settings of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.bundles import make_repository


@pytest.fixture(autouse=True)
def _own_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")


@pytest.fixture
def place(accepted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The bundle under results/ of a fresh repository, which is the working directory."""
    bundle = make_repository(tmp_path / "repo", accepted)
    monkeypatch.chdir(tmp_path / "repo")
    return bundle
