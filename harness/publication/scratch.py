"""A commit made beside the user's work: in a working tree of its own, with the repository's hooks.

Branch, index and files of the user are not touched; what comes out is a commit that no branch
points to yet. A scratch tree left by a killed process is removed at the next start.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UnfitError
from harness.publication.repository import git_errors

if TYPE_CHECKING:
    from git import Commit, Repo

PREFIX = "speedrun-scratch-"
AS_IT_WAS = "repository and working tree are as they were"


def commit_beside(
    repo: Repo,
    base: Commit,
    files: Mapping[str, bytes],
    removed: Sequence[str],
    message: str,
) -> str:
    """Hash of a commit on top of `base` that writes `files` and removes `removed`.

    The repository's hooks run (pre-commit, commit-msg) and may refuse, not rewrite: what is
    committed is what ran. Returns `base`'s hash when nothing would change. Raises UnfitError,
    everything as before.
    """
    clear_scratch(repo)
    try:
        with git_errors("to commit", repo, AS_IT_WAS), _scratch(repo, base) as tree:
            root = Path(str(tree.working_tree_dir))
            for path, content in files.items():
                target = root / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
                target.chmod(0o644)
            for path in removed:
                (root / path).unlink(missing_ok=True)
            for paths in _portions([*files, *removed]):
                # Forced: a .gitignore with *.log must not drop evidence.
                tree.git.add("-f", "-A", "--", *paths)
            if not tree.git.diff("--cached", "--name-only", base.hexsha):
                return str(base.hexsha)
            staged = tree.git.write_tree()
            tree.git.commit("-q", "-m", message)
            made = tree.head.commit
            if made.tree.hexsha != staged:
                raise UnfitError(
                    f"a commit hook changed the files; {AS_IT_WAS}",
                    where=repo.git.rev_parse("--git-path", "hooks"),
                    why=", ".join(
                        tree.git.diff("--name-only", staged, made.hexsha).split("\n")[:4]
                    ),
                    fix="exclude results/, baseline/ and candidates/ from what the hook rewrites: "
                    "they are kept as they ran",
                )
            return str(made.hexsha)
    except OSError as error:
        raise UnfitError(
            f"the commit cannot be made; {AS_IT_WAS}",
            where=str(error.filename or tempfile.gettempdir()),
            why=str(error.strerror or error),
            fix="make room, then repeat the command",
        ) from None


@contextmanager
def _scratch(repo: Repo, base: Commit) -> Iterator[Repo]:
    from git import Repo as Opened

    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    tree = folder / "tree"
    try:
        repo.git.worktree("add", "-q", "--detach", str(tree), base.hexsha)
        opened = Opened(tree)
        opened.git.update_environment(**repo.git.environment())
        yield opened
        opened.close()
    finally:
        _drop(repo, folder)


def clear_scratch(repo: Repo) -> None:
    """Remove scratch trees of processes that are gone."""
    import psutil

    for line in repo.git.worktree("list", "--porcelain").splitlines():
        found = re.fullmatch(rf"worktree (.*/{PREFIX}(\d+)-[^/]*)/tree", line)
        if found and not psutil.pid_exists(int(found[2])):
            _drop(repo, Path(found[1]))


def _drop(repo: Repo, folder: Path) -> None:
    from git import GitCommandError

    with suppress(GitCommandError):
        repo.git.worktree("remove", "--force", "--force", str(folder / "tree"))
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(GitCommandError):
        repo.git.worktree("prune")


def _portions(paths: Sequence[str], size: int = 500) -> list[Sequence[str]]:
    return [paths[start : start + size] for start in range(0, len(paths), size)]
