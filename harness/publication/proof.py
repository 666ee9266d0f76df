"""Before anything is published: the bundle judged again, and its claim held against the result."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from harness.bundle import Bundle, BundlePaths, is_bundle, read_bundle
from harness.errors import EvidenceError, SpeedrunError, UsageError
from harness.source import read_source
from harness.verdict_schema import Verdict
from harness.verification import verify_bundle
from harness.vouching import who_vouches

FILE_LIMIT_BYTES = 100 << 20
"""GitHub takes no larger file."""


class NotAcceptedError(SpeedrunError):
    """An honest bundle whose verdict is not "accepted"; ends with the verdict's own exit code."""

    def __init__(self, what: str, exit_code: int, *, where: str, why: str, fix: str) -> None:
        super().__init__(what, where=where, why=why, fix=fix)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Proof:
    """A bundle whose evidence yields the accepted verdict that it claims.

    files   path below the bundle -> permission-free bytes on disk, sorted; what travels
    """

    root: Path
    bundle: Bundle
    verdict: Verdict
    notes: tuple[str, ...]
    files: tuple[str, ...]


def prove(folder: Path) -> Proof:
    """The bundle in `folder`, judged again.

    Raises UsageError for what is no finished bundle, EvidenceError where claim and evidence differ,
    NotAcceptedError for any other verdict than accepted.
    """
    if not folder.is_dir() or not is_bundle(folder):
        raise UsageError(f"{folder} is no bundle", fix="give a folder that speedrun submit made")
    if BundlePaths(folder).lock.exists():
        raise UsageError(
            "a series is writing into this bundle",
            where=str(folder),
            why=f"{BundlePaths(folder).lock.name} is there",
            fix=f"wait for it, or continue what was cut off: speedrun submit --resume {folder}",
        )
    if not BundlePaths(folder).verdict.is_file():
        raise UsageError(
            "the bundle claims no verdict yet",
            where=str(folder),
            fix=f"speedrun submit --resume {folder}",
        )
    verification = verify_bundle(folder)
    verdict = verification.verdict
    if verification.differences:
        raise EvidenceError(
            "the claimed verdict does not follow from the evidence",
            where=str(folder),
            why="; ".join(verification.differences[:3]),
            fix=f"speedrun verify {folder} names every difference",
        )
    if verdict.decision != "accepted":
        raise NotAcceptedError(
            f"the verdict is {verdict.decision.replace('_', ' ')!r}, not accepted",
            verdict.exit_code,
            where=str(folder),
            why=verdict.headline,
            fix=f"speedrun verify {folder} says what is missing",
        )
    false = who_vouches(folder, verdict).differences
    if false:
        raise EvidenceError(
            "a signature in the bundle is false",
            where=str(folder),
            why="; ".join(false[:3]),
            fix="have whoever vouches sign this bundle (speedrun sign), or remove the file",
        )
    bundle = read_bundle(folder)
    _require_closure(folder, bundle)
    return Proof(folder, bundle, verdict, verification.notes, bundle_files(folder))


def _require_closure(folder: Path, bundle: Bundle) -> None:
    """The candidate is its script and what that imports. A plan written by hand may name more, such
    as a conftest.py, which must not get into a repository as part of a record."""
    plan = bundle.plan.candidate
    script = folder / "source" / "candidate" / plan.script
    imported = set(read_source(script).files) if plan.script in plan.files else set()
    extra = sorted(set(plan.files) ^ imported)
    if extra:
        raise EvidenceError(
            "the candidate's files are not its script and what it imports",
            where=f"{folder}/source/candidate",
            why=", ".join(extra[:4]),
            fix="speedrun submit takes the script and its imports, no more",
        )


def bundle_files(root: Path) -> tuple[str, ...]:
    """Every file of a bundle that travels, as paths relative to it, sorted.

    Files whose names begin with a dot stay (locks, half-written ones). Raises EvidenceError for
    links, special files and what no repository would take.
    """
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in [*names, *(name for name in folders if (Path(folder) / name).is_symlink())]:
            path = Path(folder) / name
            relative = path.relative_to(root).as_posix()
            if name.startswith("."):
                continue
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode):
                raise EvidenceError(
                    f"{relative} is no regular file",
                    where=str(root),
                    fix="a bundle holds files only; no link leaves it",
                )
            if status.st_size > FILE_LIMIT_BYTES:
                raise EvidenceError(
                    f"{relative} is larger than {FILE_LIMIT_BYTES >> 20} MiB",
                    where=str(root),
                    why=f"{status.st_size:,} bytes",
                    fix="no file that speedrun submit writes is",
                )
            found.append(relative)
    return tuple(sorted(found))
