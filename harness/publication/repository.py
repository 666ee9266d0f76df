"""The user's git repository, as far as publishing needs it: found, sane, clean where it matters.

Everything goes through GitPython. Nothing here changes a file, the index or a branch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UnfitError, UsageError

if TYPE_CHECKING:
    from git import Commit, Repo

BORROWED = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY")
UNFINISHED = ("MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "rebase-merge", "rebase-apply")


def open_repository(folder: Path) -> Repo:
    """The repository whose working tree holds `folder`. Raises UnfitError, UsageError."""
    borrowed = [name for name in BORROWED if os.environ.get(name)]
    if borrowed:
        raise UsageError(
            "this runs inside another git command",
            why=f"{', '.join(borrowed)} set",
            fix="run it in a shell of its own, not in a git hook",
        )
    try:
        from git import GitError, Repo
    except ImportError as error:  # GitPython refuses to load without the git program
        raise UnfitError(
            "git does not answer", why=str(error).splitlines()[0], fix="install git"
        ) from None
    try:
        repo = Repo(folder.resolve(), search_parent_directories=True)
    except GitError:
        raise UsageError(
            "not in a git repository",
            where=str(folder),
            fix="work in a clone of the speedrun repository; bundles lie in its results/",
        ) from None
    if repo.bare or repo.working_tree_dir is None:
        raise UsageError("the repository has no working tree", where=str(repo.git_dir))
    if not repo.head.is_valid():
        raise UsageError("the repository has no commit yet", where=str(repo.working_tree_dir))
    # No prompt for a password, no download of large files into a scratch working tree.
    repo.git.update_environment(GIT_TERMINAL_PROMPT="0", GIT_LFS_SKIP_SMUDGE="1")
    return repo


def root_of(repo: Repo) -> Path:
    """Top folder of the working tree, links resolved."""
    return Path(str(repo.working_tree_dir)).resolve()


def require_contest(repo: Repo) -> None:
    """Raises UsageError when this is not a repository of contests."""
    root = root_of(repo)
    lacking = [name for name in ("baseline", "candidates") if not (root / name).is_dir()]
    if lacking:
        raise UsageError(
            "this is no speedrun repository",
            where=str(root),
            why=f"it has no folder {' and no folder '.join(lacking)}",
            fix="put the bundle under results/ of a clone of the speedrun repository",
        )


def require_branch(repo: Repo) -> str:
    """Name of the branch that is checked out. Raises UsageError: detached, or git is at work."""
    git_dir = Path(repo.git_dir)
    busy = [name for name in UNFINISHED if (git_dir / name).exists()]
    if busy:
        raise UsageError(
            "the repository is in the middle of a merge or rebase",
            where=str(git_dir / busy[0]),
            fix="finish or abort it first",
        )
    if (git_dir / "index.lock").exists():
        raise UsageError(
            "another git command is at work in this repository",
            where=str(git_dir / "index.lock"),
            fix="wait for it; if none is running, one crashed: remove the file",
        )
    if repo.head.is_detached:
        raise UsageError(
            "no branch is checked out (HEAD is detached)",
            where=str(repo.working_tree_dir),
            fix="git switch main",
        )
    return repo.active_branch.name


def require_clean(repo: Repo, paths: Sequence[str]) -> None:
    """Raises UsageError when any of these paths has changes that are not committed."""
    if not paths:
        return
    told = repo.git.status("--porcelain", "-z", "--untracked-files=all", "--", *paths)
    dirty = [part[3:] for part in told.split("\0") if len(part) > 3]
    if dirty:
        raise UsageError(
            "files that this would change have changes of your own",
            where=", ".join(dirty[:4]) + (f" and {len(dirty) - 4} more" if len(dirty) > 4 else ""),
            why="they are not committed, and would be lost",
            fix="commit or stash them first",
        )


def tracked(commit: Commit, prefix: str) -> dict[str, str]:
    """Path -> blob hash of every file of a commit below `prefix` (a folder or a file)."""
    told = commit.repo.git.ls_tree("-r", "-z", commit.hexsha, "--", prefix)
    entries = [line.split("\t", 1) for line in told.split("\0") if line]
    return {path: meta.split()[2] for meta, path in entries}


def blob_hashes(repo: Repo, paths: Sequence[str]) -> dict[str, str]:
    """Path -> hash of the working tree's file as a blob, after git's filters."""
    found: dict[str, str] = {}
    for start in range(0, len(paths), 500):
        part = paths[start : start + 500]
        hashes = repo.git.hash_object("--", *part).split()
        found.update(zip(part, hashes, strict=True))
    return found


@contextmanager
def git_errors(doing: str, repo: Repo, state: str) -> Iterator[None]:
    """Turns what git refuses into a user's error, in git's own words. `state`: how things stand."""
    from git import GitCommandError

    try:
        yield
    except GitCommandError as error:
        said = (error.stderr or error.stdout or "").strip()
        said = said.removeprefix("stderr: '").removeprefix("stdout: '").rstrip("'").strip()
        raise UnfitError(
            f"git refused {doing}; {state}",
            where=str(repo.working_tree_dir),
            why=said or f"exit code {error.status}",
            fix="mend what git names, then repeat the command",
        ) from None
