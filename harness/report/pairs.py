"""Which runs enter the claims, and which of them stand opposite each other."""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.plan import ArmName
from harness.verdict_schema import RunRow, Verdict


def judged(run: RunRow) -> bool:
    """Does the run enter the claims: finished, and no warm-up?"""
    return run.counts and run.state == "finished"


@dataclass(frozen=True, slots=True)
class PairTimes:
    """Training times of one counted pair, ms."""

    pair: int
    candidate_ms: float
    baseline_ms: float

    @property
    def ratio(self) -> float:
        return self.candidate_ms / self.baseline_ms


def pair_times(verdict: Verdict) -> list[PairTimes]:
    """Counted pairs whose both runs finished with a positive time, in pair order."""
    times: dict[int, dict[ArmName, float]] = {}
    for run in verdict.runs:
        ms = run.train_ms
        if judged(run) and ms is not None and math.isfinite(ms) and ms > 0:
            times.setdefault(run.pair, {}).setdefault(run.arm, ms)
    return [
        PairTimes(pair, arms["candidate"], arms["baseline"])
        for pair, arms in sorted(times.items())
        if len(arms) == 2
    ]
