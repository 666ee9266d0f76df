"""The bundle: one folder with all evidence of a series, and the only door to it.

`read_bundle` turns the folder into plain data for `judge`: it hashes, parses and compares, and
collects what does not fit as problems instead of stopping at the first. It executes nothing,
follows no link and opens no path outside the folder (bundle_files.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from harness.audit_report import AuditReport
from harness.bundle_audit import read_audit
from harness.bundle_files import (
    LOG_LIMIT_BYTES,
    BundlePaths,
    files_below,
    safe_path,
    safe_sha256,
    safe_text,
)
from harness.canonical import sha256_text
from harness.environment import Environment, read_environment
from harness.errors import EvidenceError, LogError, UsageError
from harness.ledger import (
    Audited,
    Closed,
    Event,
    Excluded,
    Failed,
    Finished,
    Lost,
    Planned,
    Started,
    event_line,
    ledger_lines,
    read_ledger,
)
from harness.logs import RunLog, read_log
from harness.plan import ARMS, ArmName, Plan, read_plan
from harness.stamps import Stamp, stamp_lines
from harness.telemetry import RunTelemetry, summarise_csv
from harness.tracks.track import Track, parse_track, track_sha256
from harness.verdict_schema import RunState

__all__ = [
    "Bundle",
    "BundlePaths",
    "Problem",
    "Run",
    "is_bundle",
    "read_bundle",
    "safe_path",
    "safe_text",
]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in the bundle that contradicts something else in it."""

    where: str
    what: str


@dataclass(frozen=True, slots=True)
class Run:
    """One started run and everything known of it."""

    started: Started
    state: RunState
    counts: bool
    note: str = ""
    wall_s: float | None = None
    log: RunLog | None = None
    stamps: tuple[Stamp, ...] = ()
    telemetry: RunTelemetry | None = None
    exclusion: str = ""

    @property
    def run_id(self) -> str:
        return self.started.run_id

    @property
    def arm(self) -> ArmName:
        return self.started.arm

    @property
    def pair(self) -> int:
        return self.started.pair


@dataclass(frozen=True, slots=True)
class Bundle:
    """A series as plain data: what `judge` sees."""

    name: str
    plan: Plan
    track: Track
    events: tuple[Event, ...]
    ledger_sha256: str
    runs: tuple[Run, ...]
    environment: Environment | None
    sources: dict[ArmName, dict[str, str]]
    problems: tuple[Problem, ...] = field(default=())
    audit: AuditReport | None = None

    @property
    def closed(self) -> bool:
        return any(isinstance(event, Closed) for event in self.events)

    def require_unchanged(self, refused: str, fix: str = "restore it") -> None:
        """Raises EvidenceError, naming the first problem, unless every file is what was written."""
        for problem in self.problems:
            raise EvidenceError(
                f"the bundle was changed since it was written; it is not {refused}",
                where=problem.where,
                why=problem.what,
                fix=fix,
            )


def is_bundle(folder: Path) -> bool:
    """Does the folder look like a bundle (it has a plan or a ledger)?"""
    return (folder / "plan.json").is_file() or (folder / "ledger.jsonl").is_file()


