"""Figures of a record folder: losses against the target, times against the baselines.

Nothing in a folder of logs tells why its author stopped at this n, so p is the nominal one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING

from harness.record_arms import Role
from harness.record_screen import SkippedRun

if TYPE_CHECKING:
    from harness.record_folder import RecordFolder
    from harness.record_screen import RecordRun
    from harness.stats.loss import LossTest
    from harness.stats.timing import Welch


@dataclass(frozen=True, slots=True)
class SingleRun:
    """One run of logs that only lie together. Seconds; None where none is printed."""

    label: str
    steps: int
    loss_nats: float
    time_s: float | None


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """Figures of an arm. Times are in seconds; NaN where n is too small for a figure.

    loss            the t-test against the target, with n, mean, sd, t, p and upper bound
    mean_loss_nats  the mean as a plain sum from left to right gives it, which decides how a tie
                    prints: eight losses averaging 3.2793125 are 3.279312 in the field's scripts,
                    3.279313 from an exact sum
    single          the runs one by one, where they are no arm (several lengths); else empty
    """

    name: str
    role: Role
    n: int
    total_steps: int | None
    loss: LossTest
    mean_loss_nats: float
    losses_nats: tuple[float, ...]
    times_s: tuple[float, ...]
    mean_time_s: float
    sd_time_s: float
    single: tuple[SingleRun, ...] = ()

    @property
    def sd_loss_nats(self) -> float:
        return self.loss.sd

    @property
    def p(self) -> float:
        """One-sided p of H0: mean loss ≥ target (`ttest_1samp`, alternative "less")."""
        return self.loss.p


@dataclass(frozen=True, slots=True)
class TimeComparison:
    """Welch's test, one-sided "candidate faster", in seconds. `primary`: the arm's own baseline."""

    candidate: str
    baseline: str
    primary: bool
    welch: Welch


@dataclass(frozen=True, slots=True)
class FolderSummary:
    """Figures of a folder. Arms without a run that counts are left out; `skipped` names theirs."""

    target_loss_nats: float
    arms: tuple[ArmSummary, ...]
    comparisons: tuple[TimeComparison, ...]
    skipped: tuple[SkippedRun, ...]
    warnings: tuple[str, ...]
    readme: Path | None


def summarise(folder: RecordFolder, target_loss_nats: float = 3.28) -> FolderSummary:
    """n, mean, sd and p of each arm's losses, its times, and each candidate against each baseline.

    Pure. A candidate's primary comparison is with the arm that calls itself baseline, else with
    the first.
    """
    from harness.stats.loss import loss_test
    from harness.stats.moments import mean, sample_sd
    from harness.stats.timing import welch

    arms: list[ArmSummary] = []
    for arm in folder.arms:
        if not arm.runs:
            continue
        losses = tuple(run.result.loss_nats for run in arm.runs)
        times = tuple(
            run.result.train_ms / 1000 for run in arm.runs if run.result.train_ms is not None
        )
        arms.append(
            ArmSummary(
                name=arm.name,
                role=arm.role,
                n=len(losses),
                total_steps=arm.total_steps,
                loss=loss_test(losses, target_loss_nats),
                mean_loss_nats=reduce(add, losses) / len(losses),
                losses_nats=losses,
                times_s=times,
                mean_time_s=mean(times),
                sd_time_s=sample_sd(times),
                single=tuple(_single(run) for run in arm.runs) if arm.mixed else (),
            )
        )
    baselines = [arm for arm in arms if arm.role == "baseline"]
    comparisons = tuple(
        TimeComparison(
            candidate.name, baseline.name, index == 0, welch(candidate.times_s, baseline.times_s)
        )
        for candidate in arms
        if candidate.role == "candidate" and candidate.times_s
        for index, baseline in enumerate(baselines)
        if baseline.times_s
    )
    skipped = [one for arm in folder.arms for one in arm.skipped]
    return FolderSummary(
        target_loss_nats=target_loss_nats,
        arms=tuple(arms),
        comparisons=comparisons,
        skipped=(*skipped, *folder.skipped),
        warnings=folder.warnings,
        readme=folder.readme,
    )


def _single(run: RecordRun) -> SingleRun:
    ms = run.result.train_ms
    time_s = None if ms is None else ms / 1000
    return SingleRun(run.label, run.result.step, run.result.loss_nats, time_s)
