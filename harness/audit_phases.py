"""When did it happen: moments of an audit run -> phases, from the lines the script printed.

The clock lives inside the script; outside, the arrival of each result line and the milliseconds it
states are known. Between two lines the clock ran for the difference of what they state, beginning
when the earlier one was printed; what is left until the later one is its validation. Pure.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from harness.audit_report import Mark, Phase, PhaseCounts

LATE_SHARE_STEP, LATE_SHARE = 0.5, 0.2
"""Last part of a validation in which no backward pass can be a training step's: the clock may have
been restarted some time after the line before was printed, unless that was a step's own line."""
SHORT_VALIDATION_S = 0.01


@dataclass(frozen=True, slots=True)
class Timeline:
    """Moments (seconds since launch) that divide the run.

    reset_s    last untimed training step before the clock; -inf where nothing was warmed up
    clock_s    when the clock began to run, as far as can be told from outside
    """

    marks: tuple[Mark, ...]
    arrivals: tuple[float, ...]
    reset_s: float
    clock_s: float

    def phase(self, at_s: float) -> Phase:
        """Phase of one moment."""
        if not self.marks or at_s <= self.clock_s:
            return "warmup" if at_s <= self.reset_s else "reset"
        if at_s > self.arrivals[-1]:
            return "end"
        i = bisect_left(self.arrivals, at_s)
        if i == 0:
            return "clock" if at_s < self._stops(0) else "validation"
        return "clock" if at_s < self._stops(i) else "validation"

    def _stops(self, i: int) -> float:
        """When the clock stopped for the line i (its arrival where nothing was validated)."""
        mark = self.marks[i]
        if mark.loss_nats is None or mark.train_ms is None:
            return mark.at_s
        if i == 0:
            return self.clock_s + mark.train_ms / 1e3
        before = self.marks[i - 1]
        ran = max(0.0, (mark.train_ms - (before.train_ms or 0.0)) / 1e3)
        return min(mark.at_s, before.at_s + ran)

    def next_validation(self, at_s: float) -> float:
        """Arrival of the next validation line; for a moment before the clock, its beginning."""
        if at_s < self.clock_s:
            return self.clock_s
        i = bisect_left(self.arrivals, at_s)
        return next((m.at_s for m in self.marks[i:] if m.loss_nats is not None), at_s)

    @property
    def last_validation(self) -> tuple[float, float]:
        """(clock stopped, line arrived) of the last result line; infinite without lines."""
        if not self.marks:
            return float("inf"), float("inf")
        return self._stops(len(self.marks) - 1), self.arrivals[-1]

    def count(self, moments: Iterable[float]) -> PhaseCounts:
        """Moments by phase."""
        tally: dict[str, int] = {}
        for at_s in moments:
            phase = self.phase(at_s)
            tally[phase] = tally.get(phase, 0) + 1
        return PhaseCounts(**tally)

    def late_backward(
        self, moments: Sequence[float], opened: Sequence[float], slack_s: float = 0.0
    ) -> int:
        """Backward passes that came while a validation was being made.

        opened   moments at which the validation shard was opened: from there on it was surely
        slack_s  what the process may be ahead of the line
        """
        ordered = sorted(moments)
        count = 0
        for i, mark in enumerate(self.marks):
            if mark.loss_nats is None:
                continue
            stop = self._stops(i)
            span = mark.at_s - stop
            if span < SHORT_VALIDATION_S:
                continue
            after_step = i > 0 and self.marks[i - 1].loss_nats is None
            share = LATE_SHARE_STEP if after_step else LATE_SHARE
            start = mark.at_s - share * span
            inside = [at for at in opened if stop <= at < mark.at_s]
            start = min([start, *inside])
            end = mark.at_s - slack_s
            # A pass of the line's own moment came after the line, which is noted first.
            count += max(0, bisect_left(ordered, end) - bisect_right(ordered, start))
        return count


def timeline(marks: Sequence[Mark], training: Iterable[float]) -> Timeline:
    """Phases of a run from its result lines and the moments of its training steps (any rank)."""
    marks, training = tuple(marks), sorted(training)
    if not marks:
        return Timeline(marks, (), max(training, default=float("-inf")), float("inf"))
    first = marks[0]
    # The line comes after its validation, which took about what others took.
    clock = first.at_s - (first.train_ms or 0.0) / 1e3
    if first.loss_nats is not None:
        validation = _typical_validation(marks)
        clock -= validation
        if first.step == 0:
            # Nothing is trained on the clock before step 0 is validated: what was, came before it.
            late = first.at_s - LATE_SHARE * validation
            clock = max([clock, *(at for at in training if at < late)])
    before = [at for at in training if at <= clock]
    return Timeline(
        marks, tuple(mark.at_s for mark in marks), max(before, default=float("-inf")), clock
    )


def _typical_validation(marks: tuple[Mark, ...]) -> float:
    spans = [
        max(0.0, after.at_s - before.at_s - ((after.train_ms or 0) - (before.train_ms or 0)) / 1e3)
        for before, after in pairwise(marks)
        if after.loss_nats is not None
    ]
    return median(spans) if spans else 0.0
