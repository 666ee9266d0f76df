"""From started runs to samples: which losses and which paired times enter the tests.

One counted pair gives at most one candidate loss and one time ratio: the finished attempt of each
arm. An attempt that did not finish (failed or lost) gives no value of its own; it is counted in
`unfinished` and the verdict is taken a second time with each such attempt at a value worse than any
finished one (stats/unfinished.py), so that stopping a run that looks bad cannot help.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from harness.bundle import Run
from harness.plan import ArmName, Plan


@dataclass(frozen=True, slots=True)
class PairSample:
    """What one counted pair yielded; None where an arm has no finished run (yet)."""

    pair: int
    candidate: Run | None
    baseline: Run | None

    @property
    def complete(self) -> bool:
        return self.candidate is not None and self.baseline is not None


@dataclass(frozen=True, slots=True)
class Samples:
    """All counted pairs in plan order, and what did not finish."""

    pairs: tuple[PairSample, ...]
    unfinished: tuple[Run, ...]

    def candidates(self, first: int | None = None) -> list[Run]:
        """Counted, finished candidate runs, in plan order; only the first n when given."""
        runs = [pair.candidate for pair in self.pairs if pair.candidate is not None]
        return runs[:first]

    def baselines(self) -> list[Run]:
        return [pair.baseline for pair in self.pairs if pair.baseline is not None]

    def timed(self, upto_candidates: int | None = None) -> list[PairSample]:
        """Complete pairs among those holding the first n candidate runs."""
        timed: list[PairSample] = []
        seen = 0
        for pair in self.pairs:
            if upto_candidates is not None and seen >= upto_candidates:
                break
            seen += pair.candidate is not None
            if pair.complete:
                timed.append(pair)
        return timed

    @property
    def unfinished_candidates(self) -> int:
        return sum(run.arm == "candidate" for run in self.unfinished)


def final_loss(run: Run) -> float:
    """Final validation loss in nats; infinite when a finished run has no finite one."""
    final = run.log.final if run.log is not None else None
    if final is None or not math.isfinite(final.loss_nats):
        return math.inf
    return final.loss_nats


def final_ms(run: Run) -> float:
    """Training clock at the end, ms; NaN when the log states none."""
    final = run.log.final if run.log is not None else None
    return final.train_ms if final is not None and final.train_ms is not None else math.nan


def final_steps(run: Run) -> int | None:
    final = run.log.final if run.log is not None else None
    return final.step if final is not None else None


def take_samples(plan: Plan, runs: Iterable[Run]) -> Samples:
    """Samples of a series. The first finished attempt of a slot stands for it; there is only one
    unless somebody ran a slot again after it had finished, which the evidence check names."""
    finished: dict[tuple[int, ArmName], Run] = {}
    unfinished: list[Run] = []
    for run in runs:
        if not run.counts:
            continue
        if run.state == "finished":
            finished.setdefault((run.pair, run.arm), run)
        elif run.state in ("failed", "lost"):
            unfinished.append(run)
    pairs = [
        PairSample(
            pair.index,
            finished.get((pair.index, "candidate")),
            finished.get((pair.index, "baseline")),
        )
        for pair in plan.pairs
        if pair.counts
    ]
    started = [pair for pair in pairs if pair.candidate or pair.baseline]
    return Samples(tuple(started), tuple(unfinished))
