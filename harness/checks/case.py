"""What a check is given: the bundle and everything computed from it once."""

from __future__ import annotations

from dataclasses import dataclass

from harness.bundle import Bundle
from harness.looks import Progress
from harness.samples import Samples
from harness.verdict_schema import LossResult, TimingResult


@dataclass(frozen=True, slots=True)
class Case:
    """One series, ready to be judged."""

    bundle: Bundle
    samples: Samples
    progress: Progress
    loss: LossResult
    timing: TimingResult
