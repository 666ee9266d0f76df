"""`verify --rerun`: a stranger's two scripts once more, from their bundle, as a series of its own.

The bundle is verified first; one that was changed, or breaks a rule, is not executed. Then comes
what `submit` does, with the bundle's rules and sources instead of the work tree's and under
protection (protection.py): a plan of its own, fixed and hashed before run 1, which names the bundle
it runs again. The new series is judged alone; pooling.py puts both together.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from harness.bundle import Bundle, BundlePaths, is_bundle, read_bundle, safe_text
from harness.checks.hardware import hardware_class
from harness.environment import same_node
from harness.errors import (
    EXIT_INTERRUPTED,
    EXIT_RULE_BROKEN,
    EvidenceError,
    UnfitError,
    UsageError,
)
from harness.plan import ARMS, Rerun, read_plan
from harness.pooling import Pooled, pool
from harness.protection import choose_protection, hidden_folders
from harness.recovery import locked
from harness.report.write import replace_file
from harness.request import clean_name
from harness.rerun_report import render_rerun, show_pooled
from harness.source import Source
from harness.submission import (
    Material,
    Prepared,
    Request,
    open_bundle,
    plan_series,
    rerun_caches,
)
from harness.submit import announce, carry_on, carry_out
from harness.terminal import Terminal
from harness.tracks.track import Track, load_track, track_names
from harness.verdict import judge
from harness.verdict_schema import Verdict
from harness.vouching import claimed_digest

MOST_PROCESSES = 64
POOLED = "rerun.json"
REPORT = "RERUN.md"


@dataclass(frozen=True, slots=True)
class RerunRequest:
    """What a person asked `verify --rerun` for; None means the default.

    bundle   the submitter's
    runs     counted pairs of a fixed plan; None: the design of the track's rules
    resume   a re-run of it that was begun
    """

    bundle: Path
    runs: int | None = None
    sandbox: str = "auto"
    data: Path | None = None
    processes: int | None = None
    python: str = ""
    out: Path = Path("results")
    seed: int | None = None
    resume: Path | None = None


def after_verification(
    request: RerunRequest, exit_code: int, terminal: Terminal
) -> tuple[int, dict[str, Any]]:
    """The re-run of a bundle whose offline verification ended in `exit_code`; (exit code, what it
    adds to the JSON document). A bundle that did not stand up to it is not executed."""
    if exit_code == EXIT_RULE_BROKEN:
        terminal.failure("not run again: nothing of the bundle was executed")
        return exit_code, {"rerun": None}
    code, pooled = rerun(request, terminal)
    return code, {"rerun": pooled.model_dump(mode="json") if pooled is not None else None}


def rerun(request: RerunRequest, terminal: Terminal) -> tuple[int, Pooled | None]:
    """(exit code, both series together); None after Ctrl-C.

    Raises EvidenceError for a bundle that was changed, and executes nothing of it; UsageError,
    UnfitError.
    """
    bundle = read_bundle(request.bundle)
    verdict = judge(bundle)
    if bundle.problems or verdict.decision == "rule_broken":
        broken = [check for check in verdict.checks if check.status == "fail"]
        first = bundle.problems[0] if bundle.problems else None
        raise EvidenceError(
            "the bundle is not run again: nothing of it was executed",
            where=first.where if first else str(request.bundle),
            why=first.what if first else f"a rule is broken: {broken[0].id}",
            fix="a re-run is for bundles whose evidence holds; restore it, or ask for a new one",
        )
    if request.resume is not None:
        folder = request.resume
        _check_belongs(folder, verdict)
        code = carry_on(folder, terminal, False)
    else:
        prepared = _prepare(request, bundle, verdict, terminal)
        paths, ledger = open_bundle(prepared)
        terminal.info(f"bundle {paths.root}, plan {prepared.plan.sha256()[:16]} fixed before run 1")
        with locked(paths):
            code = carry_out(paths, prepared.plan, prepared.track, ledger, terminal, False)
        folder = paths.root
    if code == EXIT_INTERRUPTED:
        return code, None
    pooled = pool_bundles(bundle, verdict, read_bundle(folder))
    _write(folder, request.bundle.resolve().name, pooled)
    show_pooled(pooled, terminal)
    terminal.info(f"pooled   {folder / REPORT} and {folder / POOLED}")
    return pooled.exit_code, pooled


def pool_bundles(first: Bundle, verdict: Verdict, second: Bundle) -> Pooled:
    """Both series together, from their evidence. Raises EvidenceError where the second's fails."""
    second.require_unchanged("pooled", fix="restore it, or make a new re-run")
    rerun_of = second.plan.rerun
    nodes: tuple[str, ...] = ("the node of one of them is not known",)
    if first.environment is not None and second.environment is not None:
        nodes = same_node(first.environment, second.environment)
    return pool(
        verdict,
        judge(second),
        classes=(_class(first), _class(second)),
        nodes=nodes,
        protection=rerun_of.protection_says if rerun_of is not None else "",
    )


