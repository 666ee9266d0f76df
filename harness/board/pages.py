"""The board's pages as text: path below the site's folder -> HTML. Pure, byte-stable."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Sequence
from typing import Any

from harness import __version__
from harness.board import cells, curves
from harness.board.collect import Board, TrackBoard
from harness.board.entry import Entry
from harness.board.standing import place
from harness.history import summary_line
from harness.nightly.assess import Assessment
from harness.publish import bundle_digest
from harness.report import formats as fmt
from harness.report import page
from harness.report import story as told
from harness.report.escape import one_line
from harness.report.html import columns, render_html
from harness.report.svg import inline_markup

INDEX_ATTEMPTS = 40
"""Attempts, and exhibitions, that the first page lists; a track's own page lists all."""
SHOWN_NIGHTS = 180
"""The curve shows this many; the CSV has all."""
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")
BROKEN_HEADLINE = {True: "Nothing could be judged.", False: "The claim does not follow."}


def render_pages(board: Board) -> dict[str, str]:
    """Every page of the site."""
    slugs = page_names(board.entries)
    baselines = {track.name: track.baseline for track in board.tracks}
    figures = {track.name: _figures(track) for track in board.tracks}
    pages = {"index.html": _index(board, slugs, baselines, figures)}
    for track in board.tracks:
        pages[f"tracks/{track.name}.html"] = _track(board, track, slugs, baselines, figures)
    for entry in board.entries:
        slug = slugs[entry.folder]
        pages[f"bundles/{slug}.html"] = _bundle(board, entry, slug, baselines)
        if entry.verdict is not None:
            pages[f"reports/{slug}.html"] = render_html(entry.verdict, _plain(entry.folder))
    return pages


def page_names(entries: Sequence[Entry]) -> dict[str, str]:
    """Folder -> name of its page: the folder's own where every file system can hold it, else a
    cleaned one with a hash. No two are alike, upper and lower case aside."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for entry in sorted(entries, key=lambda entry: entry.folder):
        name = entry.folder
        if not SAFE_NAME.fullmatch(name) or name.lower() in taken:
            digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:10]
            clean = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:80]
            name = f"{clean or 'bundle'}-{digest}"
        taken.add(name.lower())
        names[entry.folder] = name
    return names


def _plain(folder: str) -> str | None:
    """The folder's name, for the commands that a report prints; None if it is not plain."""
    return folder if SAFE_NAME.fullmatch(folder) else None


def _render(name: str, board: Board, up: str, **values: Any) -> str:
    text: str = page.template(name).render(
        css=page.style("report.css", "board.css"),
        tracks=[track.name for track in board.tracks],
        up=up,
        version=__version__,
        **values,
    )
    return text.rstrip() + "\n"


def _index(
    board: Board,
    slugs: dict[str, str],
    baselines: dict[str, str],
    figures: dict[str, list[dict[str, Any]]],
) -> str:
    newest = sorted(board.entries, key=lambda e: (e.created_utc, e.folder), reverse=True)
    attempts = [e for e in newest if e.kind in ("accepted", "other_rules", "not_accepted")]
    shows = [e for e in newest if e.kind == "exhibition"]
    broken = [e for e in newest if e.kind == "broken"]

    def listed(entries: list[Entry], what: str) -> cells.Grid:
        caption = f"{what}, newest first"
        if len(entries) > INDEX_ATTEMPTS:
            caption += f"; {INDEX_ATTEMPTS} of {len(entries)}, the pages of the tracks list all"
        return cells.entries_grid(
            entries[:INDEX_ATTEMPTS], caption, "", slugs, baselines, with_track=True
        )

    return _render(
        "board_index.html.j2",
        board,
        "",
        page="index",
        title="speedrun board: standing records",
        standing=cells.standing_grid(board.tracks, "", slugs),
        shown=[
            {
                "name": track.name,
                "title": track.title.rstrip("."),
                "problems": track.problems,
                "figures": figures[track.name],
            }
            for track in board.tracks
            if figures[track.name] or track.problems
        ],
        attempts=listed(attempts, "Official attempts"),
        exhibitions=listed(shows, "Exhibitions, none of them a record"),
        broken=cells.broken_grid(broken, "", slugs),
    )


