"""One run of a night: launched, watched, written down as a row."""

from __future__ import annotations

import math
import shutil
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.bundle_files import BundlePaths
from harness.checks.hardware import hardware_class
from harness.environment import TIMED_PACKAGES, TIMED_PREFIXES, Environment
from harness.errors import LogError, UnfitError
from harness.exclusions import exclusion
from harness.ledger import utc_now
from harness.logs import read_log
from harness.nightly.reference import parse_reference
from harness.nightly.table import NightlyRow
from harness.plan import Launch
from harness.recovery import hash_run_files
from harness.runner.child_environment import child_environment, recorded
from harness.runner.launch import LaunchOutcome, LaunchSpec, launch, stderr_tail
from harness.runner.telemetry_process import TelemetrySampler
from harness.runner.torchrun import run_command
from harness.source import Source
from harness.telemetry import RunTelemetry, summarise_csv
from harness.throwaway import make_throwaway
from harness.tracks.track import Track

Kind = Literal["record", "reference", "warm-up"]
OUTPUT_LIMIT = 1 << 20
"""A reference prints a line; more than this of its output is not read."""


@dataclass(frozen=True, slots=True)
class NightSetup:
    """What all runs of a night share.

    caches   compile caches of the record, as `submit` uses them for it; None on a CPU
    """

    night: str
    paths: BundlePaths
    track: Track
    environment: Environment
    launch: Launch
    record: Source
    reference: Source
    caches: Path | None
    parent_environment: dict[str, str]

    def source(self, kind: Kind) -> Source:
        return self.reference if kind == "reference" else self.record

    def command(self, kind: Kind) -> tuple[str, ...]:
        """The record as its track starts it; the reference under torchrun on GPUs, and on a CPU
        plainly, with the number of processes as its argument."""
        script, count = self.source(kind).script, self.launch.processes
        if kind == "reference" and self.track.hardware.kind == "cpu":
            return (*run_command("python", self.launch.python, script, count), str(count))
        return run_command(self.track.hardware.launcher, self.launch.python, script, count)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One ended run: its row, the files it left (name -> sha256), the variables it was given."""

    row: NightlyRow
    files: dict[str, str]
    environment: dict[str, str]
    dropped: tuple[str, ...]


@dataclass(slots=True)
class _Figures:
    train_ms: float | None = None
    loss_nats: float | None = None
    steps: int | None = None
    parts_ms: str = ""
    problem: str = ""


def run_once(setup: NightSetup, kind: Kind, number: int, stop: threading.Event) -> RunRecord:
    """Launch one run and wait for its end. Raises UnfitError when it cannot be started at all."""
    run_id = f"{kind}-{number:02d}"
    environment, dropped = child_environment(
        setup.parent_environment,
        data_root=Path(setup.launch.data_root),
        caches=None if kind == "reference" else setup.caches,
    )
    source, begun = setup.source(kind), utc_now()
    scratch = _working_copy(source)
    try:
        with TelemetrySampler(setup.paths.telemetry(run_id)):
            outcome = launch(
                LaunchSpec(
                    command=setup.command(kind),
                    folder=scratch,
                    environment=environment,
                    marker=f"retime/{setup.night}/{run_id}",
                    log=setup.paths.log(run_id),
                    times=setup.paths.times(run_id),
                    stderr=setup.paths.stderr(run_id),
                    timeout_s=setup.launch.timeout_s,
                    stall_s=setup.launch.stall_s,
                ),
                stop=stop,
            )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    figures = _figures(setup, kind, run_id, outcome)
    telemetry = summarise_csv(_text(setup.paths.telemetry(run_id)))
    row = _row(setup, kind, number, begun, outcome, figures, telemetry)
    return RunRecord(row, hash_run_files(setup.paths, run_id), recorded(environment), dropped)


def _working_copy(source: Source) -> Path:
    """A copy to run in and throw away."""
    try:
        folder = make_throwaway("run")
        for relative, text in source.files.items():
            path = folder / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise UnfitError(
            "no working copy of the source can be made for the run",
            where=tempfile.gettempdir(),
            why=str(error.strerror or error),
            fix="make room there, or set TMPDIR to a folder with room",
        ) from None
    return folder


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as handle:
            return handle.read()
    except OSError:
        return ""


def _figures(setup: NightSetup, kind: Kind, run_id: str, outcome: LaunchOutcome) -> _Figures:
    """The run's figures, or why there are none."""
    ends = {
        "stopped": "stopped by Ctrl-C",
        "timeout": f"still running after {setup.launch.timeout_s:g} s",
        "stall": f"printed nothing for {setup.launch.stall_s:g} s",
    }
    if outcome.reason != "exit":
        return _Figures(problem=ends.get(outcome.reason, outcome.detail))
    if outcome.exit_code != 0:
        lines = stderr_tail(setup.paths.stderr(run_id)).splitlines()
        named = [line for line in lines if "Error" in line and "ChildFailedError" not in line]
        tail = (named or [line for line in lines if line.strip()] or [""])[-1].strip()[:300]
        return _Figures(problem=f"exit code {outcome.exit_code}" + (f"; {tail}" if tail else ""))
    log = setup.paths.log(run_id)
    return _reference_figures(log) if kind == "reference" else _record_figures(log)


