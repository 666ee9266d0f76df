"""Moves the checked-out branch to a commit that is already made: everything or nothing.

A journal in the git folder says, before the first file is touched, what is about to change. On an
error it is undone at once; after kill -9 or a lost machine the next start undoes it, or, when the
branch had already moved, has nothing to undo. The branch moves last, by compare-and-swap.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.canonical import dumps
from harness.errors import UsageError
from harness.publication.repository import git_errors, root_of, tracked
from harness.publication.scratch import AS_IT_WAS
from harness.report.write import replace_file

if TYPE_CHECKING:
    from git import Repo

JOURNAL = "speedrun-promote.json"
HALF_WAY = "it is half-way, and undone when promote is started again"


@dataclass(frozen=True, slots=True)
class Move:
    """What lies between two commits, by what happens to the working tree.

    changed   in both commits, with other content
    created   in the new commit only, written to the working tree
    adopted   in the new commit only, and already in the working tree (a bundle's files)
    removed   in the old commit only
    """

    old: str
    new: str
    changed: tuple[str, ...]
    created: tuple[str, ...]
    adopted: tuple[str, ...]
    removed: tuple[str, ...]


def advance(repo: Repo, move: Move, message: str) -> None:
    """Working tree, index and branch from `old` to `new`. The paths must be clean.

    Raises UnfitError (git refuses, no room) with everything as it was before.
    """
    journal = _journal(repo)
    replace_file(journal, dumps(asdict(move)))
    with _undisturbed():
        try:
            with git_errors("to move the branch", repo, AS_IT_WAS):
                _forward(repo, move, message)
        except BaseException:
            if repo.head.commit.hexsha != move.new:
                with git_errors("to undo what was begun", repo, HALF_WAY):
                    _back(repo, move)
            journal.unlink(missing_ok=True)
            raise
        journal.unlink(missing_ok=True)


def recover(repo: Repo) -> str:
    """Undo what a killed promotion left half-way; says what was done, "" if there was nothing.

    Raises UsageError where that would overwrite what was changed since.
    """
    journal = _journal(repo)
    if not journal.is_file():
        return ""
    move = _read(journal)
    head = repo.head.commit.hexsha
    if head == move.new:
        journal.unlink()
        return "an earlier promotion was complete when it was interrupted"
    touched = _changed_since(repo, move) if head == move.old else ["HEAD"]
    if touched:
        raise UsageError(
            "a promotion was interrupted half-way, and things have changed since",
            where=", ".join(touched[:4]),
            why=f"undoing it would overwrite them; it was to go from {move.old[:10]} to "
            f"{move.new[:10]}",
            fix=f"look at git status, settle these files, then remove {journal}",
        )
    with _undisturbed(), git_errors("to undo a promotion", repo, HALF_WAY):
        _back(repo, move)
    journal.unlink()
    return "an earlier promotion was interrupted half-way: it was undone"


def _read(journal: Path) -> Move:
    try:
        told = json.loads(journal.read_text(encoding="utf-8"))
        lists = ("changed", "created", "adopted", "removed")
        return Move(str(told["old"]), str(told["new"]), *(tuple(told[name]) for name in lists))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(
            "the journal of a promotion cannot be read",
            where=str(journal),
            why=str(error),
            fix="look at git status, then remove it",
        ) from None


def _forward(repo: Repo, move: Move, message: str) -> None:
    if move.changed or move.created:
        repo.git.checkout(move.new, "--", *move.changed, *move.created)
    if move.adopted:
        repo.git.reset("-q", move.new, "--", *move.adopted)
    if move.removed:
        repo.git.rm("-q", "-f", "--", *move.removed)
    repo.git.update_ref("-m", message, "HEAD", move.new, move.old)


def _back(repo: Repo, move: Move) -> None:
    """The state before `_forward`, from wherever it stopped. Can be repeated."""
    root = root_of(repo)
    for path in move.created:
        (root / path).unlink(missing_ok=True)
        _drop_empty(root, (root / path).parent)
    new_only = (*move.created, *move.adopted)
    if new_only:
        repo.git.reset("-q", move.old, "--", *new_only)
    if move.changed or move.removed:
        repo.git.checkout(move.old, "--", *move.changed, *move.removed)


def _drop_empty(root: Path, folder: Path) -> None:
    """Git keeps no empty folder; one that was made for a created file goes with it."""
    while folder != root and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def _changed_since(repo: Repo, move: Move) -> list[str]:
    """Paths whose content is neither that of before nor (a part of) that of after."""
    root = root_of(repo)
    found = []
    for path in (*move.changed, *move.created, *move.removed):
        file = root / path
        if not os.path.lexists(file):
            continue
        if file.is_symlink() or not file.is_file():
            found.append(path)
            continue
        known = {tracked(repo.commit(end), path).get(path) for end in (move.old, move.new)}
        if repo.git.hash_object("--", path) in known:
            continue
        if not _is_part(repo, move.new, path, file):
            found.append(path)
    return found


def _is_part(repo: Repo, commit: str, path: str, file: Path) -> bool:
    """Was the file being written when the process died?"""
    if path not in tracked(repo.commit(commit), path):
        return False
    whole: bytes = (repo.commit(commit).tree / path).data_stream.read()
    return whole.startswith(file.read_bytes())


def _journal(repo: Repo) -> Path:
    return Path(repo.git_dir) / JOURNAL


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait for the end of the block; git inherits that."""
    waiting = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waiting)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
