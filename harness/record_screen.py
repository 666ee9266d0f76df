"""Which runs of a record folder count, and why the others do not. Pure functions of parsed logs.

Every criterion looks at the form of a run, never at how good its result is: incomplete logs, copies
of a run that is there already, another GPU count or type than the rest, curves made for a plot
(denser validation slows the clock by 0.7 to 3 %). A diverged run is incomplete too, and leaving it
out flatters the mean, so its reason says so.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from harness.log_lines import Validation
from harness.log_run import RunLog

SkipKind = Literal[
    "incomplete", "diverged", "duplicate", "plot", "hardware", "not-a-log", "unreadable", "link"
]

PLOT_SPACING_SHARE = 0.5
"""A run that validates more than twice as often as the folder's usual is a plot run."""


@dataclass(frozen=True, slots=True)
class RecordRun:
    """One run that counts.

    path    its log, relative to the folder, posix
    log     the parsed log, without its training lines
    result  the validation the run is judged by: the last, or the one at the step asked for
    """

    path: str
    log: RunLog
    result: Validation

    @property
    def label(self) -> str:
        """Path, and the position in the file where it holds several runs."""
        return self.path if self.log.run_index == 0 else f"{self.path} (run {self.log.run_index})"


@dataclass(frozen=True, slots=True)
class SkippedRun:
    """A run or file that does not count. `kind` is for programs, `reason` for people."""

    path: str
    kind: SkipKind
    reason: str
    log: RunLog | None = None


@dataclass(slots=True)
class Screened:
    runs: list[RecordRun] = field(default_factory=list)
    skipped: list[SkippedRun] = field(default_factory=list)


def screen(logs: Iterable[tuple[str, RunLog]], *, at_step: int | None = None) -> Screened:
    """Sort the runs of a folder into those that count and those that do not, each with a reason."""
    screened = Screened()
    for path, log in sorted(logs, key=lambda item: (item[0], item[1].run_index)):
        result = _result(path, log, at_step)
        if isinstance(result, SkippedRun):
            screened.skipped.append(result)
        else:
            screened.runs.append(RecordRun(path, log, result))
    for rule in (_drop_copies, _drop_other_hardware, _drop_plot_runs):
        screened.runs, dropped = rule(screened.runs)
        screened.skipped += dropped
    return screened


def _result(path: str, log: RunLog, at_step: int | None) -> Validation | SkippedRun:
    final = log.final
    if at_step is not None:
        found = log.at_step(at_step)
        if found is None:
            return SkippedRun(path, "incomplete", f"no validation at step {at_step}", log)
        if not math.isfinite(found.loss_nats):
            return _diverged(path, log, found)
        return found
    if final is not None and not math.isfinite(final.loss_nats):
        return _diverged(path, log, final)
    if final is None or not log.complete:
        return SkippedRun(path, "incomplete", "; ".join(log.gaps), log)
    return final


def _diverged(path: str, log: RunLog, at: Validation) -> SkippedRun:
    reason = f"val_loss is {at.loss_text} at step {at.step}: a mean without this run is flattered"
    return SkippedRun(path, "diverged", reason, log)


def _figures(run: RecordRun) -> list[tuple[int, str, float | None]]:
    return [(point.step, point.loss_text, point.train_ms) for point in run.log.validations]


def _drop_copies(runs: Sequence[RecordRun]) -> tuple[list[RecordRun], list[SkippedRun]]:
    """Drop runs whose every figure stands in another log.

    Logs are re-shipped as stdout captures, joined files and single final lines; each would inflate
    n. The fullest log is kept. Loss and time agreeing at every step by chance is out of the
    question; without times (llm.c) one line is too little to tell.
    """
    order = sorted(
        range(len(runs)),
        key=lambda i: (-len(runs[i].log.validations), runs[i].log.environment.torch is None, i),
    )
    kept: dict[tuple[int, str, float | None], list[int]] = {}
    figures = [_figures(run) for run in runs]
    copies: dict[int, int] = {}
    for i in order:
        telling = figures[i][-1][2] is not None or len(figures[i]) > 1
        for j in kept.get(figures[i][-1], []):
            if telling and set(figures[i]) <= set(figures[j]):
                copies[i] = j
                break
        else:
            # Any of its lines may be the last line of a shorter copy.
            for line in figures[i]:
                kept.setdefault(line, []).append(i)
    dropped = [
        SkippedRun(runs[i].path, "duplicate", f"same figures as {runs[j].label}", runs[i].log)
        for i, j in sorted(copies.items())
    ]
    return [run for i, run in enumerate(runs) if i not in copies], dropped


def _drop_other_hardware(runs: Sequence[RecordRun]) -> tuple[list[RecordRun], list[SkippedRun]]:
    """Keep the largest GPU count in the folder, and of that the commonest GPU type."""
    counts = [count for run in runs if (count := gpu_count(run.log)) is not None]
    count = max(counts, default=None)
    types = Counter(
        gpu for run in runs if gpu_count(run.log) == count and (gpu := gpu_type(run.log))
    )
    usual = types.most_common(1)[0][0] if types else None
    kept: list[RecordRun] = []
    dropped: list[SkippedRun] = []
    for run in runs:
        own_count, own_type = gpu_count(run.log), gpu_type(run.log)
        if own_count is not None and own_count != count:
            reason = f"{own_count} GPU{'s' * (own_count > 1)}; the folder's other runs had {count}"
        elif own_type is not None and own_type != usual:
            reason = f"ran on {own_type}; most of the folder ran on {usual}"
        else:
            kept.append(run)
            continue
        dropped.append(SkippedRun(run.path, "hardware", reason, run.log))
    return kept, dropped


def _drop_plot_runs(runs: Sequence[RecordRun]) -> tuple[list[RecordRun], list[SkippedRun]]:
    spacings = [validation_spacing(run.log) for run in runs]
    found = Counter(spacing for spacing in spacings if spacing is not None)
    if not found:
        return list(runs), []
    most = max(found.values())
    usual = max(spacing for spacing, n in found.items() if n == most)
    kept: list[RecordRun] = []
    dropped: list[SkippedRun] = []
    for run, spacing in zip(runs, spacings, strict=True):
        if spacing is not None and spacing < PLOT_SPACING_SHARE * usual:
            reason = f"plot run: validates every {spacing} steps, the others every {usual}"
            dropped.append(SkippedRun(run.path, "plot", reason, run.log))
        else:
            kept.append(run)
    return kept, dropped


def gpu_count(log: RunLog) -> int | None:
    """GPUs of the run: the processes it stated, else the rows of its GPU table."""
    return log.environment.world_size or log.environment.gpu_count


def gpu_type(log: RunLog) -> str | None:
    """Name of its GPUs, from the environment block or from what a wrapper listed."""
    return log.environment.gpu or " + ".join(dict.fromkeys(log.environment.listed_gpus)) or None


def validation_spacing(log: RunLog) -> int | None:
    """Commonest distance of two validations in steps; None below three validations."""
    steps = [point.step for point in log.validations]
    if len(steps) < 3:
        return None
    return Counter(b - a for a, b in pairwise(steps)).most_common(1)[0][0]
