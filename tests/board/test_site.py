"""The site's folder: written whole, the same each time, and only its own pages are removed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from harness.board import build_site, site
from harness.cli.main import main
from harness.errors import UnfitError, UsageError


def everything(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def small(house: Path, tmp_path: Path) -> Path:
    """A house with one bundle and no tables, which is quick to build."""
    root = tmp_path / "house"
    shutil.copytree(house, root, ignore=shutil.ignore_patterns("2026*", "history", "nightly", "<*"))
    shutil.copytree(house / "results/2026-11-20_fast", root / "results/2026-11-20_fast")
    return root


def test_the_same_results_give_the_same_bytes(house: Path, tmp_path: Path, site: Path) -> None:
    build_site(house / "results", tmp_path / "again", house)
    assert everything(tmp_path / "again") == everything(site)
    moved = tmp_path / "moved"
    shutil.copytree(house, moved)
    build_site(moved / "results", tmp_path / "third", moved)
    assert everything(tmp_path / "third") == everything(site)


def test_a_second_build_writes_nothing(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    first = build_site(small / "results", out, small)
    assert first.written == first.pages
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    second = build_site(small / "results", out, small)
    assert (second.written, second.removed) == ((), ())
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times


def test_stale_pages_go_and_strangers_stay(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    build_site(small / "results", out, small)
    (out / "CNAME").write_text("board.example.org\n")
    (out / "bundles" / "mine.html").write_text("mine")
    (small / "results/2026-11-20_fast").rename(small / "results/2026-11-21_renamed")
    done = build_site(small / "results", out, small)
    assert set(done.removed) == {"bundles/2026-11-20_fast.html", "reports/2026-11-20_fast.html"}
    assert (out / "CNAME").exists()
    assert (out / "bundles/mine.html").read_text() == "mine"
    assert not (out / "bundles/2026-11-20_fast.html").exists()


def test_a_folder_of_somebody_else_is_left_alone(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "docs"
    out.mkdir()
    (out / "index.html").write_text("mine")
    with pytest.raises(UsageError, match="something else than a board"):
        build_site(small / "results", out, small)
    assert everything(out) == {"index.html": b"mine"}
    with pytest.raises(UsageError, match="something else"):
        build_site(small / "results", small / "results", small)
    with pytest.raises(UsageError, match="needs a folder"):
        build_site(small / "results", out / "index.html", small)
    (tmp_path / "empty").mkdir()
    build_site(small / "results", tmp_path / "empty", small)


@pytest.mark.parametrize(
    "names",
    [["../victim.html"], ["/etc/x.html"], ["bundles/../../victim.html"], ["victim.txt"], [7], "x"],
)
def test_a_marker_that_was_edited_removes_nothing(
    small: Path, tmp_path: Path, names: object
) -> None:
    from harness.canonical import dumps, sha256_text

    out = tmp_path / "site"
    build_site(small / "results", out, small)
    (tmp_path / "victim.html").write_text("dear")
    body = {"made_by": "speedrun board", "pages": names}
    (out / site.MARKER).write_text(dumps({**body, "sha256": sha256_text(dumps(body))}))
    before = everything(tmp_path)
    with pytest.raises(UsageError, match="cannot be believed"):
        build_site(small / "results", out, small)
    assert everything(tmp_path) == before
    (out / site.MARKER).write_text(json.dumps(body))
    with pytest.raises(UsageError, match="cannot be believed"):
        build_site(small / "results", out, small)


def test_a_link_in_place_of_a_folder_is_not_followed(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    build_site(small / "results", out, small)
    shutil.rmtree(out / "bundles")
    (tmp_path / "victim").mkdir()
    (out / "bundles").symlink_to(tmp_path / "victim")
    with pytest.raises(UsageError, match="symbolic link"):
        build_site(small / "results", out, small)
    assert os.listdir(tmp_path / "victim") == []  # noqa: PTH208


def test_a_full_disk_is_a_clear_error_and_the_next_build_goes_on(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "site"
    real = site.replace_file
    left = [3]

    def filling(path: Path, text: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        real(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(site, "replace_file", filling)
        with pytest.raises(UnfitError, match="cannot be written") as caught:
            build_site(small / "results", out, small)
    assert "No space left" in caught.value.why
    done = build_site(small / "results", out, small)
    assert {name for name in everything(out) if name.endswith(".html")} == set(done.pages)


def test_as_a_command(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "site"
    arguments = ["board", "build", "--out", str(out), "--results", str(small / "results")]
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--json"])
    assert not caught.value.code
    told, err = capsys.readouterr()
    document = json.loads(told)
    assert document["bundles"] == [{"folder": "2026-11-20_fast", "kind": "accepted", "reasons": []}]
    assert "1 accepted" in err
    with pytest.raises(SystemExit) as caught:
        main(["board", "build", "--results", str(tmp_path / "nowhere")])
    assert caught.value.code == 2


def test_an_empty_results_folder_is_a_board_too(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    done = build_site(tmp_path / "results", tmp_path / "site", None)
    assert "No record stands here yet" in (tmp_path / "site/index.html").read_text()
    assert done.board.entries == ()


def test_tables_that_cannot_be_read_are_named_on_the_board(tmp_path: Path) -> None:
    results = tmp_path / "results"
    (results / "history").mkdir(parents=True)
    (results / "nightly").mkdir()
    (results / "history/small.csv").write_text("record,minutes\n<b>1</b>,2\n")
    (results / "nightly/small.csv").write_text("utc,kind\n")
    (results / "nightly/medium.csv").write_bytes(b"\xff\xfe")
    build_site(results, tmp_path / "site", None)
    text = (tmp_path / "site/index.html").read_text(encoding="utf-8")
    assert "history/small.csv:1: a record table breaks its form" in text
    assert "nightly/small.csv:1: a nightly table breaks its form" in text
    assert "nightly/medium.csv cannot be read" in text
