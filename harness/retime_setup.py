"""Before a night: what is asked for, the preflight, the folder, the sources."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from harness.bundle_files import BundlePaths
from harness.errors import UnfitError, UsageError
from harness.places import repository
from harness.report.write import replace_file
from harness.request import Request
from harness.retime_run import NightSetup, class_name
from harness.source import Source, read_source
from harness.submission import compile_caches, prepare
from harness.terminal import Terminal
from harness.tracks.track import Track


@dataclass(frozen=True, slots=True)
class RetimeRequest:
    """What a person asked for; None means the default. runs = 0 only looks at the table."""

    track: str = "small"
    runs: int = 3
    out: Path = Path("results/nightly")
    reference: Path | None = None
    python: str = ""
    data: Path | None = None
    processes: int | None = None
    timeout_s: float | None = None
    issue_text: Path | None = None


def prepare_night(request: RetimeRequest, track: Track, terminal: Terminal) -> NightSetup:
    """Everything fixed before the first run, on disk. Raises UsageError, UnfitError."""
    root = repository()
    record = (root or Path.cwd()) / track.baseline
    if not record.is_file():
        raise UsageError(
            "no standing record",
            where=str(record),
            why=f"track {track.name} names {track.baseline}, which is not there",
            fix="run retime in a clone of the repository",
        )
    reference = read_source(request.reference or _default_reference(track, root))
    # The preflight of a series of the record against itself is the preflight of a night.
    prepared = prepare(
        Request(
            candidate=record,
            baseline=record,
            track=request.track,
            processes=request.processes,
            python=request.python,
            data=request.data,
            out=request.out,
            name=track.name,
            timeout_s=request.timeout_s,
            exhibition=True,
        )
    )
    paths = _open_folder(request.out, track.name)
    setup = NightSetup(
        night=paths.root.name,
        paths=paths,
        track=track,
        environment=prepared.environment,
        launch=prepared.plan.launch,
        record=prepared.sources["baseline"],
        reference=reference,
        caches=compile_caches(track, prepared.plan, prepared.environment)["baseline"],
        parent_environment=dict(os.environ),
    )
    try:
        paths.environment.write_text(prepared.environment.text(), encoding="utf-8")
        for source in (setup.record, setup.reference):
            _keep_source(request.out, source)
    except OSError as error:
        raise unwritable(paths.root, error) from None
    terminal.info(
        f"track {track.name}: {record.name} ({setup.record.sha256()[:12]}) {request.runs} times, "
        f"beside {reference.script} ({reference.sha256()[:12]})"
    )
    terminal.info(f"on {class_name(track, setup.environment, setup.launch.processes)}")
    return setup


def _default_reference(track: Track, root: Path | None) -> Path:
    name = f"baseline/reference_{track.hardware.kind}.py"
    path = (root or Path.cwd()) / name
    if not path.is_file():
        raise UsageError(
            "no reference workload",
            where=str(path),
            why="it tells a slower machine from a slower record",
            fix="run retime in a clone of the repository, or name one with --reference",
        )
    return path


def _open_folder(out: Path, track: str) -> BundlePaths:
    """A new folder for tonight: <out>/<date>_<track>, with a number when there is one already."""
    base = out / f"{datetime.now(UTC).date().isoformat()}_{track}"
    folder, count = base, 1
    while True:
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            count += 1
            folder = base.with_name(f"{base.name}-{count}")
        except OSError as error:
            raise unwritable(folder, error) from None
    paths = BundlePaths(folder)
    paths.runs.mkdir()
    return paths


def _keep_source(out: Path, source: Source) -> None:
    """The files that ran, once for each hash: <out>/source/<hash>/."""
    folder = out / "source" / source.sha256()[:16]
    for relative, text in source.files.items():
        path = folder / relative
        if not path.exists():
            replace_file(path, text)


def unwritable(where: Path, error: OSError) -> UnfitError:
    return UnfitError(
        "the night's folder cannot be written",
        where=str(where),
        why=str(error.strerror or error),
        fix="make room, or choose another place with --out",
    )
