"""What `doctor` is told about a machine: probed here, judged in doctor.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.environment import Environment, describe_machine
from harness.errors import UnfitError
from harness.gpu_processes import ForeignProcess, foreign_processes
from harness.places import repository
from harness.tracks.track import Track

NO_ANSWER: dict[str, Any] = {
    "version": "",
    "executable": "",
    "packages": {},
    "torch": {},
    "flash_attn_interface": None,
    "fa3_path": None,
    "xformers_fa3": None,
    "cudart12": None,
    "kernels": False,
    "kernels_cached": False,
    "python_h": False,
}


@dataclass(frozen=True, slots=True)
class DataState:
    """Token shards of one track, as found on disk. Sizes only; `submit` hashes them."""

    folder: str
    train_shards: int
    validation_bytes: int | None


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything the findings are drawn from."""

    environment: Environment
    tracks: tuple[Track, ...]
    data: dict[str, DataState]
    missing_scripts: dict[str, tuple[str, ...]]
    in_repository: bool
    interpreter_error: UnfitError | None = None
    foreign: tuple[ForeignProcess, ...] = ()
    on_battery: bool = False
    python: str = field(default="python", kw_only=True)


def gather_facts(python: str, tracks: tuple[Track, ...], data: Path) -> Facts:
    """Ask machine, interpreter and disk. `data` is the folder that DATA_PATH would name."""
    from harness.runner.probe import probe_interpreter

    answer, problem = {**NO_ANSWER, "executable": python}, None
    try:
        answer = probe_interpreter(python, require=())
    except UnfitError as error:
        problem = error
    root = repository()
    return Facts(
        environment=describe_machine(answer, root),
        tracks=tracks,
        data={t.name: data_state(t, data) for t in tracks if t.data.kind == "shards"},
        missing_scripts={
            t.name: tuple(
                script
                for script in (t.candidate, t.baseline)
                if root is not None and not (root / script).is_file()
            )
            for t in tracks
        },
        in_repository=root is not None,
        interpreter_error=problem,
        foreign=foreign_processes(),
        on_battery=_on_battery(),
        python=python,
    )


def data_state(track: Track, root: Path) -> DataState:
    """Count the shards of a track below `root`."""
    folder = root / track.data.folder
    validation = folder / track.data.validation_file
    try:
        shards = sum(path.is_file() for path in folder.glob(track.data.train_glob))
        size = validation.stat().st_size if validation.is_file() else None
    except OSError:
        shards, size = 0, None
    return DataState(str(folder), shards, size)


def _on_battery() -> bool:
    import psutil

    try:
        battery = psutil.sensors_battery()
    except (AttributeError, OSError, ValueError):
        return False
    return battery is not None and battery.power_plugged is False