def _reference_figures(log: Path) -> _Figures:
    figure = parse_reference(_text(log)[-OUTPUT_LIMIT:])
    if figure is None:
        return _Figures(problem="printed neither parts_ms nor a result line")
    parts = " ".join(f"{name}={ms:.6g}" for name, ms in figure.parts_ms.items())
    return _Figures(train_ms=float(f"{figure.time_ms:.8g}"), parts_ms=parts)


def _record_figures(log: Path) -> _Figures:
    try:
        runs = read_log(log)
    except LogError as error:
        return _Figures(problem=f"{error.what} {error.why}".strip())
    final = runs[0].final
    if final is not None and not math.isfinite(final.loss_nats):
        return _Figures(problem="the final validation loss is not a finite number")
    if len(runs) != 1 or final is None or not runs[0].complete:
        return _Figures(problem="the output is not one complete run")
    if final.train_ms is None or not 0 < final.train_ms < math.inf:
        return _Figures(problem="the final line states no training time")
    return _Figures(train_ms=final.train_ms, loss_nats=final.loss_nats, steps=final.step)


def _row(
    setup: NightSetup,
    kind: Kind,
    number: int,
    begun: str,
    outcome: LaunchOutcome,
    figures: _Figures,
    telemetry: RunTelemetry,
) -> NightlyRow:
    state: Literal["finished", "failed", "lost"] = "finished"
    if figures.problem:
        state = "lost" if outcome.reason == "stopped" else "failed"
    found = exclusion(telemetry)
    # A foreign process spoils the time. A slowdown of the hardware does not: it is the finding.
    disturbed = found is not None and found[0] == "foreign_process"
    note = figures.problem or ("its time never counts" if kind == "warm-up" else "")
    if not note and found is not None:
        note = found[1]
    environment, python = setup.environment, setup.environment.interpreter
    data = setup.launch.data_sha256
    return NightlyRow(
        utc=begun,
        night=setup.night,
        kind=kind,
        run=number,
        state=state,
        counts=state == "finished" and kind != "warm-up" and not disturbed,
        note=" ".join(note.split())[:400],
        train_ms=figures.train_ms,
        loss_nats=figures.loss_nats,
        steps=figures.steps,
        parts_ms=figures.parts_ms,
        wall_s=round(outcome.wall_s, 3),
        hardware_class=class_name(setup.track, environment, setup.launch.processes),
        node_sha256=environment.node_sha256[:16],
        settings=_joined(hardware_settings(environment)),
        source_sha256=setup.source(kind).sha256()[:16],
        data_sha256="" if kind == "reference" else _digest(data),
        commit=_commit(environment),
        driver=environment.gpus[0].driver if environment.gpus else "",
        cuda_driver=environment.cuda_driver,
        torch=python.torch or "",
        torch_cuda=python.torch_cuda or "",
        triton=python.packages.get("triton", ""),
        fa3=" ".join(filter(None, [python.fa3, (python.fa3_sha256 or "")[:12]])),
        python=python.version,
        kernel=environment.kernel,
        libraries=_joined(_libraries(python.packages)),
        harness=environment.harness_version,
        sm_clock_mean_mhz=telemetry.sm_clock_mean_mhz,
        sm_clock_slowest_mhz=telemetry.sm_clock_slowest_mhz,
        temp_max_c=telemetry.temp_max_c,
        power_mean_w=telemetry.power_mean_w,
        throttle=" ".join(telemetry.throttle),
        load_before=telemetry.load_before,
    )


def class_name(track: Track, environment: Environment, processes: int) -> str:
    """Name of the hardware class that a series is kept for: "8 x H100", "2 x <processor>"."""
    if track.hardware.kind == "cpu":
        return f"{processes} of {environment.cores_usable:g} cores, {environment.cpu_model}"
    names = " and ".join(sorted({gpu.name for gpu in environment.gpus}))
    return f"{processes} x {hardware_class(track, environment) or names}"


def hardware_settings(environment: Environment) -> dict[str, str]:
    """What an owner can set, and changes times: power limit, ECC, governor, firmware, links."""
    found: dict[str, str] = {}
    if environment.governor:
        found["governor"] = environment.governor
    for label, name in (
        ("power_limit_w", "power_limit_w"),
        ("ecc", "ecc"),
        ("mig", "mig"),
        ("nvlinks", "nvlinks"),
        ("firmware", "vbios"),
        ("pcie", "pcie"),
    ):
        values = {getattr(gpu, name) for gpu in environment.gpus} - {None, ""}
        if values:
            found[label] = "/".join(
                sorted(f"{v:g}" if isinstance(v, float) else str(v) for v in values)
            )
    return found


def _libraries(packages: dict[str, str]) -> dict[str, str]:
    """Versions that timing depends on and that have no column of their own."""
    return {
        name: version
        for name, version in sorted(packages.items())
        if (name in TIMED_PACKAGES or name.startswith(TIMED_PREFIXES))
        and name not in ("torch", "triton")
    }


def _joined(values: dict[str, str]) -> str:
    return " ".join(f"{name}={'_'.join(value.split())}" for name, value in values.items())


def _digest(hashes: dict[str, str]) -> str:
    from harness.canonical import dumps_line, sha256_text

    return sha256_text(dumps_line(hashes))[:16]


def _commit(environment: Environment) -> str:
    state = environment.repository
    return "" if state is None else state.commit[:12] + ("+" if state.dirty else "")
