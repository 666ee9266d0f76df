"""A folder of logs, as the field ships a record: read it, find its arms.

    2026-02-16_FlattenForward/baseline/….txt  prior/….txt  pr233/….txt  README.md

`read_record_folder` reads, `arrange` (pure) finds the arms, `summarise` (record_summary.py) gives
n, means, p and Welch's test of the times.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

from harness.errors import LogError
from harness.logs import RunLog, read_log
from harness.record_arms import (
    ROOT_ARM,
    Role,
    arm_name,
    assign_roles,
    baseline_rank,
    split_by_steps,
)
from harness.record_files import record_files
from harness.record_screen import RecordRun, SkipKind, SkippedRun, gpu_type, screen
from harness.record_sources import SourceForms, SourceSurvey
from harness.record_summary import ArmSummary, FolderSummary, TimeComparison, summarise

__all__ = [
    "ArmSummary",
    "FolderSummary",
    "RecordArm",
    "RecordFolder",
    "RecordRun",
    "SkippedRun",
    "TimeComparison",
    "arrange",
    "read_record_folder",
    "summarise",
]

LOG_SUFFIXES: Final = frozenset({".txt", ".log", ".out", ".stdout", ""})
MAX_SOURCES: Final = 200
"""Distinct embedded sources kept in memory; beyond that only their hashes are."""


@dataclass(frozen=True, slots=True)
class RecordArm:
    """Runs of one version of the script.

    name          folder below the record's, or "(top)"
    role          candidate, baseline, or other (ablations, earlier revisions)
    runs          those that count, by path
    skipped       those that do not, each with its reason
    total_steps   steps of its runs; None if they differ
    sources       whether they embed one source
    mixed         its runs have more than two different lengths: logs that lie together, no arm of
                  one script, and no test of theirs means anything
    """

    name: str
    role: Role
    runs: tuple[RecordRun, ...]
    skipped: tuple[SkippedRun, ...]
    total_steps: int | None
    sources: SourceSurvey
    mixed: bool


@dataclass(frozen=True, slots=True)
class RecordFolder:
    """A record folder.

    path      the folder
    arms      baselines first, then candidates, then others
    skipped   files that are no logs, links that were not followed, unreadable files
    readme    the author's text
    at_step   step the runs are judged at; None for their last
    warnings  guesses about roles, sources that differ, diverged runs, environments that differ
    """

    path: Path
    arms: tuple[RecordArm, ...]
    skipped: tuple[SkippedRun, ...]
    readme: Path | None
    at_step: int | None
    warnings: tuple[str, ...]


def read_record_folder(path: Path, *, at_step: int | None = None) -> RecordFolder:
    """Read every log below `path`; see `arrange` for what becomes of them.

    Symbolic links are not followed, hidden files not read. `at_step` judges the runs at that step
    instead of their last (track 3 allows it). Raises LogError if the folder is none, cannot be
    listed, holds no run log, or more than 20,000 files.
    """
    if not path.is_dir():
        why = "it is no folder" if path.exists() else "there is no such path"
        fix = "give the folder that holds the logs, one file a run"
        raise LogError("no folder of logs", where=str(path), why=why, fix=fix)
    logs: list[tuple[str, RunLog]] = []
    skipped: list[SkippedRun] = []
    readme: Path | None = None
    sources: dict[str, str] = {}
    for found in record_files(path):
        if isinstance(found, SkippedRun):
            skipped.append(found)
            continue
        relative = found.relative_to(path).as_posix()
        if found.stem.lower() in ("readme", "statistics"):
            if readme is None or (found.stem.lower(), len(relative)) < (
                readme.stem.lower(),
                len(readme.relative_to(path).as_posix()),
            ):
                readme = found
        elif found.suffix.lower() in LOG_SUFFIXES:
            try:
                logs += [(relative, _slim(log, sources)) for log in read_log(found)]
            except LogError as error:
                cannot = error.what == "the log cannot be read"
                kind: SkipKind = "unreadable" if cannot else "not-a-log"
                reason = f"{error.what} ({error.why})" if error.why else error.what
                skipped.append(SkippedRun(relative, kind, reason))
    if not logs:
        shown = [f"{one.path}: {one.reason}" for one in skipped[:3]]
        raise LogError(
            "no run log in the folder",
            where=str(path),
            why="; ".join(shown) or "it holds no .txt, .log, .out or .stdout file",
            fix="give the folder that holds the logs, one file a run",
        )
    return replace(arrange(logs, at_step=at_step), path=path, skipped=tuple(skipped), readme=readme)


def _slim(log: RunLog, sources: dict[str, str]) -> RunLog:
    """Drop the training lines and share equal sources: a folder may hold thousands of logs."""
    source = None
    if log.source is not None and log.source_sha256 is not None:
        if len(sources) < MAX_SOURCES:
            sources.setdefault(log.source_sha256, log.source)
        source = sources.get(log.source_sha256)
    return replace(log, train_points=(), source=source)


def arrange(logs: Iterable[tuple[str, RunLog]], *, at_step: int | None = None) -> RecordFolder:
    """Screen the runs, find the arms and their roles. Pure; `path` is filled in by the reader."""
    logs = list(logs)
    screened = screen(logs, at_step=at_step)
    runs: dict[str, list[RecordRun]] = {}
    skipped: dict[str, list[SkippedRun]] = {}
    warnings: list[str] = []
    for run in screened.runs:
        runs.setdefault(arm_name(PurePosixPath(run.path)), []).append(run)
    split = _split_flat(runs)
    if split:
        warnings.append(
            f"roles guessed from the number of steps: {' and '.join(split)} lie in one folder"
        )
    for one in screened.skipped:
        name = arm_name(PurePosixPath(one.path))
        if split and name == ROOT_ARM:
            total = one.log.total_steps if one.log else None
            name = next((arm for arm in split if arm == f"{total} steps"), name)
        skipped.setdefault(name, []).append(one)
    roles, guesses = assign_roles([name for name in runs if name not in split])
    roles |= split
    warnings += guesses
    forms = SourceForms()
    arms = [
        _arm(name, roles.get(name, "other"), runs.get(name, []), skipped.get(name, []), forms)
        for name in sorted({*runs, *skipped})
    ]
    order: list[Role] = ["baseline", "candidate", "other"]
    arms.sort(key=lambda arm: (order.index(arm.role), baseline_rank(arm.name)))
    warnings += _arm_warnings(arms)
    return RecordFolder(Path(), tuple(arms), (), None, at_step, tuple(warnings))


def _split_flat(runs: dict[str, list[RecordRun]]) -> dict[str, Role]:
    """Part a lone flat list by total steps, in place; returns the roles of the parts."""
    if list(runs) != [ROOT_ARM]:
        return {}
    by_total = split_by_steps([run.log.total_steps for run in runs[ROOT_ARM]])
    if by_total is None:
        return {}
    flat = runs.pop(ROOT_ARM)
    for total in by_total:
        runs[f"{total} steps"] = [run for run in flat if run.log.total_steps == total]
    return {f"{total} steps": role for total, role in by_total.items()}


def _arm(
    name: str,
    role: Role,
    runs: Sequence[RecordRun],
    skipped: Sequence[SkippedRun],
    forms: SourceForms,
) -> RecordArm:
    totals = {run.log.total_steps for run in runs}
    mixed = len(totals) > 2
    return RecordArm(
        name=name,
        role="other" if mixed else role,
        mixed=mixed,
        runs=tuple(runs),
        skipped=tuple(skipped),
        total_steps=totals.pop() if len(totals) == 1 else None,
        sources=forms.survey(run.log for run in runs),
    )


def _arm_warnings(arms: Sequence[RecordArm]) -> Iterator[str]:
    for arm in arms:
        told = arm.sources.describe() if arm.runs and not arm.mixed else None
        if told is not None:
            yield f"{arm.name}: {told}"
        if arm.mixed:
            lengths = len({run.log.total_steps for run in arm.runs})
            yield f"{arm.name}: runs of {lengths} different lengths, of several scripts: no test"
        elif arm.total_steps is None and arm.runs:
            totals = sorted({str(run.log.total_steps) for run in arm.runs})
            yield f"{arm.name}: runs of different lengths ({', '.join(totals)} steps)"
        for run in arm.runs:
            if run.log.environment.gpu_busy:
                gpus = ", ".join(map(str, run.log.environment.gpu_busy))
                yield f"{run.label}: GPU {gpus} in use by others before the start"
        diverged = [one for one in arm.skipped if one.kind == "diverged"]
        if diverged:
            yield f"{arm.name}: {len(diverged)} diverged runs left out; the mean is flattered"
    compared = [run for arm in arms if arm.role != "other" for run in arm.runs]
    for what, values in (
        ("torch", {run.log.environment.torch for run in compared}),
        ("driver", {run.log.environment.driver for run in compared}),
        ("GPU", {gpu_type(run.log) for run in compared}),
    ):
        stated = sorted(value for value in values if value)
        if len(stated) > 1:
            yield f"times may not compare: {what} differs between runs ({', '.join(stated)})"
    resets = {any(n.startswith("time-reset") for n in run.log.notes) for run in compared}
    if len(resets) > 1:
        yield "times do not compare: some clocks were reset after step 10, some were not"
