"""Names in a record folder to arms: which logs belong together, and which arm is which.

Nobody prescribed how a record is laid out; sixty of them were read. Arms are sub-folders
(`baseline/`, `pr233/`, `this_pr_v3/`, `prefix-1375-8x/`), file names (`baseline0-1490.txt`,
`comparison_….txt`) or nothing at all (one flat list that differs in total steps). Names are only
hints, so every guess that is not spelled out by a name is reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Literal

Role = Literal["candidate", "baseline", "other"]

ROOT_ARM = "(top)"
"""Name of the arm of logs that lie directly in the folder."""

CONTAINERS = frozenset(
    {"runs", "run", "logs", "log", "code_logs", "stdout", "out", "records", "results", "txt"}
)
"""Folders that only hold: `runs/x.txt` belongs to the arm of the folder above."""

BASELINE_WORDS = frozenset(
    {
        "baseline",
        "prior",
        "previous",
        "prev",
        "master",
        "main",
        "upstream",
        "original",
        "reference",
        "comparison",
        "control",
    }
)
CANDIDATE_WORDS = frozenset(
    {"candidate", "pr", "submission", "record", "combined", "final", "new", "proposed"}
)
OTHER_WORDS = frozenset(
    {"ablation", "ablations", "probe", "probes", "sweep", "failed", "analysis", "plots", "debug"}
)

_WORD = re.compile(r"[a-z]+")
_REVISION = re.compile(r"^(.*?)[_-]?v(\d{1,3})$")


def words(name: str) -> list[str]:
    """Letter runs of a name, lower case: `baseline0-1490` gives ["baseline"]."""
    return _WORD.findall(name.lower())


def arm_name(relative: PurePosixPath) -> str:
    """The arm a log belongs to: its folders without mere containers, else by its file name."""
    folders = [part for part in relative.parts[:-1] if part.lower() not in CONTAINERS]
    if folders:
        return "/".join(folders)
    return "baseline" if BASELINE_WORDS.intersection(words(relative.stem)) else ROOT_ARM


def name_role(name: str) -> Role | None:
    """What a name says about an arm; None if it says nothing. `baseline_pr299` is a baseline."""
    found = set(words(name))
    if found & OTHER_WORDS:
        return "other"
    if found & BASELINE_WORDS:
        return "baseline"
    return "candidate" if found & CANDIDATE_WORDS else None


def assign_roles(names: Sequence[str]) -> tuple[dict[str, Role], list[str]]:
    """A role for every arm, and a sentence for each guess.

    1. Words decide; of `this_pr_v1`, `…_v2`, `…_v3` only the last is the submission.
    2. With no candidate named, the arms that no word describes are candidates.
    3. With a candidate named, they are others (ablations, earlier states).
    """
    guesses: list[str] = []
    said = {name: name_role(name) for name in names}
    latest = _latest_revisions(name for name, role in said.items() if role == "candidate")
    named = [name for name, role in said.items() if role == "candidate" and name in latest]
    nameless = [name for name, role in said.items() if role is None]
    roles: dict[str, Role] = {}
    for name, role in said.items():
        if role == "candidate" and name not in latest:
            roles[name] = "other"
            guesses.append(f"{name}: an earlier revision, not the submission")
        elif role is not None:
            roles[name] = role
        elif named:
            roles[name] = "other"
            guesses.append(f"{name}: no word tells its role; {', '.join(named)} is the candidate")
        else:
            roles[name] = "candidate"
    if len(nameless) > 1 and not named:
        guesses.append(f"no name tells which is the candidate: {', '.join(nameless)} all count")
    return roles, guesses


def _latest_revisions(names: Iterable[str]) -> set[str]:
    """Of names that differ in a trailing v1, v2, … only those with the highest number."""
    best: dict[str, tuple[int, str]] = {}
    for name in names:
        matched = _REVISION.match(name.lower())
        stem, number = (matched[1], int(matched[2])) if matched else (name, 0)
        if stem not in best or number > best[stem][0]:
            best[stem] = (number, name)
    return {name for _, name in best.values()}


def baseline_rank(name: str) -> tuple[bool, str]:
    """Order of several baselines: one that calls itself so comes before `prior` or `master`."""
    return ("baseline" not in words(name), name)


def split_by_steps(totals: Sequence[int | None]) -> dict[int, Role] | None:
    """Roles by total steps for a flat list in which exactly two totals occur, else None.

    The smaller total is taken for the candidate's: cutting steps is what most records do.
    """
    distinct = sorted({total for total in totals if total is not None})
    if len(distinct) != 2 or None in totals:
        return None
    return {distinct[0]: "candidate", distinct[1]: "baseline"}
