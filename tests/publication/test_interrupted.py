"""promote, cut off at every step: by an error, by Ctrl-C, by kill -9. Everything or nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import git.cmd
import pytest
from git import GitCommandError, Repo

from harness.errors import SpeedrunError, UnfitError, UsageError
from harness.publication import advance, scratch
from harness.publication.promote import promote
from tests.support.bundles import make_repository, snapshot

ROOT = Path(__file__).resolve().parents[2]
STEPS = ("worktree add", "add -f", "commit", "checkout", "reset", "update-ref")
KILLED = """
import os, signal, sys
import git.cmd
from harness.publication.promote import promote
from pathlib import Path

step, when, bundle = sys.argv[1:]
execute = git.cmd.Git.execute

def killing(self, command, *rest, **options):
    mine = " ".join(command[1:]).startswith(step.split()[0]) and step.split()[-1] in command
    if mine and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    done = execute(self, command, *rest, **options)
    if mine:
        os.kill(os.getpid(), signal.SIGKILL)
    return done

git.cmd.Git.execute = killing
promote(Path(bundle))
print("was not killed")
"""


def is_step(command: Any, step: str) -> bool:
    words = step.split()
    return bool(command[1] == words[0] and words[-1] in command)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_an_error_at_any_step_undoes_all(
    place: Path, step: str, when: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = place.parents[1]
    before = snapshot(root)
    execute = git.cmd.Git.execute
    met: list[str] = []

    def failing(self: Any, command: Any, *rest: Any, **options: Any) -> Any:
        mine = is_step(command, step) and not met
        if mine and when == "before":
            met.append(step)
            raise error
        done = execute(self, command, *rest, **options)
        if mine:
            met.append(step)
            raise error
        return done

    with monkeypatch.context() as patch:
        patch.setattr(git.cmd.Git, "execute", failing)
        with pytest.raises((KeyboardInterrupt, OSError, SpeedrunError)):
            promote(place)
    assert met == [step]
    if (step, when) == ("update-ref", "after"):
        # The branch has moved: that is all, not nothing.
        assert snapshot(root)["status"] == ""
        assert Repo(root).head.commit.message.startswith("promote:")
        assert snapshot(root)["journal"] == []
    else:
        assert snapshot(root) == before


@pytest.mark.parametrize(
    ("step", "when"), [(step, "after") for step in STEPS] + [("checkout", "before")]
)
def test_after_kill_9_the_next_start_puts_it_right(place: Path, step: str, when: str) -> None:
    root = place.parents[1]
    before = snapshot(root)
    kill(place, step, when)
    if step == "update-ref":
        with pytest.raises(UsageError, match="the standing record already"):
            promote(place)
        after = snapshot(root)
        assert (after["status"], after["journal"]) == ("", [])
        return
    repo = Repo(root)
    scratch.clear_scratch(repo)
    assert bool(advance.recover(repo)) == (step in ("checkout", "reset"))
    assert snapshot(root) == before
    promote(place)
    assert snapshot(root)["status"] == ""


def kill(place: Path, step: str, when: str) -> None:
    """Promote in a process that ends by SIGKILL before or after a step of git."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, step, when, str(place)],
        cwd=place.parents[1], env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr


def test_what_the_user_changed_since_is_not_overwritten(place: Path) -> None:
    root = place.parents[1]
    kill(place, "checkout", "after")
    assert snapshot(root)["journal"] == [advance.JOURNAL]
    (root / "baseline/fake.py").write_text("mine, all mine\n", encoding="utf-8")
    before = snapshot(root)
    with pytest.raises(UsageError, match="changed since") as caught:
        promote(place)
    assert "baseline/fake.py" in caught.value.where
    assert snapshot(root) == before


def test_a_half_written_file_is_undone(place: Path) -> None:
    root = place.parents[1]
    before = snapshot(root)
    kill(place, "checkout", "after")
    script = root / "baseline/fake.py"
    script.write_bytes(script.read_bytes()[:100])
    assert "undone" in advance.recover(Repo(root))
    assert snapshot(root) == before


def test_a_commit_after_the_crash_is_not_touched(place: Path) -> None:
    root = place.parents[1]
    kill(place, "checkout", "after")
    Repo(root).git.commit("-q", "-m", "whatever was staged")
    before = snapshot(root)
    with pytest.raises(UsageError, match="changed since"):
        promote(place)
    assert snapshot(root) == before


def test_another_git_holds_the_index(place: Path) -> None:
    root = place.parents[1]
    (root / ".git" / "index.lock").touch()
    before = snapshot(root)
    with pytest.raises(UsageError, match="another git command") as caught:
        promote(place)
    assert "index.lock" in caught.value.where
    assert snapshot(root) == before


def test_a_lock_that_comes_in_between_is_undone_at_the_next_start(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = place.parents[1]
    before = snapshot(root)
    lock = root / ".git" / "index.lock"

    def locked(repo: Repo, move: advance.Move, message: str) -> None:
        repo.git.checkout(move.new, "--", *move.changed, *move.created)
        lock.touch()
        repo.git.reset("-q", move.new, "--", *move.adopted)

    with monkeypatch.context() as patch:
        patch.setattr(advance, "_forward", locked)
        with pytest.raises(UnfitError, match="half-way") as caught:
            promote(place)
    assert "index.lock" in caught.value.why
    lock.unlink()
    assert "undone" in advance.recover(Repo(root))
    assert snapshot(root) == before


def test_a_branch_that_moved_meanwhile_is_not_overwritten(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = place.parents[1]
    commit = scratch.commit_beside

    def meanwhile(repo: Repo, *rest: Any) -> str:
        made = commit(repo, *rest)
        (root / "candidates/README.md").write_text("theirs\n", encoding="utf-8")
        repo.git.commit("-q", "-a", "-m", "somebody else's")
        return made

    monkeypatch.setattr("harness.publication.promote.commit_beside", meanwhile)
    with pytest.raises((SpeedrunError, GitCommandError)):
        promote(place)
    repo = Repo(root)
    assert repo.head.commit.message == "somebody else's\n"
    assert "promote" not in repo.git.log("--format=%s")
    assert repo.git.status("--porcelain", "--untracked-files=no") == ""


def test_the_journal_of_another_hand(accepted: Path, tmp_path: Path) -> None:
    place = make_repository(tmp_path / "other", accepted)
    journal = place.parents[1] / ".git" / advance.JOURNAL
    journal.write_text('{"old": 1}', encoding="utf-8")
    with pytest.raises(UsageError, match="journal of a promotion cannot be read"):
        promote(place)
