"""What a running series tells whoever watches it. The live board and the line printer listen."""

from __future__ import annotations

from typing import Protocol

from harness.bundle import Run
from harness.logs import TrainPoint, Validation
from harness.looks import Progress
from harness.plan import ArmName


class Watcher(Protocol):
    """Called from the series' thread, except `point`, which comes from the reading thread."""

    def run_started(self, run_id: str, arm: ArmName, pair: int, counts: bool) -> None:
        """A run is in the ledger and its process is about to start."""

    def point(self, point: Validation | TrainPoint) -> None:
        """A result line arrived."""

    def run_ended(self, run: Run, progress: Progress, runs: tuple[Run, ...]) -> None:
        """A run has its end in the ledger; `runs` are all runs so far."""

    def note(self, text: str) -> None:
        """Something a person should know: a resume, a lost run, an exclusion."""


class Silent:
    """Listens and says nothing."""

    def run_started(self, run_id: str, arm: ArmName, pair: int, counts: bool) -> None:
        pass

    def point(self, point: Validation | TrainPoint) -> None:
        pass

    def run_ended(self, run: Run, progress: Progress, runs: tuple[Run, ...]) -> None:
        pass

    def note(self, text: str) -> None:
        pass
