"""Everything the board shows, gathered from `results/` and the repository around it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.board.entry import Entry, files_sha256, read_entries
from harness.board.rules import known_tracks, rules_in_force
from harness.board.standing import Standing, standing_records
from harness.errors import SpeedrunError
from harness.history import RecordRow, parse_table
from harness.nightly.assess import Assessment, assess
from harness.nightly.nights import hardware_classes
from harness.nightly.table import parse_table as parse_nightly
from harness.source import read_source
from harness.tracks.track import Track


@dataclass(frozen=True, slots=True)
class TrackBoard:
    """One track: its records, its bundles, its nights.

    rules       None for a track that only bundles know
    baseline    `files_sha256` of the standing script; "" where it cannot be read
    problems    tables that cannot be read, in words
    """

    name: str
    rules: Track | None
    baseline: str
    rows: tuple[RecordRow, ...]
    standing: tuple[Standing, ...]
    entries: tuple[Entry, ...]
    nightly: tuple[Assessment, ...]
    problems: tuple[str, ...]

    @property
    def title(self) -> str:
        return self.rules.contest.title if self.rules else f"track {self.name}, of a bundle's own"


@dataclass(frozen=True, slots=True)
class Board:
    """All tracks that have something to show, and the bundles that cannot be read at all."""

    tracks: tuple[TrackBoard, ...]
    broken: tuple[Entry, ...]

    @property
    def entries(self) -> tuple[Entry, ...]:
        return (*(entry for track in self.tracks for entry in track.entries), *self.broken)


def collect(results: Path, repository: Path | None) -> Board:
    """Read and judge everything. What cannot be read is listed, and never stops the rest."""
    entries = read_entries(results, repository)
    names = set(known_tracks(repository)) | {entry.track for entry in entries if entry.track}
    boards = [_track(name, results, repository, entries) for name in sorted(names)]
    shown = [
        board
        for board in boards
        if board.rows or board.entries or board.nightly or board.problems or board.baseline
    ]
    shown.sort(key=lambda board: (-len(board.rows), board.name))
    return Board(tuple(shown), tuple(entry for entry in entries if not entry.track))


def _track(
    name: str, results: Path, repository: Path | None, entries: tuple[Entry, ...]
) -> TrackBoard:
    problems: list[str] = []
    rules = _rules(name, repository, problems)
    mine = tuple(
        sorted(
            (entry for entry in entries if entry.track == name),
            key=lambda entry: (entry.created_utc, entry.folder),
            reverse=True,
        )
    )
    baseline = _baseline(rules, repository)
    rows = _history(name, results, problems)
    known = rules is not None
    return TrackBoard(
        name=name,
        rules=rules,
        baseline=baseline,
        rows=rows,
        standing=(
            standing_records(name, official_class(rules), rows, mine, baseline) if known else ()
        ),
        entries=mine,
        nightly=_nightly(name, rules, results, problems),
        problems=tuple(problems),
    )


def official_class(rules: Track | None) -> str:
    """The class of a track's table: CPU, `8 × H100`, `any GPU`."""
    if rules is None or rules.hardware.kind == "cpu":
        return "CPU"
    if rules.hardware.official_class is None:
        return "any GPU"
    return f"{rules.hardware.processes} × {rules.hardware.official_class}"


def _rules(name: str, repository: Path | None, problems: list[str]) -> Track | None:
    try:
        return rules_in_force(name, repository)
    except SpeedrunError as error:
        problems.append(f"rules of track {name}: {error.what} {error.why}".strip())
        return None


def _baseline(rules: Track | None, repository: Path | None) -> str:
    if rules is None or repository is None:
        return ""
    try:
        return files_sha256(read_source(repository / rules.baseline))
    except SpeedrunError:
        return ""


def _history(name: str, results: Path, problems: list[str]) -> tuple[RecordRow, ...]:
    text = _text(results / "history" / f"{name}.csv", problems)
    try:
        return () if text is None else parse_table(text, f"history/{name}.csv")
    except SpeedrunError as error:
        problems.append(f"{error.where}: {error.what}: {error.why}")
        return ()


def _nightly(
    name: str, rules: Track | None, results: Path, problems: list[str]
) -> tuple[Assessment, ...]:
    """The nightly series, one a hardware class, with what moved and why."""
    text = _text(results / "nightly" / f"{name}.csv", problems)
    if text is None or rules is None:
        return ()
    try:
        rows = parse_nightly(text, f"nightly/{name}.csv")
        return tuple(assess(rows, rules, hardware) for hardware in sorted(hardware_classes(rows)))
    except SpeedrunError as error:
        problems.append(f"{error.where}: {error.what}: {error.why}")
        return ()


def _text(path: Path, problems: list[str]) -> str | None:
    """Text of a table; None where there is none, or where its name is no plain one."""
    if path.is_symlink() or not path.is_file():
        return None
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path.parent.name}/{path.name} cannot be read: {error}")
        return None
