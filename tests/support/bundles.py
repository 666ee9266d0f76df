"""Bundles of every kind that the board shows, made from one accepted bundle; and a repository."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from git import Repo

from harness.source import Source
from tests.support.contest import TRACK
from tests.support.tamper import Copy, Line


def exhibition(bundle: Path, results: Path, name: str) -> Path:
    """An accepted exhibition: the same evidence under a plan that says it is none."""
    copy = Copy(bundle, results / "_making")

    def change(plan: dict[str, Any]) -> None:
        plan["exhibition"] = ["declared as an exhibition by the submitter"]

    copy.replan(change)
    copy.reclaim()
    return _keep(copy, results / name)


def other_rules(bundle: Path, results: Path, name: str) -> Path:
    """Accepted under an easier rule that its own track.toml states."""
    copy = Copy(bundle, results / "_making")
    copy.edit("track.toml", "validation_tokens = 10", "validation_tokens = 1")
    digest = hashlib.sha256(copy.path("track.toml").read_bytes()).hexdigest()

    def change(plan: dict[str, Any]) -> None:
        plan["track_sha256"] = digest

    copy.replan(change)
    copy.reclaim()
    return _keep(copy, results / name)


def with_extra_source(bundle: Path, results: Path, name: str) -> Path:
    """A source file more than the script imports, in plan and ledger as if it had been there."""
    copy = Copy(bundle, results / "_making")
    copy.write("source/candidate/conftest.py", "print('run by pytest')\n")
    digest = hashlib.sha256(copy.path("source/candidate/conftest.py").read_bytes()).hexdigest()

    def change(plan: dict[str, Any]) -> None:
        arm = plan["candidate"]
        arm["files"]["conftest.py"] = digest
        texts = {path: copy.text(f"source/candidate/{path}") for path in arm["files"]}
        arm["source_sha256"] = Source(arm["script"], texts).sha256()
        change_runs(arm["source_sha256"])

    def change_runs(source: str) -> None:
        def each(events: list[Line]) -> None:
            for event in events:
                if event.get("arm") == "candidate" and "source_sha256" in event:
                    event["source_sha256"] = source

        copy.rechain(each)

    copy.replan(change)
    copy.reclaim()
    return _keep(copy, results / name)


def rule_broken(bundle: Path, results: Path, name: str) -> Path:
    """An edited log, and a verdict that says so: honest about being broken."""
    copy = Copy(bundle, results / "_making")
    copy.edit("runs/candidate-02.log", "val_loss:3.2", "val_loss:3.1")
    copy.reclaim()
    return _keep(copy, results / name)


def edited_verdict(bundle: Path, results: Path, name: str) -> Path:
    """Claims a better loss than its evidence yields."""
    copy = Copy(bundle, results / "_making")
    verdict = json.loads(copy.text("verdict.json"))
    verdict["loss"]["mean"] = 3.1
    copy.write("verdict.json", json.dumps(verdict))
    return _keep(copy, results / name)


def unreadable(bundle: Path, results: Path, name: str) -> Path:
    """A plan that is cut off."""
    copy = Copy(bundle, results / "_making")
    copy.write("plan.json", copy.text("plan.json")[:200])
    return _keep(copy, results / name)


def _keep(copy: Copy, target: Path) -> Path:
    shutil.move(copy.root, target)
    shutil.rmtree(copy.root.parent)
    return target


def make_repository(root: Path, bundle: Path) -> Path:
    """A repository whose standing record is the bundle's baseline, the bundle untracked in it;
    returns the bundle's place. Its user, hooks and settings are its own."""
    (root / "harness" / "tracks").mkdir(parents=True)
    (root / "harness" / "tracks" / "fake.toml").write_text(TRACK, encoding="utf-8")
    for folder in ("baseline", "candidates"):
        (root / folder).mkdir()
    shutil.copy(bundle / "source" / "baseline" / "fake.py", root / "baseline" / "fake.py")
    (root / "candidates" / "README.md").write_text("candidates\n", encoding="utf-8")
    (root / ".gitignore").write_text("*.log\n__pycache__/\n", encoding="utf-8")
    repo = Repo.init(root, initial_branch="main")
    with repo.config_writer() as config:
        config.set_value("user", "name", "A Maintainer")
        config.set_value("user", "email", "maintainer@example.org")
        config.set_value("commit", "gpgsign", "false")
        config.set_value("core", "hooksPath", str(root / ".git" / "hooks"))
    repo.git.add("-A")
    repo.git.commit("-q", "-m", "start")
    place = root / "results" / bundle.name
    shutil.copytree(bundle, place)
    return place


def snapshot(root: Path) -> dict[str, Any]:
    """Everything a person would miss: files, index, branches, HEAD, scratch trees."""
    repo = Repo(root)
    files = {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and ".git" not in path.relative_to(root).parts
    }
    folders = sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_dir() and ".git" not in path.relative_to(root).parts
    )
    return {
        "files": files,
        "folders": folders,
        "index": repo.git.ls_files("--stage"),
        "refs": repo.git.for_each_ref("--format=%(refname) %(objectname)"),
        "head": (root / ".git" / "HEAD").read_text(encoding="utf-8"),
        "status": repo.git.status("--porcelain", "--untracked-files=all"),
        "trees": repo.git.worktree("list", "--porcelain").count("worktree "),
        "journal": sorted(path.name for path in (root / ".git").glob("speedrun*")),
    }