def _track(
    board: Board,
    track: TrackBoard,
    slugs: dict[str, str],
    baselines: dict[str, str],
    figures: dict[str, list[dict[str, Any]]],
) -> str:
    return _render(
        "board_track.html.j2",
        board,
        "../",
        page=f"track {track.name}",
        title=f"Track {track.name}: speedrun board",
        track={
            "name": track.name,
            "title": track.title,
            "version": str(track.rules.contest.rules_version) if track.rules else "",
            "problems": track.problems,
            "figures": figures[track.name],
        },
        standing=cells.standing_grid([track], "../", slugs),
        bundles=cells.entries_grid(
            track.entries, f"Every bundle of track {track.name}, newest first", "../", slugs,
            baselines, with_track=False,
        ),
        history=cells.history_grid(track, "../", slugs),
    )  # fmt: skip


def _figures(track: TrackBoard) -> list[dict[str, Any]]:
    from markupsafe import Markup

    found: list[dict[str, Any]] = []
    if track.rows and any(row.date for row in track.rows):
        drawing = curves.draw_history(track.rows, track.name)
        found.append(
            {
                "markup": Markup(inline_markup(drawing, f"{track.name}-history")),
                "caption": f"{summary_line(track.rows)}.",
                "changes": (),
            }
        )
    for i, series in enumerate(track.nightly):
        if series.nights:
            found.append(_nightly_figure(track, series, i))
    return found


def _nightly_figure(track: TrackBoard, series: Assessment, i: int) -> dict[str, Any]:
    from markupsafe import Markup

    nights = series.nights[-SHOWN_NIGHTS:]
    findings = [f for f in series.findings if f.first.day >= nights[0].day]
    last = nights[-1]
    title = f"Nightly times of track {track.name} on {series.hardware_class}"
    caption = (
        f"{fmt.many(len(nights), 'night')} on {series.hardware_class}, the last of {last.day}: "
        f"{cells.seconds_text(last.record_ms / 1000)}."
    )
    if series.margin is not None:
        caption += (
            f" Margin of all its nights {fmt.signed(series.margin.margin_nats, 5)} nats, 95 % "
            f"interval {fmt.signed(series.margin.low, 5)} to {fmt.signed(series.margin.high, 5)}."
        )
    if series.time.learning:
        caption += f" No test of changes before {fmt.many(series.time.learning, 'more night')}."
    elif not findings:
        caption += " No change found."
    moved = tuple(finding.headline() for finding in findings)
    about = " ".join([caption, *(f"{text}." for text in moved)])
    days = [curves.ordinal(finding.first.day) for finding in findings]
    drawing = curves.draw_nightly(nights, days, title, about)
    return {
        "markup": Markup(inline_markup(drawing, f"{track.name}-nightly-{i}")),
        "caption": caption,
        "changes": moved,
    }


def _bundle(board: Board, entry: Entry, slug: str, baselines: dict[str, str]) -> str:
    verdict = entry.verdict
    story = told.tell(verdict, _plain(entry.folder)) if verdict is not None else None
    where = place(entry, baselines.get(entry.track, ""))
    broken = entry.kind == "broken"
    kept = entry.kind not in ("broken", "other_rules")
    parts = [f"track {entry.track}", entry.hardware, f"plan fixed {entry.created_utc}"]
    reasons_title = {
        "broken": "Why it is broken",
        "other_rules": "Accepted under rules that are not in force here, so no record",
    }.get(entry.kind, "Why it is not accepted")
    folder = shlex.quote(f"results/{one_line(entry.folder)}")
    return _render(
        "board_bundle.html.j2",
        board,
        "../",
        page="bundle",
        title=f"{entry.folder}: speedrun board",
        exhibition=verdict.exhibition if verdict is not None else (),
        eyebrow=" · ".join(parts) if verdict is not None else f"bundle {entry.folder}",
        # The title of an "accepted" under other rules says "new record", which it is not.
        heading=story.title if story and kept else entry.folder,
        badge="broken" if broken else _badge(entry, where),
        badge_text=_badge_text(entry, where),
        headline=BROKEN_HEADLINE[verdict is None] if broken or not story else story.headline,
        reasons=entry.reasons,
        reasons_title=reasons_title,
        broken=broken,
        story=story,
        metrics=columns(story.metrics) if story is not None else (),
        report=f"../reports/{slug}.html",
        notes=entry.notes,
        command=f"speedrun verify {folder}",
        digest=bundle_digest(verdict) if verdict is not None else "",
    )


def _badge_text(entry: Entry, where: str) -> str:
    if entry.kind == "not_accepted" and entry.verdict is not None:
        return told.DECISION_WORDS[entry.verdict.decision].lower()
    return where


def _badge(entry: Entry, where: str) -> str:
    if entry.kind == "not_accepted" and entry.verdict is not None:
        return entry.verdict.decision
    return "beaten" if where.endswith("beaten") else entry.kind
