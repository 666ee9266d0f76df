"""`promote`, step by step: recover, judge, plan, commit beside, move the branch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.board.rules import rules_in_force
from harness.errors import UsageError
from harness.publication.advance import Move, advance, recover
from harness.publication.promotion import Promotion, plan_promotion
from harness.publication.proof import Proof, prove
from harness.publication.repository import (
    blob_hashes,
    open_repository,
    require_branch,
    require_clean,
    require_contest,
    root_of,
    tracked,
)
from harness.publication.scratch import commit_beside

if TYPE_CHECKING:
    from git import Repo


@dataclass(frozen=True, slots=True)
class Promoted:
    """What was done, or with a dry run what would be.

    commit      hash of the new commit; "" in a dry run
    adopted     files of the bundle that the commit adds, as they lie there
    recovered   what an earlier, interrupted promotion made necessary; "" for nothing
    """

    promotion: Promotion
    branch: str
    commit: str
    adopted: tuple[str, ...]
    recovered: str


def promote(folder: Path, by: str = "", note: str = "", *, dry_run: bool = False) -> Promoted:
    """Make the bundle's candidate the standing record, in one commit on the current branch.

    Raises SpeedrunError with repository and working tree as they were.
    """
    repo = open_repository(folder if folder.is_dir() else Path.cwd())
    require_contest(repo)
    branch = require_branch(repo)
    recovered = "" if dry_run else recover(repo)
    root = root_of(repo)
    proof = prove(folder)
    rules = rules_in_force(proof.verdict.track, root)
    if rules is not None:
        require_clean(repo, [rules.baseline])
    promotion = plan_promotion(proof, root, by or contributor(repo, proof), note)
    adopted, added = _bundle_state(repo, proof, promotion.bundle)
    move = _check_paths(repo, promotion, adopted)
    if dry_run:
        return Promoted(promotion, branch, "", adopted, recovered)
    base = repo.head.commit
    files = {path: text.encode() for path, text in promotion.files.items()} | added
    commit = commit_beside(repo, base, files, promotion.removed, promotion.message)
    move = Move(base.hexsha, commit, move.changed, move.created, move.adopted, move.removed)
    advance(repo, move, promotion.message.splitlines()[0])
    return Promoted(promotion, branch, commit, adopted, recovered)


def contributor(repo: Repo, proof: Proof) -> str:
    """Author of the commit that brought the bundle, else the git user; "" if unknown."""
    path = proof.root.resolve()
    if path.is_relative_to(root_of(repo)):
        told = repo.git.log("-1", "--diff-filter=A", "--format=%an", "--", str(path / "plan.json"))
        if told:
            return str(told)
    return str(repo.config_reader().get_value("user", "name", default=""))


def _bundle_state(
    repo: Repo, proof: Proof, bundle: str
) -> tuple[tuple[str, ...], dict[str, bytes]]:
    """(files of the bundle that are not committed yet, the same with their bytes).

    Raises UsageError when a committed one was changed: what is promoted is what others can see.
    """
    committed = tracked(repo.head.commit, bundle)
    paths = [f"{bundle}/{name}" for name in proof.files]
    require_clean(repo, sorted(set(committed)))
    here = blob_hashes(repo, paths)
    changed = [path for path in paths if path in committed and committed[path] != here[path]]
    if changed:
        raise UsageError(
            "the bundle differs from what is committed",
            where=", ".join(changed[:4]),
            fix=f"git checkout -- {bundle}, or commit it first",
        )
    new = tuple(path for path in paths if path not in committed)
    root = root_of(repo)
    return new, {path: (root / path).read_bytes() for path in new}


def _check_paths(repo: Repo, promotion: Promotion, adopted: tuple[str, ...]) -> Move:
    """What will happen to each path. Raises UsageError for one with changes of the user's own."""
    root, head = root_of(repo), repo.head.commit
    known = {path: bool(tracked(head, path)) for path in (*promotion.files, *promotion.removed)}
    require_clean(repo, [path for path in known if known[path]])
    # An ignored file is not in `git status`, and would be overwritten all the same.
    taken = [path for path in promotion.files if not known[path] and (root / path).exists()]
    if taken:
        raise UsageError(
            "files that this would write are there, and not committed",
            where=", ".join(taken),
            fix="commit or remove them first",
        )
    return Move(
        old=head.hexsha,
        new="",
        changed=tuple(path for path in promotion.files if known[path]),
        created=tuple(path for path in promotion.files if not known[path]),
        adopted=adopted,
        removed=tuple(path for path in promotion.removed if known[path]),
    )
