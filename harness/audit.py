"""The audit run: the candidate once more, untimed, under a shim and watched from outside.

The timed runs are left alone; everything intrusive happens here. What is found is written to
audit/audit.json beside the run's own output, and the ledger gets the hashes, so that the bundle can
be judged offline. A script can tell that it is audited: what keeps it from behaving for once is
that this run must end at the steps and the loss of the timed ones (checks/audited.py).
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import __version__
from harness.audit_compiler import compiler_facts, has_config
from harness.audit_files import file_uses
from harness.audit_notes import make_timeline, rank_facts, read_notes, texts
from harness.audit_outside import loaded_binaries, process_facts
from harness.audit_report import AuditReport, Mark, RunEnd, ScorerFacts
from harness.audit_zones import Zones, make_zones
from harness.data.stream import data_folder, token_rule
from harness.errors import UnfitError
from harness.ledger import utc_now
from harness.logs import Validation, parse_result_line
from harness.rescoring import score
from harness.runner.child_environment import child_environment, recorded
from harness.runner.compiler_defaults import SHIM, compiler_defaults
from harness.runner.launch import LaunchOutcome, LaunchSpec, launch
from harness.runner.observer import Observer
from harness.runner.sandbox import RUNNER, Protection
from harness.runner.scorer_process import ScorerError, ScorerProcess
from harness.runner.torchrun import run_command
from harness.throwaway import make_throwaway
from harness.tracks.track import Track

SLOWER = 2.0
"""The shim costs 1-2 % of a run; the limits of a timed run, twice, leave room for a cold cache."""
MARKS_LIMIT = 20_000


@dataclass(frozen=True, slots=True)
class AuditJob:
    """What is audited, and with what.

    source       folder whose copy is run;  script: in it
    data_root    DATA_PATH of the run
    caches       compile caches of the arm, None where nothing is compiled
    parent_environment   variables from which the allow-list takes
    contest      folders in which a candidate has no business
    protection   what keeps a stranger's script from this machine; None for one's own
    """

    source: Path
    script: str
    source_sha256: str
    track: Track
    python: str
    processes: int
    data_root: Path
    timeout_s: float
    stall_s: float
    parent_environment: Mapping[str, str]
    caches: Path | None = None
    contest: tuple[Path, ...] = ()
    protection: Protection | None = None

    def surroundings(self, scratch: Path) -> dict[str, str]:
        return self.protection.surroundings(scratch) if self.protection else {}

    def wrap(
        self,
        command: Sequence[str],
        scratch: Path,
        folder: Path,
        *,
        with_data: bool = True,
        also: Sequence[Path] = (),
    ) -> tuple[str, ...]:
        """The command as it is started; with the data, also with the compile caches."""
        if self.protection is None:
            return tuple(command)
        caches = [self.caches] if self.caches is not None and with_data else []
        return self.protection.wrap(
            command, scratch=scratch, folder=folder, writable=caches, also=[RUNNER, *also],
            with_data=with_data,
        )  # fmt: skip


@dataclass(slots=True)
class _Lines:
    """Result lines as they arrive."""

    start_s: float
    marks: list[Mark] = field(default_factory=list)

    def __call__(self, line: str) -> None:
        point = parse_result_line(line)
        if point is None or len(self.marks) >= MARKS_LIMIT:
            return
        validation = point if isinstance(point, Validation) else None
        loss = validation.loss_nats if validation else None
        self.marks.append(
            Mark(
                step=point.step,
                at_s=round(time.monotonic() - self.start_s, 6),
                train_ms=point.train_ms,
                loss_nats=loss if loss is not None and abs(loss) < 1e9 else None,
                final=validation is not None and point.step == validation.total_steps,
            )
        )


def audit(job: AuditJob, out: Path, stop: threading.Event | None = None) -> AuditReport:
    """Run, watch, score again. Writes run.log, run.times, run.err, scorer.err and audit.json to
    `out`. Raises UnfitError where the run cannot be started or the folder not be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        scratch = make_throwaway("audit").resolve()
    except OSError as error:
        raise UnfitError(
            "the audit has no place to write to",
            where=str(error.filename or out),
            why=str(error.strerror or error),
            fix="make room there, or set TMPDIR to a folder with room",
        ) from None
    try:
        report = _audit(job, out, scratch, stop)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    (out / "audit.json").write_text(report.text(), encoding="utf-8")
    return report