def read_bundle(root: Path) -> Bundle:
    """Bundle from disk. Raises EvidenceError only where nothing can be judged without the file
    (plan, ledger, track); all else is listed in `problems`."""
    if not root.is_dir():
        raise UsageError(f"no folder at {root}", fix="give a bundle, e.g. results/2026-11-20_name")
    problems: list[Problem] = []
    plan_text = safe_text(root, "plan.json")
    plan = read_plan(plan_text, str(root / "plan.json"))
    track_text = safe_text(root, "track.toml")
    track = parse_track(track_text, str(root / "track.toml"))
    if track_sha256(track_text) != plan.track_sha256:
        problems.append(Problem("track.toml", "not the rule set that the plan was made under"))
    events = read_ledger(ledger_lines(safe_text(root, "ledger.jsonl")), str(root / "ledger.jsonl"))
    if not events or not isinstance(events[0], Planned):
        raise EvidenceError(
            "the ledger does not begin with its plan", where=str(root / "ledger.jsonl")
        )
    if plan.text() != plan_text or events[0].plan_sha256 != plan.sha256():
        problems.append(Problem("plan.json", "not the plan that the ledger began with"))
    series = [event for event in events if not isinstance(event, Audited)]
    if any(isinstance(event, Closed) for event in series[:-1]):
        problems.append(Problem("ledger.jsonl", "goes on after the series was closed"))
    if any(isinstance(event, Planned) for event in events[1:]):
        problems.append(Problem("ledger.jsonl", "plans a second time"))
    sources = {arm: _read_arm(root, plan, arm, problems) for arm in ARMS}
    runs = _read_runs(root, plan, events, problems)
    audit, faults = read_audit(root, events)
    problems += [Problem(where, what) for where, what in faults]
    return Bundle(
        name=plan.name,
        plan=plan,
        track=track,
        events=tuple(events),
        ledger_sha256=_head(events),
        runs=tuple(runs),
        environment=_read_environment(root, events[0], problems),
        sources=sources,
        problems=tuple(problems),
        audit=audit,
    )


def _head(events: list[Event]) -> str:
    return sha256_text(event_line(events[-1]))


def _read_environment(root: Path, planned: Planned, problems: list[Problem]) -> Environment | None:
    try:
        text = safe_text(root, "environment.json")
        environment = read_environment(text, "environment.json")
    except EvidenceError as error:
        problems.append(Problem("environment.json", error.what))
        return None
    if sha256_text(text) != planned.environment_sha256:
        problems.append(
            Problem("environment.json", "not the environment that the ledger began with")
        )
    return environment


def _read_arm(root: Path, plan: Plan, arm: ArmName, problems: list[Problem]) -> dict[str, str]:
    texts: dict[str, str] = {}
    files = plan.arm(arm).files
    for path, expected in files.items():
        relative = f"source/{arm}/{path}"
        try:
            texts[path] = safe_text(root, relative)
            if sha256_text(texts[path]) != expected:
                problems.append(Problem(relative, "not the source that the plan names"))
        except EvidenceError as error:
            problems.append(Problem(relative, error.what))
    # A run gets a copy of the whole folder: a file slipped in would be imported and hashed nowhere.
    problems += [
        Problem(f"source/{arm}/{path}", "lies beside the source and is not in the plan")
        for path in files_below(root, f"source/{arm}")
        if path not in files
    ]
    return texts


def _read_runs(root: Path, plan: Plan, events: list[Event], problems: list[Problem]) -> list[Run]:
    ends: dict[str, Finished | Failed | Lost] = {}
    exclusions: dict[str, Excluded] = {}
    starts: list[Started] = []
    for event in events:
        if isinstance(event, Started):
            starts.append(event)
        elif isinstance(event, Finished | Failed | Lost):
            if event.run_id in ends:
                problems.append(Problem("ledger.jsonl", f"{event.run_id} ends twice"))
            ends[event.run_id] = event
        elif isinstance(event, Excluded):
            exclusions[event.run_id] = event
    known = {start.run_id: ends.get(start.run_id) for start in starts}
    for extra in sorted((set(ends) | set(exclusions)) - set(known)):
        problems.append(Problem("ledger.jsonl", f"{extra} ends but was never started"))
    if len(known) != len(starts):
        problems.append(Problem("ledger.jsonl", "one run id was started twice"))
    _name_strangers(root, known, problems)
    counted = {pair.index for pair in plan.pairs if pair.counts}
    return [
        _read_run(root, start, start.pair in counted, ends, exclusions, problems)
        for start in starts
    ]


