"""Which protection a re-run is under: chosen before its plan is made, kept to on every resume.

A series of one's own scripts is run as it always was. A re-run executes a stranger's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness.data.stream import data_folder, shards_here
from harness.errors import UnfitError, UsageError
from harness.places import repository
from harness.plan import Plan
from harness.runner.sandbox import Protection, try_sandbox
from harness.tracks.track import Track

CHOICES = ("auto", "bwrap", "none")
INSIDE = (
    "bwrap: no network but loopback, no other processes, and of the file system only the system, "
    "the interpreter and the track's shards, read only, and a throw-away folder"
)
OUTSIDE = (
    "none: variables from an allow-list, an empty HOME and a throw-away folder; the scripts could "
    "read what this user may read, and reach the network"
)


def choose_protection(
    asked: str, plan: Plan, track: Track, hidden: Sequence[Path]
) -> tuple[Protection, str]:
    """(protection, what is in force in words). `asked` is one of CHOICES.

    Raises UsageError for another word, or where bwrap is asked for and does not work.
    """
    if asked not in CHOICES:
        raise UsageError(
            f"no sandbox named {asked!r}", fix="--sandbox " + ", --sandbox ".join(CHOICES)
        )
    protection, problem = _try(plan, track, hidden)
    if asked == "none":
        open_ = Protection(variables=protection.variables)
        return open_, f"{OUTSIDE} (asked for with --sandbox none)"
    if not problem:
        return protection, INSIDE
    if asked == "bwrap":
        raise UsageError(
            "--sandbox bwrap cannot be had on this machine",
            why=problem,
            fix="install bubblewrap and allow user namespaces, or take what there is with "
            "--sandbox auto, on a machine that holds nothing of yours",
        )
    return protection, f"{OUTSIDE} ({problem})"


def planned_protection(plan: Plan, track: Track, bundle: Path) -> Protection | None:
    """The protection that the plan names, None for a series that re-runs nothing.

    Raises UnfitError when the plan was made under bwrap and it does not work any more.
    """
    if plan.rerun is None:
        return None
    protection, problem = _try(plan, track, hidden_folders(bundle.parent))
    if plan.rerun.protection == "none":
        return Protection(variables=protection.variables)
    if problem:
        raise UnfitError(
            "the series was planned under bwrap, which does not work now",
            where=str(bundle),
            why=problem,
            fix="mend it, or start a new re-run with --sandbox auto",
        )
    return protection


def hidden_folders(*more: Path) -> tuple[Path, ...]:
    """What a run must not see, the home first: results, the standing record, the bundles."""
    root = repository()
    own = (root / "results", root / "baseline") if root is not None else ()
    return (Path.home(), *own, *more)


def _try(plan: Plan, track: Track, hidden: Sequence[Path]) -> tuple[Protection, str]:
    folder = data_folder(track, Path(plan.launch.data_root))
    with tempfile.TemporaryDirectory(prefix="speedrun-trial-") as scratch:
        return try_sandbox(
            plan.launch.python,
            data=[folder / name for name in shards_here(track, folder)],
            hidden=hidden,
            gpu=track.hardware.kind == "gpu",
            packages=("torch",) if track.hardware.launcher == "torchrun" else (),
            scratch=Path(scratch).resolve(),
        )