def _audit(job: AuditJob, out: Path, scratch: Path, stop: threading.Event | None) -> AuditReport:
    folder, notes, checkpoint = scratch / "run", scratch / "notes", scratch / "weights"
    shutil.copytree(job.source, folder)
    notes.mkdir()
    zones = _zones(job, folder, scratch)
    before = _existing(zones)
    environment, dropped = child_environment(
        job.parent_environment,
        data_root=job.data_root,
        caches=job.caches,
        extra={
            **job.surroundings(scratch),
            "SPEEDRUN_CHECKPOINT": str(checkpoint),
            "SPEEDRUN_AUDIT_OUT": str(notes),
        },
    )
    command = run_command(job.track.hardware.launcher, job.python, str(SHIM), job.processes)
    command = (*command, job.script)
    marker = f"audit-{job.source_sha256[:16]}-{os.getpid()}"
    caged = job.protection is not None and job.protection.bwrap is not None
    observer = Observer(
        marker, lambda path: zones.place(path)[0] in ("data", "contest", "shm"), caged=caged
    )
    utc, wall_s, start_s = utc_now(), time.time(), time.monotonic()
    lines = _Lines(start_s)
    observer.start()
    try:
        outcome = launch(
            LaunchSpec(
                command=job.wrap(command, scratch, folder),
                folder=folder, environment=environment, marker=marker,
                log=out / "run.log", times=out / "run.times", stderr=out / "run.err",
                timeout_s=job.timeout_s * SLOWER, stall_s=job.stall_s * SLOWER,
            ),
            on_line=lines, stop=stop,
        )  # fmt: skip
    finally:
        observer.stop()
    ranks = read_notes(notes)
    when = make_timeline(lines.marks, ranks, start_s)
    bare = {n: v for n, v in environment.items() if n != "SPEEDRUN_AUDIT_OUT"}
    defaults = (
        compiler_defaults(job.python, folder, bare, lambda words: job.wrap(words, scratch, folder))
        if has_config(ranks)
        else {}
    )
    final = next((m.loss_nats for m in reversed(lines.marks) if m.loss_nats is not None), None)
    told = {name: _without(value, scratch) for name, value in recorded(bare).items()}
    return AuditReport(
        harness_version=__version__,
        utc=utc,
        script=job.script,
        source_sha256=job.source_sha256,
        command=tuple(_without(word, scratch) for word in command),
        environment=told,
        dropped=dropped,
        end=_end(outcome),
        marks=tuple(lines.marks),
        ranks=tuple(
            rank_facts(rank, when, start_s, job.track.data.validation_file) for rank in ranks
        ),
        files=file_uses(ranks, observer.sightings, zones, when, start_s, before, wall_s),
        processes=process_facts(observer, when, start_s, {rank.pid for rank in ranks}),
        observer=observer.problem or "procfs",
        sockets=texts(ranks, "socket", "address"),
        started_processes=texts(ranks, "process", "what"),
        binaries=loaded_binaries(observer, zones),
        compiler=compiler_facts(ranks, defaults),
        scorer=_rescore(job, out, scratch, environment, checkpoint, final),
    )


def _zones(job: AuditJob, folder: Path, scratch: Path) -> Zones:
    data = data_folder(job.track, job.data_root)
    python = Path(job.python)
    homes = [python.parent.parent, Path(os.path.realpath(python)).parent.parent, SHIM.parent]
    caches = [job.caches] if job.caches is not None else []
    return make_zones(
        data=_both(data),
        contest=tuple(path for place in job.contest for path in _both(place)),
        source=str(folder),
        scratch=str(scratch),
        caches=tuple(path for place in caches for path in _both(place)),
        python=tuple(path for place in homes for path in _both(place)),
        home=str(Path.home()),
    )


def _both(path: Path) -> tuple[str, ...]:
    """As named and as it really is: links are opened by either name."""
    return tuple(dict.fromkeys((str(path.absolute()), os.path.realpath(path))))


def _existing(zones: Zones) -> frozenset[str]:
    """Shared memory that is there before the run: what something could have been prepared in."""
    found = []
    for folder in zones.folders.get("shm", ()):
        for root, _, names in os.walk(folder):
            found += [str(Path(root) / name) for name in names]
    return frozenset(found[:10_000])


def _without(text: str, scratch: Path) -> str:
    for folder, name in ((str(scratch), "$SCRATCH"), (str(SHIM.parent), "$HARNESS")):
        text = text.replace(folder, name)
    return text


def _end(outcome: LaunchOutcome) -> RunEnd:
    return RunEnd(
        reason=outcome.reason,
        exit_code=outcome.exit_code,
        wall_s=round(outcome.wall_s, 3),
        leftover=outcome.leftover,
        detail=outcome.detail,
    )


def _rescore(
    job: AuditJob,
    out: Path,
    scratch: Path,
    environment: Mapping[str, str],
    checkpoint: Path,
    printed: float | None,
) -> ScorerFacts:
    """The final weights, scored in a child that knows neither shard nor clock."""
    offers = "def load_scorer" in (job.source / job.script).read_text(errors="replace")
    # A link would be followed out of the folder that the run could write to.
    if not offers or checkpoint.is_symlink() or not checkpoint.is_file():
        missing = "load_scorer" if not offers else "the weights at SPEEDRUN_CHECKPOINT"
        return ScorerFacts(status="absent", detail=f"the script does not offer {missing}")
    # A fresh copy in a fresh place: the run may have left things in its own folders.
    room = Path(tempfile.mkdtemp(prefix="scoring-", dir=scratch))
    empty, folder = room / "nothing", room / "scorer"
    empty.mkdir()
    shutil.copytree(job.source, folder)
    own: dict[str, Any] = {**environment, **job.surroundings(room), "DATA_PATH": str(empty)}
    for name in ("SPEEDRUN_CHECKPOINT", "SPEEDRUN_AUDIT_OUT"):
        own.pop(name, None)
    gpu = job.track.hardware.kind == "gpu"
    if not gpu:
        # Threads that wait for each other on busy cores made this 20 times slower.
        own["OMP_NUM_THREADS"] = "1"
    try:
        with ScorerProcess(
            job.python, folder, own, f"score-{job.source_sha256[:16]}-{os.getpid()}",
            out / "scorer.err", job.timeout_s * SLOWER,
            lambda words: job.wrap(words, room, folder, with_data=False, also=[checkpoint]),
        ) as process:  # fmt: skip
            return score(
                process,
                script=folder / job.script,
                checkpoint=checkpoint,
                device="cuda" if gpu else "cpu",
                validation=data_folder(job.track, job.data_root) / job.track.data.validation_file,
                targets=job.track.data.validation_tokens,
                bos=token_rule(job.track).bos,
                printed_nats=printed,
            )
    except ScorerError as error:
        return ScorerFacts(status="failed", detail=str(error), printed_nats=printed)
