"""The board's tables: cells with text, link or badge, laid out by board_pieces.html.j2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.board.collect import TrackBoard, official_class
from harness.board.entry import Entry
from harness.board.standing import Standing, place
from harness.history import RecordRow, gains
from harness.report import facts
from harness.report import formats as fmt
from harness.report.story import DECISION_WORDS

NUMERIC = frozenset({"#", "time", "loss", "change", "steps", "ratio"})


@dataclass(frozen=True, slots=True)
class Cell:
    """`href` makes a link, `badge` a coloured mark of that class, `about` what a screen reader
    says in place of the text, `style` a class of the cell."""

    text: str
    href: str = ""
    badge: str = ""
    about: str = ""
    style: str = ""


@dataclass(frozen=True, slots=True)
class Grid:
    """Column heads and rows of cells."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @property
    def numeric(self) -> tuple[bool, ...]:
        return tuple(name in NUMERIC for name in self.head)


def grid(caption: str, head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Grid:
    """A grid without the columns that no row has a text for."""
    kept = [i for i in range(len(head)) if any(row[i].text for row in rows)]
    cells = tuple(tuple(row[i] for i in kept) for row in rows)
    return Grid(caption, tuple(head[i] for i in kept), cells)


def seconds_text(seconds: float | None) -> str:
    """A record's time as the field writes it: seconds below two minutes, minutes, hours."""
    if seconds is None:
        return fmt.DASH
    if seconds < 120:
        return f"{seconds:.2f} s"
    return f"{seconds / 60:.3f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def standing_grid(boards: Sequence[TrackBoard], up: str, slugs: dict[str, str]) -> Grid:
    """Every standing record, by track and hardware class."""
    rows = [
        _standing_row(board, standing, up, slugs)
        for board in boards
        for standing in board.standing
    ]  # fmt: skip
    head = ("track", "hardware", "time", "loss", "steps", "date", "by", "evidence")
    if len(boards) == 1:
        caption = f"Standing records of track {boards[0].name} by hardware class"
        return grid(caption, head[1:], [row[1:] for row in rows])
    return grid("Standing records by track and hardware class", head, rows)


def _standing_row(
    board: TrackBoard, standing: Standing, up: str, slugs: dict[str, str]
) -> tuple[Cell, ...]:
    row, entry = standing.row, standing.entry
    verdict = entry.verdict if entry is not None else None
    loss = fmt.nats(verdict.candidate.loss_mean, 4) if verdict is not None else ""
    day = row.date.isoformat() if row is not None and row.date else entry.day if entry else ""
    steps = fmt.count(verdict.candidate.steps) if verdict else row.steps if row is not None else ""
    if entry is not None:
        evidence = Cell("bundle", f"{up}bundles/{slugs[entry.folder]}.html",
                        about=f"Bundle {entry.folder}")  # fmt: skip
    else:
        evidence = Cell(f"table, record {row.record}" if row is not None else "")
    return (
        Cell(board.name, f"{up}tracks/{board.name}.html"),
        Cell(standing.hardware, style="when"),
        Cell(seconds_text(standing.seconds), style="big"),
        Cell(loss),
        Cell(steps if steps != fmt.DASH else ""),
        Cell(day, style="when"),
        Cell(row.contributors if row is not None else "", style="by"),
        evidence,
    )


def entries_grid(
    entries: Sequence[Entry],
    caption: str,
    up: str,
    slugs: dict[str, str],
    baselines: dict[str, str],
    *,
    with_track: bool,
) -> Grid:
    """Bundles, one a row. `baselines`: track -> hash of its standing script."""
    head: tuple[str, ...] = (
        *("bundle", "track", "hardware", "verdict"),
        *("standing", "time", "ratio", "loss"),
    )
    rows = [_entry_row(entry, up, slugs, baselines.get(entry.track, "")) for entry in entries]
    if not with_track:
        head = (head[0], *head[2:])
        rows = [(row[0], *row[2:]) for row in rows]
    return grid(caption, head, rows)


def _entry_row(
    entry: Entry, up: str, slugs: dict[str, str], baseline: str
) -> tuple[Cell, ...]:  # fmt: skip
    verdict = entry.verdict
    link = Cell(entry.folder, f"{up}bundles/{slugs[entry.folder]}.html", style="note")
    where = "" if entry.kind == "not_accepted" else place(entry, baseline)
    if verdict is None:
        return (link, Cell(""), Cell(""), Cell("broken", badge="broken"), *(Cell(""),) * 4)
    steps = verdict.compared_on == "steps"
    return (
        link,
        Cell(verdict.track),
        Cell(entry.hardware, style="when"),
        Cell(DECISION_WORDS[verdict.decision].lower(), badge=verdict.decision),
        Cell(where, badge=_place_badge(entry, where) if where else ""),
        Cell(facts.reached(verdict) if steps else seconds_text(_mean_s(entry))),
        Cell("" if steps else fmt.ratio(verdict.timing.ratio)),
        Cell(fmt.nats(verdict.candidate.loss_mean, 4)),
    )


def _place_badge(entry: Entry, where: str) -> str:
    if entry.kind != "accepted":
        return entry.kind
    return "beaten" if where.endswith("beaten") else "accepted"


def broken_grid(entries: Sequence[Entry], up: str, slugs: dict[str, str]) -> Grid:
    """Broken bundles with the reason."""
    rows = [
        (
            Cell(entry.folder, f"{up}bundles/{slugs[entry.folder]}.html", style="note"),
            Cell(fmt.listed(entry.reasons, 2), style="note"),
        )
        for entry in entries
    ]
    return grid("Bundles that are broken, with the reason", ("bundle", "reason"), rows)


def history_grid(board: TrackBoard, up: str, slugs: dict[str, str]) -> Grid:
    """All rows of a track's record table, newest first."""
    head = ("#", "time", "change", "date", "steps", "what changed", "by", "evidence")
    changes = gains(board.rows) if board.rows else ()
    pairs = list(zip(board.rows, changes, strict=True))
    rows = [_history_row(row, change, board, up, slugs) for row, change in reversed(pairs)]
    hardware = official_class(board.rules)
    return grid(f"Records of track {board.name} on {hardware}, newest first", head, rows)


def _history_row(
    row: RecordRow, change: float | None, board: TrackBoard, up: str, slugs: dict[str, str]
) -> tuple[Cell, ...]:
    named = next((e.folder for e in board.entries if f"results/{e.folder}" in row.note.split()), "")
    note = " ".join(word for word in row.note.split() if word != f"results/{named}")
    return (
        Cell(str(row.record)),
        Cell(seconds_text(row.minutes * 60), style="when"),
        Cell("" if change is None else fmt.percent(change)),
        Cell(row.date.isoformat() if row.date else "", style="when"),
        Cell(row.steps),
        Cell(note, style="note"),
        Cell(row.contributors, style="by"),
        Cell("bundle", f"{up}bundles/{slugs[named]}.html", about=f"Bundle {named}")
        if named
        else Cell(""),
    )


def _mean_s(entry: Entry) -> float | None:
    mean = entry.verdict.candidate.time_mean_ms if entry.verdict is not None else None
    return None if mean is None else mean / 1000
