"""From a script to a plan on disk: sources, preflight, design, bundle folder, first ledger line."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from harness import __version__
from harness.bundle import BundlePaths
from harness.environment import Environment, describe_machine
from harness.errors import UnfitError, UsageError
from harness.ledger import Ledger, Planned, utc_now
from harness.places import cache_root, repository
from harness.plan import EXCLUSIONS, ArmName, Launch, Plan, draw_pairs
from harness.preflight import (
    check_machine,
    contract_warnings,
    find_data,
    foreign_shards,
    hardware_reasons,
    hash_data,
)
from harness.request import Request, check_numbers, choose_design, choose_track, clean_name
from harness.runner.probe import probe_interpreter
from harness.source import Source, read_source
from harness.tracks.track import Track, parse_track, track_sha256, track_text

__all__ = [
    "Material",
    "Prepared",
    "Request",
    "compile_caches",
    "open_bundle",
    "plan_series",
    "prepare",
]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that is fixed before run 1, not yet on disk."""

    plan: Plan
    track: Track
    track_text: str
    sources: dict[ArmName, Source]
    environment: Environment
    folder: Path
    warnings: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Material:
    """What a series is made of: the rules, both arms, and where these came from.

    exhibition   reasons that hold before anything is looked at, for a series that goes on all the
                 same (a re-run); None: any reason needs the submitter's --exhibition
    """

    name: str
    track_text: str
    sources: dict[ArmName, Source]
    origins: dict[ArmName, str]
    exhibition: tuple[str, ...] | None = None


def prepare(request: Request) -> Prepared:
    """Preflight and plan. Writes nothing but synthetic data. Raises UsageError, UnfitError."""
    root = repository()
    chosen, warnings = choose_track(request)
    text = track_text(chosen)
    track = parse_track(text, f"{chosen} track")
    check_numbers(request)
    candidate = _script(request.candidate, track.candidate, root, "candidate")
    baseline = _script(request.baseline, track.baseline, root, "baseline")
    sources: dict[ArmName, Source] = {
        "candidate": read_source(candidate),
        "baseline": read_source(baseline),
    }
    material = Material(
        name=clean_name(request.name or candidate.stem),
        track_text=text,
        sources=sources,
        origins={"candidate": _origin(candidate, root), "baseline": _origin(baseline, root)},
    )
    return plan_series(request, material, warnings)


def plan_series(request: Request, material: Material, warnings: Sequence[str] = ()) -> Prepared:
    """Preflight and plan of a series whose scripts and rules are at hand; of the request, script,
    track and name are not looked at. Raises UsageError, UnfitError."""
    text, sources, name = material.track_text, material.sources, material.name
    track = parse_track(text, "track.toml")
    check_numbers(request)
    design = choose_design(request, track)
    told = [*warnings]
    for source in sources.values():
        told += contract_warnings(source)
    needs = ("torch",) if track.hardware.launcher == "torchrun" else ()
    answer = probe_interpreter(request.python, require=needs)
    environment = describe_machine(answer, repository())
    check_machine(track, environment, request.out)
    processes = _processes(request, track, environment)
    data_root = find_data(track, request.data, cache_root(), Path.cwd())
    data_sha256 = hash_data(track, data_root)
    exhibition = _exhibition_reasons(
        request, track, environment, data_sha256, processes, foreign_shards(track, data_root)
    )
    if material.exhibition is not None:
        exhibition = list(dict.fromkeys([*material.exhibition, *exhibition]))
    elif exhibition and not request.exhibition:
        raise UnfitError(
            f"this cannot be an official attempt on track {track.name}",
            why="; ".join(exhibition),
            fix="run it as an exhibition (same judging, never a record): add --exhibition",
        )
    cache_state = _cache_state(track, sources, environment)
    if not request.warm_up and cache_state == "cold":
        raise UnfitError(
            "a series without a warm-up pair needs warm compile caches",
            where=str(cache_root() / "compile"),
            why="at least one of the two scripts has never been compiled here under this torch",
            fix="leave out --no-warm-up",
        )
    created = utc_now()
    seed = request.seed if request.seed is not None else secrets.randbelow(2**31)
    plan = Plan(
        name=name,
        track=track.name,
        track_sha256=track_sha256(text),
        target_loss_nats=(
            request.target if request.target is not None else track.contest.target_loss_nats
        ),
        created_utc=created,
        seed=seed,
        harness_version=__version__,
        exhibition=tuple(exhibition),
        candidate=sources["candidate"].arm_plan(material.origins["candidate"]),
        baseline=sources["baseline"].arm_plan(material.origins["baseline"]),
        design=design,
        pairs=draw_pairs(seed, max(design.looks))[0 if request.warm_up else 1 :],
        exclusions=EXCLUSIONS,
        launch=Launch(
            processes=processes,
            python=str(answer["executable"]),
            timeout_s=request.timeout_s or track.design.timeout_s,
            stall_s=min(track.design.stall_s, request.timeout_s or track.design.stall_s),
            data_root=str(data_root),
            data_sha256=data_sha256,
            compile_caches=cache_state,
        ),
    )
    return Prepared(
        plan, track, text, sources, environment, _folder(request, name, created), tuple(told)
    )


