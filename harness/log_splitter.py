"""Result lines, in file order, to runs.

One file may hold up to thirty runs, with nothing between them but a step number that falls. The
step number also falls where a wrapper prints the last lines a second time (`tail -3` after each
run), and all runs of a script share their step-0 line to the last digit. So a falling line that
repeats one already seen waits until the next line tells what it was: the start of a run that goes
on with new figures, or an echo.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import islice, repeat
from operator import attrgetter, le, lt

from harness.log_lines import TrainPoint, Validation

_step = attrgetter("step")
GRACE_STEPS = 12
"""Until 2025-01 scripts reset their clock after step 10 (its first line: step 11)."""


@dataclass(slots=True)
class RunDraft:
    """One run while it is read. `gaps` are the reasons why it does not count as complete."""

    validations: list[Validation] = field(default_factory=list)
    train_steps: list[int] = field(default_factory=list)
    train_ms: list[float] = field(default_factory=list)
    largest_total: int | None = None
    last_ms: float = -1.0
    last_train_step: int = -1
    trial: str | None = None
    seed: int | None = None
    exit_status: int | None = None
    peak_alloc_mib: int | None = None
    peak_reserved_mib: int | None = None
    time_reset: bool = False
    seen_train: set[tuple[int, float]] = field(default_factory=set)
    indexed: int = 0
    notes: dict[str, str] = field(default_factory=dict)
    gaps: list[str] = field(default_factory=list)

    @property
    def started(self) -> bool:
        return bool(self.validations or self.train_steps)

    def note(self, code: str, text: str) -> None:
        """Keep the first remark of each kind: a log of 20,000 odd lines needs one sentence."""
        self.notes.setdefault(code, f"{code}: {text}")

    def points(self) -> tuple[TrainPoint, ...]:
        # TrainPoint._make without its Python frame: half the time, and there are thousands.
        pairs = zip(self.train_steps, self.train_ms, strict=True)
        return tuple(map(tuple.__new__, repeat(TrainPoint), pairs))


class RunSplitter:
    """Feed `validation`, `train`, `header`, … in file order, then take `finish()`."""

    def __init__(self) -> None:
        self.current = RunDraft()
        self._done: list[RunDraft] = []
        self._waiting: list[Validation] = []
        self._echoes = 0

    def train(self, steps: list[int], times_ms: list[float], total: int) -> None:
        """Training lines that stand next to each other, all with the same total."""
        run = self.current
        if (
            steps[0] > run.last_train_step
            and times_ms[0] >= run.last_ms
            and total == run.largest_total
            and all(map(lt, steps, islice(steps, 1, None)))
            and all(map(le, times_ms, islice(times_ms, 1, None)))
        ):
            run.train_steps += steps
            run.train_ms += times_ms
            run.last_train_step, run.last_ms = steps[-1], times_ms[-1]
            return
        for step, train_ms in zip(steps, times_ms, strict=True):
            self._train_one(step, train_ms, total)

    def _train_one(self, step: int, train_ms: float, total: int) -> None:
        run = self.current
        if step <= run.last_train_step:
            if self._seen_train(step, train_ms):
                self._echoes += 1
                return
            if step < run.last_train_step:
                self._open(step + 1)
                run = self.current
        self._total(total, step)
        if train_ms < run.last_ms:
            self._clock_fell(step, train_ms)
        run.last_ms = train_ms
        run.last_train_step = step
        run.train_steps.append(step)
        run.train_ms.append(train_ms)

    def untimed_step(self, step: int) -> None:
        """A training line without a clock (llm.c): only tells how far the run went."""
        self.current.last_train_step = max(self.current.last_train_step, step)

    def validation(self, point: Validation) -> None:
        run = self.current
        if run.validations:
            last = run.validations[-1]
            if point.step == last.step and self._same_step(last, point):
                return
            if point.step < last.step:
                if self._seen_validation(point):
                    self._waiting.append(point)
                    return
                self._open(point.step)
        elif point.step < run.last_train_step and run.train_steps:
            self._open(point.step)
        self._add(point)

    def validations(self, points: list[Validation]) -> None:
        """Plain validation lines that stand next to each other, none with other fields."""
        run = self.current
        steps = [point.step for point in points]
        times_ms = [run.last_ms, *(point.train_ms or 0.0 for point in points)]
        total = points[0].total_steps
        begins = max(run.last_train_step, run.validations[-1].step if run.validations else -1)
        if (
            all(map(lt, [begins, *steps[:-1]], steps))
            and all(map(le, times_ms, islice(times_ms, 1, None)))
            and {point.total_steps for point in points} == {total}
            and run.largest_total in (None, total)
        ):
            run.largest_total = total
            run.validations += points
            run.last_ms = times_ms[-1]
            return
        for point in points:
            self.validation(point)

    def header(self, *, trial: str | None = None, seed: int | None = None) -> None:
        """A line that announces a new run."""
        if self.current.started:
            self._open(-1)
        self.current.trial = trial or self.current.trial
        self.current.seed = seed if seed is not None else self.current.seed

    def seed(self, seed: int) -> None:
        """A line that states the seed of the run about to start, without announcing one."""
        if not self.current.started:
            self.current.seed = seed

    @property
    def result_lines(self) -> int:
        """Result lines kept so far, over all runs."""
        runs = [*self._done, self.current]
        return sum(len(run.validations) + len(run.train_steps) for run in runs)

    def finish(self) -> list[RunDraft]:
        self._open(-1)
        return [self._judged(run) for run in self._done]

    def _add(self, point: Validation) -> None:
        run = self.current
        if point.total_steps is not None and point.total_steps != run.largest_total:
            self._total(point.total_steps, point.step)
        if point.train_ms is not None:
            if point.train_ms < run.last_ms:
                self._clock_fell(point.step, point.train_ms)
            run.last_ms = point.train_ms
        if not math.isfinite(point.loss_nats):
            run.note("not-finite", f"val_loss is {point.loss_text} at step {point.step}")
        if point.other_losses:
            printed = ", ".join(f"{name} {text}" for name, text in point.other_losses)
            run.note(
                "several-losses",
                f"step {point.step} prints {printed}; {point.loss_text} is taken as the result",
            )
        if point.extra_fields:
            shown = " ".join(point.extra_fields)[:80]
            run.note("extra-fields", f"validation lines carry more fields ({shown})")
        run.validations.append(point)

    def _same_step(self, last: Validation, point: Validation) -> bool:
        """Whether a second line at the step adds nothing; else it is noted, and kept."""
        run = self.current
        if point.loss_text == last.loss_text:
            if point == last:
                # The end of an echo; what led up to it was echo too.
                self._echoes += 1 + len(self._waiting)
                self._waiting.clear()
            else:
                run.note(
                    "repeated",
                    f"step {point.step} is printed twice with the same loss; the first is kept",
                )
            return True
        run.note(
            "two-losses",
            f"step {point.step} is printed with val_loss {last.loss_text} and {point.loss_text}",
        )
        return False

    def _seen_train(self, step: int, train_ms: float) -> bool:
        # An index, made when first asked: 20,000 lines of one step took 8 s to search.
        run = self.current
        for index in range(run.indexed, len(run.train_steps)):
            run.seen_train.add((run.train_steps[index], run.train_ms[index]))
        run.indexed = len(run.train_steps)
        return (step, train_ms) in run.seen_train

    def _seen_validation(self, point: Validation) -> bool:
        # Steps rise within a run; a search through all of it takes minutes on 50,000 lines.
        points = self.current.validations
        index = bisect_left(points, point.step, key=_step)
        while index < len(points) and points[index].step == point.step:
            if points[index] == point:
                return True
            index += 1
        return False

    def _total(self, total: int, step: int) -> None:
        run = self.current
        if run.largest_total is not None and total != run.largest_total:
            text = f"the total changes from {run.largest_total} to {total} at step {step}"
            run.note("total-changes", text)
            total = max(total, run.largest_total)
        run.largest_total = total

    def _clock_fell(self, step: int, train_ms: float) -> None:
        run = self.current
        text = f"train_time falls from {run.last_ms:g} ms to {train_ms:g} ms at step {step}"
        if step <= GRACE_STEPS:
            run.time_reset = True
            run.note("time-reset", f"{text} (untimed first steps)")
        else:
            run.note("time-falls", text)

    def _open(self, next_step: int) -> None:
        """Close the current run and start another, with those waiting lines that belong to it.

        They belong if they lead up to `next_step`, below it. With −1 (a header, the end of the
        file) only a lone step 0 does: that run died before its second validation.
        """
        carried: list[Validation] = []
        if next_step < 0:
            if self._waiting and self._waiting[-1].step == 0:
                carried = [self._waiting.pop()]
        else:
            limit = next_step
            while self._waiting and self._waiting[-1].step < limit:
                limit = self._waiting[-1].step
                carried.insert(0, self._waiting.pop())
        self._flush_echoes()
        if self.current.started:
            self._done.append(self.current)
        self.current = RunDraft()
        for point in carried:
            self._add(point)
        if next_step < 0 and carried:
            self._done.append(self.current)
            self.current = RunDraft()

    def _flush_echoes(self) -> None:
        self._echoes += len(self._waiting)
        self._waiting.clear()
        if self._echoes:
            self.current.note("echo", f"{self._echoes} repeated result lines dropped")
        self._echoes = 0

    def _judged(self, run: RunDraft) -> RunDraft:
        """Fill `gaps`: everything that keeps the last validation from being the final one."""
        if run.exit_status:
            run.gaps.append(f"exit status {run.exit_status}")
        if not run.validations:
            run.gaps.append("no validation line")
            return run
        final = run.validations[-1]
        total = run.largest_total
        if total is None:
            run.note("no-total", "lines state no total; the last validation is taken as the final")
            if final.step < run.last_train_step:
                run.gaps.append(
                    f"last validation at step {final.step}, training on to {run.last_train_step}"
                )
        elif final.step != total:
            trained = max(run.last_train_step, final.step)
            text = f"last validation at step {final.step} of {total}"
            run.gaps.append(text + (f", training on to {trained}" if trained > final.step else ""))
        if not math.isfinite(final.loss_nats):
            run.gaps.append(f"final val_loss is {final.loss_text}")
        at_end = {point.loss_text for point in run.validations if point.step == final.step}
        if len(at_end) > 1:
            run.gaps.append(f"two different losses at the final step: {', '.join(sorted(at_end))}")
        return run