def _name_strangers(
    root: Path, known: dict[str, Finished | Failed | Lost | None], problems: list[Problem]
) -> None:
    """Files under runs/ that the ledger does not know: an appended run would be one."""
    for path in files_below(root, "runs"):
        run_id = path.split(".")[0]
        end = known.get(run_id)
        if run_id not in known:
            problems.append(Problem(f"runs/{path}", "belongs to no run in the ledger"))
        elif end is not None and path not in end.files:
            problems.append(Problem(f"runs/{path}", "was not there when its run ended"))


def _read_run(
    root: Path,
    start: Started,
    counts: bool,
    ends: dict[str, Finished | Failed | Lost],
    exclusions: dict[str, Excluded],
    problems: list[Problem],
) -> Run:
    end = ends.get(start.run_id)
    if end is None:
        return Run(start, "lost", counts, note="no end in the ledger")
    _compare_hashes(root, end, problems)
    if isinstance(end, Lost):
        return Run(start, "lost", counts, note=end.why, log=_read_log(root, start.run_id, None))
    if isinstance(end, Failed):
        return Run(
            start, "failed", counts, note=f"{end.reason}: {end.detail}".rstrip(": "),
            wall_s=end.wall_s, log=_read_log(root, start.run_id, None),
        )  # fmt: skip
    excluded = exclusions.get(start.run_id)
    return Run(
        start,
        "excluded" if excluded else "finished",
        counts,
        note=f"{excluded.criterion}: {excluded.evidence}" if excluded else "",
        wall_s=end.wall_s,
        log=_read_log(root, start.run_id, problems),
        stamps=_read_stamps(root, start.run_id, problems),
        telemetry=_read_telemetry(root, start.run_id, end, problems),
        exclusion=excluded.criterion if excluded else "",
    )


def _compare_hashes(root: Path, end: Finished | Failed | Lost, problems: list[Problem]) -> None:
    for name, expected in sorted(end.files.items()):
        relative = f"runs/{name}"
        try:
            if safe_sha256(root, relative) != expected:
                problems.append(
                    Problem(relative, "differs from what the ledger recorded when the run ended")
                )
        except EvidenceError as error:
            problems.append(Problem(relative, error.what))
    own = f"{end.run_id}.log"
    if isinstance(end, Finished) and own not in end.files:
        problems.append(Problem(f"runs/{own}", "finished, and the ledger has no hash of its log"))


def _read_log(root: Path, run_id: str, problems: list[Problem] | None) -> RunLog | None:
    relative = f"runs/{run_id}.log"
    try:
        logs = read_log(safe_path(root, relative), max_bytes=LOG_LIMIT_BYTES)
    except (EvidenceError, LogError) as error:
        if problems is not None:
            problems.append(Problem(relative, f"{error.what} {error.why}".strip()))
        return None
    if len(logs) != 1 and problems is not None:
        problems.append(Problem(relative, f"holds {len(logs)} runs, must hold one"))
    return logs[0]


def _read_stamps(root: Path, run_id: str, problems: list[Problem]) -> tuple[Stamp, ...]:
    relative = f"runs/{run_id}.times"
    try:
        arrivals_s = [float(line) for line in safe_text(root, relative).split()]
        log = safe_path(root, f"runs/{run_id}.log")
        if log.stat().st_size > LOG_LIMIT_BYTES:
            raise ValueError("the log is too long")
        lines = log.read_bytes().split(b"\n")[:-1]
        return stamp_lines((line.decode("utf-8", "replace") for line in lines), arrivals_s)
    except (EvidenceError, ValueError) as error:
        problems.append(Problem(relative, f"arrival times do not fit the log: {error}"))
        return ()


def _read_telemetry(
    root: Path, run_id: str, end: Finished, problems: list[Problem]
) -> RunTelemetry | None:
    name = f"{run_id}.gpu.csv"
    if name not in end.files:
        return None
    try:
        return summarise_csv(safe_text(root, f"runs/{name}"))
    except (EvidenceError, ValueError) as error:
        problems.append(Problem(f"runs/{name}", f"telemetry cannot be read: {error}"))
        return None