def open_bundle(prepared: Prepared) -> tuple[BundlePaths, Ledger]:
    """Write plan, rules, sources and environment; begin the ledger. Nothing has run yet.

    Raises UnfitError when the folder cannot be written.
    """
    paths = BundlePaths(prepared.folder)
    try:
        paths.root.mkdir(parents=True)
        paths.runs.mkdir()
        paths.track.write_text(prepared.track_text, encoding="utf-8")
        paths.plan.write_text(prepared.plan.text(), encoding="utf-8")
        paths.environment.write_text(prepared.environment.text(), encoding="utf-8")
        for arm, source in prepared.sources.items():
            for relative, text in source.files.items():
                path = paths.source(arm) / relative
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8", newline="")
        ledger = Ledger.create(paths.ledger)
        ledger.append(
            Planned,
            plan_sha256=prepared.plan.sha256(),
            environment_sha256=prepared.environment.sha256(),
        )
    except OSError as error:
        raise UnfitError(
            "the bundle's folder cannot be written",
            where=str(paths.root),
            why=str(error.strerror or error),
            fix="choose another place with --out",
        ) from None
    return paths, ledger


def compile_caches(
    track: Track, plan: Plan, environment: Environment
) -> dict[ArmName, Path | None]:
    """Folder of each arm's compile caches, by source and torch version; None on a CPU track.

    A re-run has its own: what an earlier run of a stranger's script left in a cache would be code
    that no source names.
    """
    if track.hardware.kind == "cpu":
        return {"candidate": None, "baseline": None}
    if plan.rerun is not None:
        own = rerun_caches(plan)
        return {"candidate": own / "candidate", "baseline": own / "baseline"}
    return {
        "candidate": _cache_folder(plan.candidate.source_sha256, environment),
        "baseline": _cache_folder(plan.baseline.source_sha256, environment),
    }


def rerun_caches(plan: Plan) -> Path:
    """Where a re-run's compile caches lie until it is over."""
    return cache_root() / "compile" / f"rerun-{plan.sha256()[:20]}"


def _cache_folder(source_sha256: str, environment: Environment) -> Path:
    torch = environment.interpreter.torch or "unknown"
    return cache_root() / "compile" / f"{source_sha256[:20]}-{torch}"


def _script(asked: Path | None, default: str, root: Path | None, what: str) -> Path:
    if asked is not None:
        return asked
    path = (root or Path.cwd()) / default
    if not path.is_file():
        raise UsageError(
            f"no {what} script",
            where=str(path),
            why=f"the track names {default}, which is not there",
            fix=f"name one with --{what}" if what == "baseline" else "name a script to submit",
        )
    return path


def _origin(script: Path, root: Path | None) -> str:
    full = script.resolve()
    if root is not None and full.is_relative_to(root):
        return full.relative_to(root).as_posix()
    return script.name


def _folder(request: Request, name: str, created: str) -> Path:
    day = datetime.fromisoformat(created).astimezone(UTC).date().isoformat()
    base = request.out / f"{day}_{name}"
    folder, count = base, 1
    while folder.exists():
        count += 1
        folder = base.with_name(f"{base.name}-{count}")
    return folder


def _processes(request: Request, track: Track, environment: Environment) -> int:
    if request.processes is not None:
        if request.processes < 1:
            raise UsageError(f"--nproc {request.processes} starts nothing", fix="give 1 or more")
        if track.hardware.kind == "gpu" and request.processes > len(environment.gpus):
            raise UnfitError(
                f"{request.processes} processes asked for, {len(environment.gpus)} GPUs here",
                fix=f"--nproc {len(environment.gpus)}",
            )
        return request.processes
    if track.hardware.kind == "gpu":
        count = min(track.hardware.processes, len(environment.gpus))
        # World sizes of the contract divide 8.
        return max(n for n in (1, 2, 4, 8) if n <= count) if count <= 8 else count
    return track.hardware.processes


def _exhibition_reasons(
    request: Request,
    track: Track,
    environment: Environment,
    data_sha256: dict[str, str],
    processes: int,
    foreign: str | None,
) -> list[str]:
    reasons = hardware_reasons(track, environment)
    if request.data_set is not None:
        reasons.append(f"data set: {' '.join(request.data_set.split())[:200]}")
    if foreign is not None:
        reasons.append(foreign)
    if request.target is not None and request.target != track.contest.target_loss_nats:
        reasons.append(
            f"target {request.target:g} instead of the track's {track.contest.target_loss_nats:g}"
        )
    unknown = [name for name in data_sha256 if name not in track.data.sha256]
    if unknown and track.data.sha256:
        reasons.append(f"data the track does not name: {', '.join(sorted(unknown))}")
    if processes != track.hardware.processes and not track.hardware.any_count and not reasons:
        reasons.append(f"{processes} processes, the track has {track.hardware.processes}")
    if request.exhibition and not reasons:
        reasons.append("declared as an exhibition by the submitter")
    return reasons


def _cache_state(
    track: Track, sources: dict[ArmName, Source], environment: Environment
) -> Literal["cold", "warm", "unused"]:
    if track.hardware.kind == "cpu":
        return "unused"
    folders = [_cache_folder(source.sha256(), environment) for source in sources.values()]
    return "warm" if all(folder.is_dir() for folder in folders) else "cold"
