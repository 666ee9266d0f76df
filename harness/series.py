"""A series: run what the plan wants next, write it down, until the plan says stop.

Disk is the truth. After every run the bundle is read back and `looks.progress` names the next
slot, so an uninterrupted series and a resumed one walk the same road.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from harness.bundle import Bundle, BundlePaths, read_bundle
from harness.errors import LogError, UnfitError
from harness.exclusions import exclusion
from harness.ledger import (
    Closed,
    Excluded,
    Failed,
    FailReason,
    Finished,
    Interrupted,
    Ledger,
    Looked,
    Lost,
    Started,
)
from harness.logs import parse_result_line, read_log
from harness.looks import Progress, Slot, next_slot, progress
from harness.plan import ArmName, Plan
from harness.recovery import hash_run_files
from harness.runner.child_environment import child_environment, recorded
from harness.runner.launch import LaunchOutcome, LaunchSpec, launch, stderr_tail
from harness.runner.sandbox import Protection
from harness.runner.telemetry_process import TelemetrySampler
from harness.runner.torchrun import run_command
from harness.samples import take_samples
from harness.telemetry import summarise_csv
from harness.throwaway import make_throwaway
from harness.tracks.track import Track
from harness.watcher import Watcher

MAX_EXCLUSIONS = 5


class SeriesInterruptedError(Exception):
    """Ctrl-C: the run was ended, the ledger says so, the series can be resumed."""


@dataclass(slots=True)
class Series:
    """A plan being carried out in a bundle folder.

    parent_environment  variables of this process, from which the run's allow-list is taken
    caches              arm -> compile-cache folder, or None where nothing is compiled
    stop                set by Ctrl-C
    protection          what keeps a stranger's script from this machine; None for one's own
    """

    paths: BundlePaths
    plan: Plan
    track: Track
    ledger: Ledger
    watcher: Watcher
    parent_environment: dict[str, str]
    caches: dict[ArmName, Path | None]
    stop: threading.Event
    protection: Protection | None = None

    def run(self) -> None:
        """Until the plan is through, a run fails, or `stop` is set.

        Raises SeriesInterruptedError, UnfitError (disk full, node unusable).
        """
        while True:
            bundle = read_bundle(self.paths.root)
            if bundle.closed:
                return
            slot = next_slot(self.plan, self.track, bundle.runs)
            if slot is None:
                self._append(Closed, why=self._progress(bundle).over)
                return
            if self.stop.is_set():
                self._interrupt()
            if not self._run_slot(slot, bundle):
                return

    def _progress(self, bundle: Bundle) -> Progress:
        return progress(self.plan, self.track, take_samples(self.plan, bundle.runs))

    def _run_slot(self, slot: Slot, bundle: Bundle) -> bool:
        """One run from `started` to its end. False when the series must stop."""
        attempt = 1 + sum(r.pair == slot.pair and r.arm == slot.arm for r in bundle.runs)
        run_id = f"{slot.arm}-{slot.pair:02d}" + (f"-attempt{attempt}" if attempt > 1 else "")
        arm = self.plan.arm(slot.arm)
        launch_plan = self.plan.launch
        command = run_command(
            self.track.hardware.launcher,
            launch_plan.python,
            arm.script,
            launch_plan.processes,
        )
        scratch, folder = self._working_copy(slot.arm)
        guard, caches = self.protection, self.caches.get(slot.arm)
        try:
            environment, dropped = child_environment(
                self.parent_environment,
                data_root=Path(self.plan.launch.data_root),
                caches=caches,
                extra=guard.surroundings(scratch) if guard else None,
            )
            self._append(
                Started,
                run_id=run_id,
                arm=slot.arm,
                pair=slot.pair,
                attempt=attempt,
                source_sha256=arm.source_sha256,
                command=command,
                environment=recorded(environment),
                dropped=dropped,
            )
            self.watcher.run_started(run_id, slot.arm, slot.pair, slot.counts)
            with TelemetrySampler(self.paths.telemetry(run_id)):
                outcome = launch(
                    LaunchSpec(
                        command=guard.wrap(
                            command,
                            scratch=scratch,
                            folder=folder,
                            writable=[caches] if caches is not None else [],
                        )
                        if guard
                        else command,
                        folder=folder,
                        environment=environment,
                        marker=f"{self.plan.sha256()[:16]}/{run_id}",
                        log=self.paths.log(run_id),
                        times=self.paths.times(run_id),
                        stderr=self.paths.stderr(run_id),
                        timeout_s=launch_plan.timeout_s,
                        stall_s=launch_plan.stall_s,
                    ),
                    on_line=self._on_line,
                    stop=self.stop,
                )
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        going_on = self._record_end(run_id, outcome)
        after = read_bundle(self.paths.root)
        state = self._progress(after)
        self._record_look(bundle, state)
        self.watcher.run_ended(after.runs[-1], state, after.runs)
        if outcome.reason == "stopped":
            self._interrupt()
        return going_on

    def _working_copy(self, arm: ArmName) -> tuple[Path, Path]:
        """(folder to throw away, copy of the arm's source in it): what a run does to its own
        folder must not touch the evidence."""
        try:
            scratch = make_throwaway("run")
        except OSError as error:
            raise _no_room(tempfile.gettempdir(), error) from None
        try:
            shutil.copytree(self.paths.source(arm), scratch / arm)
        except OSError as error:
            shutil.rmtree(scratch, ignore_errors=True)
            raise _no_room(str(scratch), error) from None
        return scratch, scratch / arm

    def _on_line(self, line: str) -> None:
        point = parse_result_line(line)
        if point is not None:
            self.watcher.point(point)

    def _record_end(self, run_id: str, outcome: LaunchOutcome) -> bool:
        files = hash_run_files(self.paths, run_id)
        if outcome.reason == "stopped":
            self._append(Lost, run_id=run_id, why="stopped by Ctrl-C", files=files)
            return True
        reason, detail = self._judge_end(run_id, outcome)
        ended = {
            "run_id": run_id,
            "wall_s": round(outcome.wall_s, 3),
            "exit_code": outcome.exit_code,
            "files": files,
        }
        if reason is not None:
            self._append(Failed, **ended, reason=reason, detail=detail)
            return False
        self._append(Finished, **ended)
        self._exclude(run_id, files)
        return True

    def _judge_end(self, run_id: str, outcome: LaunchOutcome) -> tuple[FailReason | None, str]:
        """(None, "") for a run with a usable result, else why not."""
        launch_plan = self.plan.launch
        if outcome.reason == "timeout":
            return "timeout", f"still running after {launch_plan.timeout_s:g} s"
        if outcome.reason == "stall":
            return "stall", f"printed nothing for {launch_plan.stall_s:g} s"
        if outcome.reason in ("output", "disk"):
            return ("output" if outcome.reason == "output" else "disk"), outcome.detail
        if outcome.exit_code != 0:
            tail = _last_error(stderr_tail(self.paths.stderr(run_id)))
            return "crash", f"exit code {outcome.exit_code}" + (f"; {tail}" if tail else "")
        try:
            logs = read_log(self.paths.log(run_id))
        except LogError as error:
            return "garbage", f"{error.what} {error.why}".strip()
        log = logs[0]
        if len(logs) != 1:
            return "garbage", f"the output holds {len(logs)} runs"
        if log.final is None or not math.isfinite(log.final.loss_nats):
            return "divergence", "the final validation loss is not a finite number"
        if not log.complete:
            return "garbage", f"ends at step {log.final.step} of {log.total_steps}"
        if log.final.train_ms is None or not log.final.train_ms > 0:
            return "garbage", "the final line states no training time"
        return None, ""

    def _exclude(self, run_id: str, files: dict[str, str]) -> None:
        """Apply the plan's outcome-blind criteria to a finished run."""
        name = f"{run_id}.gpu.csv"
        if name not in files:
            return
        summary = summarise_csv((self.paths.runs / name).read_text(encoding="utf-8"))
        found = exclusion(summary)
        if found is None:
            return
        criterion, evidence = found
        self._append(Excluded, run_id=run_id, criterion=criterion, evidence=evidence)
        self.watcher.note(f"{run_id} excluded by the plan: {evidence}; its slot runs again")
        if sum(isinstance(event, Excluded) for event in self.ledger.events) > MAX_EXCLUSIONS:
            raise UnfitError(
                "this node does not hold still",
                where=run_id,
                why=f"more than {MAX_EXCLUSIONS} runs had to be excluded, last: {evidence}",
                fix="take another node; the ledger keeps every run",
            )

    def _record_look(self, before: Bundle, after: Progress) -> None:
        taken = {event.runs for event in before.events if isinstance(event, Looked)}
        for look in after.looks:
            if look.runs not in taken:
                self._append(
                    Looked,
                    runs=look.runs,
                    loss_p=look.loss_p,
                    timing_p=look.timing_p,
                    decision="stop" if after.next is None else "continue",
                )

    def _append(self, kind: type, **fields: object) -> None:
        try:
            self.ledger.append(kind, **fields)
        except OSError as error:
            raise UnfitError(
                "the ledger cannot be written",
                where=str(self.paths.ledger),
                why=f"{error.strerror or error}; the ledger is intact up to its last line",
                fix="make room, then: speedrun submit --resume " + str(self.paths.root),
            ) from None

    def _interrupt(self) -> None:
        self._append(Interrupted, by="Ctrl-C")
        raise SeriesInterruptedError


def _no_room(where: str, error: OSError) -> UnfitError:
    return UnfitError(
        "no working copy of the source can be made for the run",
        where=where,
        why=str(error.strerror or error),
        fix="make room there, or set TMPDIR to a folder with room; then --resume",
    )


def _last_error(tail: str) -> str:
    """The most telling line of a traceback: the last one that names an error."""
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    lines = [line for line in lines if line.strip("=-*")]
    named = [line for line in lines if "Error" in line and "ChildFailedError" not in line]
    # torchrun's summary names the signal that ended a rank, the first failure last.
    signals = [line for line in lines if line.startswith("traceback : Signal")]
    return (named or signals or lines or [""])[-1].removeprefix("traceback : ")[:300]