def _prepare(
    request: RerunRequest, bundle: Bundle, verdict: Verdict, terminal: Terminal
) -> Prepared:
    """Plan and protection; nothing is on disk yet, and nothing of the bundle has been executed."""
    plan, track = bundle.plan, bundle.track
    _check_asks(request, bundle)
    name = request.bundle.resolve().name
    material = Material(
        name=clean_name(f"{plan.name[:50]}-rerun"),
        track_text=safe_text(request.bundle, "track.toml"),
        sources={arm: Source(plan.arm(arm).script, bundle.sources[arm]) for arm in ARMS},
        origins={arm: f"{name}/source/{arm}/{plan.arm(arm).script}" for arm in ARMS},
        exhibition=plan.exhibition,
    )
    target = plan.target_loss_nats
    prepared = plan_series(
        Request(
            design="group-sequential" if request.runs is None else "fixed",
            runs=request.runs,
            processes=request.processes or plan.launch.processes,
            python=request.python or sys.executable,
            data=request.data,
            out=request.out,
            seed=request.seed,
            target=None if target == track.contest.target_loss_nats else target,
        ),
        material,
    )
    hidden = hidden_folders(request.out.absolute(), request.bundle.resolve().parent)
    protection, says = choose_protection(request.sandbox, prepared.plan, track, hidden)
    cold = "cold" if track.hardware.kind == "gpu" else "unused"
    fixed = prepared.plan.model_copy(
        update={
            "rerun": Rerun(
                bundle=name,
                digest=claimed_digest(request.bundle, verdict),
                plan_sha256=verdict.plan_sha256,
                ledger_sha256=verdict.ledger_sha256,
                protection="none" if protection.bwrap is None else "bwrap",
                protection_says=says,
            ),
            "launch": prepared.plan.launch.model_copy(update={"compile_caches": cold}),
        }
    )
    prepared = replace(prepared, plan=fixed)
    for warning in prepared.warnings:
        terminal.warning(f"warning: {warning}")
    for reason in fixed.exhibition:
        terminal.warning(f"exhibition, can never be a record: {reason}")
    terminal.info(f"re-run of {name}, both arms from the bundle's source/")
    tell = terminal.info if protection.bwrap else terminal.warning
    tell(f"protection {says}")
    announce(prepared, terminal)
    return prepared


def _check_asks(request: RerunRequest, bundle: Bundle) -> None:
    """A stranger's rules say which files are read and how many processes start: within reason."""
    plan, data = bundle.plan, bundle.track.data
    parts = PurePosixPath(data.folder).parts
    if data.folder.startswith("/") or any(part.startswith(".") for part in parts):
        raise EvidenceError(
            "the bundle's rules ask for a folder that no data lie in",
            where=f"{request.bundle / 'track.toml'}: data.folder",
            why=f"it is {data.folder!r}: absolute, hidden, or outside the root of the data",
            fix="look at the bundle before anything of it is run",
        )
    if request.data is None and data.kind == "shards" and not _shipped_data(bundle.track):
        raise UsageError(
            "the track is the bundle's own, and could ask for any folder here",
            where=str(request.bundle / "track.toml"),
            why=f"it reads {data.folder}/{data.train_glob}",
            fix="name the root of the data yourself: --data DIR",
        )
    if request.processes is None and plan.launch.processes > MOST_PROCESSES:
        raise UsageError(
            f"the bundle's plan starts {plan.launch.processes} processes a run",
            why=f"more than {MOST_PROCESSES} are not started unasked",
            fix="say how many with --gpus",
        )
    for arm in ARMS:
        if plan.arm(arm).script not in bundle.sources[arm]:
            raise EvidenceError(
                "the script that the plan starts is not among its files",
                where=f"plan.json {arm}.script",
                why=plan.arm(arm).script,
            )


def _shipped_data(track: Track) -> bool:
    return track.name in track_names() and load_track(track.name).data == track.data


def _check_belongs(folder: Path, verdict: Verdict) -> None:
    """Raises UsageError unless the folder is a re-run of the bundle with this verdict."""
    if not is_bundle(folder):
        raise UsageError(f"{folder} is no bundle", fix="give the re-run's bundle to --resume")
    of = read_plan(safe_text(folder, "plan.json"), str(folder / "plan.json")).rerun
    if of is None:
        raise UsageError(
            f"{folder} is no re-run",
            why="its plan names no bundle that it runs again",
            fix="continue a series of your own with speedrun submit --resume",
        )
    if (of.plan_sha256, of.ledger_sha256) != (verdict.plan_sha256, verdict.ledger_sha256):
        raise UsageError(
            f"{folder} is a re-run of another bundle",
            why=f"its plan names {of.bundle}, plan {of.plan_sha256[:16]}",
            fix="give the bundle that it names",
        )


def _class(bundle: Bundle) -> str:
    """What times may be compared across: processes and kind of card; one kind of CPU."""
    if bundle.track.hardware.kind == "cpu":
        return "CPU"
    environment = bundle.environment
    if environment is None:
        return "unknown"
    names = " and ".join(sorted({gpu.name for gpu in environment.gpus}))
    return f"{bundle.plan.launch.processes} × {hardware_class(bundle.track, environment) or names}"


def _write(folder: Path, name: str, pooled: Pooled) -> None:
    paths = BundlePaths(folder)
    try:
        replace_file(folder / POOLED, pooled.text())
        replace_file(folder / REPORT, render_rerun(pooled, name, folder.resolve().name))
    except OSError as error:
        raise UnfitError(
            "the pooled report cannot be written",
            where=str(folder),
            why=str(error.strerror or error),
            fix="make room, then the same command with --resume " + str(folder),
        ) from None
    plan = read_plan(paths.plan.read_text(encoding="utf-8"), str(paths.plan))
    shutil.rmtree(rerun_caches(plan), ignore_errors=True)
