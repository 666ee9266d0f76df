"""One run, as its log tells it: what parsing yields and everything downstream reads."""

from __future__ import annotations

from dataclasses import dataclass

from harness.log_environment import LogEnvironment
from harness.log_lines import TrainPoint, Validation


@dataclass(frozen=True, slots=True)
class RunLog:
    """One run, as its log tells it.

    family             code of the format, see `describe_family`
    validations        in order; the echoes some files contain are dropped
    train_points       the clock after single steps, where printed
    total_steps        steps planned (the largest total stated); None in llm.c's format
    environment        versions and GPUs stated
    source             the script embedded in the log, less the newline that printing it added
    source_sha256      of `source` in UTF-8
    peak_alloc_mib, peak_reserved_mib   from the `peak memory` line
    complete           the last validation is finite, unambiguous and at the final step, and the
                       `peak memory` line is there where the format has one: `gaps` is empty
    notes              what the parser noticed, each "code: text"
    run_index          position among the runs of the file, from 0
    gaps               reasons why the run is not complete
    trial, seed        "1/25" and 0 of a header line, where stated
    """

    family: str
    validations: tuple[Validation, ...]
    train_points: tuple[TrainPoint, ...]
    total_steps: int | None
    environment: LogEnvironment
    source: str | None
    source_sha256: str | None
    peak_alloc_mib: int | None
    peak_reserved_mib: int | None
    complete: bool
    notes: tuple[str, ...]
    run_index: int
    gaps: tuple[str, ...] = ()
    trial: str | None = None
    seed: int | None = None

    @property
    def final(self) -> Validation | None:
        """The last validation, final or not (see `complete`)."""
        return self.validations[-1] if self.validations else None

    def at_step(self, step: int) -> Validation | None:
        """The validation at one step: track 3 lets a claim rest on a step before the last."""
        return next((point for point in self.validations if point.step == step), None)
