"""Writes the site: whole files only, into a folder of its own, and removes its own stale pages.

The folder carries a marker that lists what the last build wrote. A folder with other content and no
marker is left alone; files that no build wrote (a CNAME, say) stay.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from harness.board.collect import Board, collect
from harness.canonical import dumps, sha256_text
from harness.errors import UnfitError, UsageError
from harness.report.write import replace_file

MARKER = ".speedrun-board.json"
PAGE_LIMIT_BYTES = 200_000


@dataclass(frozen=True, slots=True)
class Site:
    """What a build did. `heavy` names pages over 200 KB, with their size in bytes."""

    folder: Path
    board: Board
    pages: tuple[str, ...]
    written: tuple[str, ...]
    removed: tuple[str, ...]
    heavy: tuple[tuple[str, int], ...]


def build_site(results: Path, out: Path, repository: Path | None) -> Site:
    """Judge every bundle below `results` again and write the board to `out`.

    Raises UsageError when `out` is not the board's own folder, UnfitError when it cannot be
    written; the pages of an earlier build then still stand.
    """
    if not results.is_dir():
        raise UsageError(f"no folder at {results}", fix="name the folder of bundles: --results")
    before = _written_before(out)
    from harness.board.pages import render_pages

    board = collect(results, repository)
    pages = render_pages(board)
    try:
        return _write(out, board, pages, before)
    except OSError as error:
        raise UnfitError(
            "the board cannot be written",
            where=str(out),
            why=str(error.strerror or error),
            fix="make room or choose another folder with --out",
        ) from None


def _write(out: Path, board: Board, pages: dict[str, str], before: set[str]) -> Site:
    out.mkdir(parents=True, exist_ok=True)
    # The marker goes first: a build that is killed half-way can be repeated into its own folder.
    _mark(out, sorted(before | set(pages)))
    written = []
    for name, text in sorted(pages.items()):
        path = _inside(out, name)
        if not path.is_file() or path.read_bytes() != text.encode():
            replace_file(path, text)
            written.append(name)
    removed = []
    for name in sorted(before - set(pages)):
        path = _inside(out, name)
        if path.is_file() or path.is_symlink():
            path.unlink()
            removed.append(name)
    _mark(out, sorted(pages))
    sizes = {name: len(text.encode()) for name, text in pages.items()}
    heavy = tuple((n, size) for n, size in sorted(sizes.items()) if size > PAGE_LIMIT_BYTES)
    return Site(out, board, tuple(sorted(pages)), tuple(written), tuple(removed), heavy)


def _mark(out: Path, names: list[str]) -> None:
    body = {"made_by": "speedrun board", "pages": names}
    text = dumps({**body, "sha256": sha256_text(dumps(body))})
    path = out / MARKER
    if not path.is_file() or path.read_bytes() != text.encode():
        replace_file(path, text)


def _inside(out: Path, name: str) -> Path:
    """Path of a page; a link on the way, put there by somebody else, is refused."""
    path = out
    for part in PurePosixPath(name).parts[:-1]:
        path = path / part
        if path.is_symlink():
            raise UsageError("a folder of the board is a symbolic link", where=str(path))
    return out / name


def _written_before(out: Path) -> set[str]:
    """Pages of the last build, by its marker. Raises UsageError when the folder is not ours."""
    if not os.path.lexists(out):
        return set()
    if out.is_symlink() or not out.is_dir():
        raise UsageError("the board needs a folder", where=str(out), why="it is a file or a link")
    marker = out / MARKER
    if not marker.is_file():
        if any(out.iterdir()):
            raise UsageError(
                "this folder holds something else than a board",
                where=str(out),
                why=f"it is not empty and has no {MARKER}",
                fix="name a new or empty folder with --out",
            )
        return set()
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
        names = found["pages"]
        body = {"made_by": found["made_by"], "pages": names}
        if found["sha256"] != sha256_text(dumps(body)):
            raise ValueError("it was edited")
        if not all(_is_page(name) for name in names):
            raise ValueError("it names a file that is no page of a board")
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UsageError(
            "the board's marker cannot be believed, so nothing is removed or written",
            where=str(marker),
            why=str(error),
            fix="remove the folder, or name a new one with --out",
        ) from None
    return set(names)


def _is_page(name: object) -> bool:
    parts = PurePosixPath(str(name)).parts
    return (
        isinstance(name, str)
        and name.endswith(".html")
        and ".." not in parts
        and (parts == ("index.html",) or parts[0] in ("tracks", "bundles", "reports"))
        and len(parts) <= 2
    )
