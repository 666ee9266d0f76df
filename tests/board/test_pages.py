"""What the board says: records, exhibitions, broken bundles; and how it says it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pytest

from harness.board.entry import read_entries
from harness.board.pages import page_names
from tests.board.conftest import HOSTILE

KINDS = {
    "2026-11-20_fast": "accepted",
    "2026-11-20_show": "exhibition",
    "2026-11-20_easier": "other_rules",
    "2026-11-20_edited-log": "not_accepted",
    "2026-11-20_better": "broken",
    HOSTILE: "broken",
}


class Page(HTMLParser):
    """Links, ids, elements and the text of one page, section by section."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.text = path, path.read_text(encoding="utf-8")
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.sections: dict[str, str] = {"": ""}
        self._section = ""
        self.feed(self.text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.tags.append((tag, found))
        if tag == "a" and found.get("href"):
            self.links.append(str(found["href"]))
        if found.get("id"):
            self.ids.append(str(found["id"]))
        if tag == "section":
            self._section = str(found.get("aria-labelledby") or found.get("aria-label"))
            self.sections[self._section] = ""

    def handle_data(self, data: str) -> None:
        self.sections[self._section] += data

    def count(self, tag: str) -> int:
        return sum(found == tag for found, _ in self.tags)


def pages(site: Path) -> list[Page]:
    return [Page(path) for path in sorted(site.rglob("*.html"))]


def test_every_bundle_is_what_it_is(house: Path) -> None:
    entries = read_entries(house / "results", house)
    assert {entry.folder: entry.kind for entry in entries} == KINDS
    reasons = {entry.folder: " ".join(entry.reasons) for entry in entries}
    assert "loss.mean: claimed 3.1" in reasons["2026-11-20_better"]
    assert "data.validation_tokens: 1, in force 10" in reasons["2026-11-20_easier"]
    assert "plan.json" in reasons[HOSTILE]
    assert str(house) not in " ".join(reasons.values())


def test_a_bundle_without_a_repository_has_no_rules_to_be_accepted_under(house: Path) -> None:
    kinds = {entry.folder: entry.kind for entry in read_entries(house / "results", None)}
    assert kinds["2026-11-20_fast"] == "other_rules"


def test_standing_records(site: Path) -> None:
    index = Page(site / "index.html")
    table = index.sections["Standing records"]
    assert "79.20 s" in table
    assert "@sisovicm" in table
    assert "17.350 min" in table
    assert "bundles/2026-11-20_fast.html" in index.links
    for other in set(KINDS) - {"2026-11-20_fast"}:
        assert other not in table


def test_exhibitions_and_broken_bundles_have_sections_of_their_own(site: Path) -> None:
    index = Page(site / "index.html")
    attempts = index.sections["attempts"]
    assert "2026-11-20_fast" in attempts
    assert "standing record" in attempts
    assert "2026-11-20_show" not in attempts
    assert "2026-11-20_better" not in attempts
    assert "accepted under other rules" in attempts
    assert "2026-11-20_show" in index.sections["exhibitions"]
    assert "exhibition, no record" in index.sections["exhibitions"]
    assert "2026-11-20_better" in index.sections["broken"]
    assert "claimed 3.1" in index.sections["broken"]


def test_a_bundles_page(site: Path) -> None:
    page = Page(site / "bundles/2026-11-20_fast.html")
    assert "New record " in page.text
    assert "standing record" in page.text
    assert "../reports/2026-11-20_fast.html" in page.links
    assert re.search(r"\b[0-9a-f]{64}\b", page.sections["check"])
    show = Page(site / "bundles/2026-11-20_show.html")
    assert "This can never enter the table" in show.text
    assert "New record" not in show.text
    easier = Page(site / "bundles/2026-11-20_easier.html")
    assert "New record" not in easier.text
    assert "rules that are not in force" in easier.text
    better = Page(site / "bundles/2026-11-20_better.html")
    assert "New record" not in better.text
    assert "Why it is broken" in better.text


def test_the_report_is_rendered_anew_and_not_the_bundles_own(house: Path, site: Path) -> None:
    from harness.report import render_html
    from harness.verification import verify_bundle

    name = "2026-11-20_fast"
    expected = render_html(verify_bundle(house / "results" / name).verdict, name)
    assert (site / f"reports/{name}.html").read_text(encoding="utf-8") == expected


def test_curves_and_change_points(site: Path) -> None:
    text = Page(site / "tracks/small.html").text
    assert "84 records, 45 min to 79.2 s" in text
    moved = re.search(r"0\.\d+ % slower since (2026-09-2\d) \(95 % interval", text)
    assert moved
    assert abs(int(moved[1][-2:]) - 26) <= 1
    assert "unexplained" in text  # neither software, data, code nor the reference moved
    assert text.count('role="img"') == 2


def test_hostile_names_are_shown_and_obeyed_nowhere(site: Path) -> None:
    for page in pages(site):
        assert "<script" not in page.text, page.path
        assert "<b>" not in page.text, page.path
        assert "\u202e" not in page.text, page.path
        assert not [a for _, found in page.tags for a in found if a.startswith("on")]
    index = Page(site / "index.html")
    assert "&lt;script&gt;alert(1)" in index.text
    names = {path.name for path in (site / "bundles").iterdir()}
    assert (
        len([name for name in names if re.fullmatch(r"script-alert.*-[0-9a-f]{10}\.html", name)])
        == 1
    )


def test_names_of_pages_differ_on_every_file_system() -> None:
    from harness.board.entry import Entry

    folders = ["A", "a", "..", "x/../y", "x" * 300, "con\nx", "ä", "ö", ".hidden", "A b", "A-b"]
    names = page_names([Entry(folder, "broken") for folder in folders])
    assert len({name.lower() for name in names.values()}) == len(folders)
    for name in names.values():
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name)
        assert len(name) < 130


def test_every_link_leads_somewhere_and_none_away(site: Path) -> None:
    for page in pages(site):
        for link in page.links:
            if link.startswith("#"):
                assert link[1:] in page.ids, (page.path, link)
                continue
            assert "://" not in link
            target = (page.path.parent / unquote(link)).resolve()
            assert target.is_file(), (page.path, link)
            assert target.is_relative_to(site.resolve())


def test_pages_stand_alone_and_are_light(site: Path) -> None:
    for page in pages(site):
        assert len(page.text.encode()) < 200_000, page.path
        assert page.count("script") == page.count("link") == page.count("img") == 0
        assert "default-src 'none'" in page.text
        assert not re.search(r"(?:src|href)=\"(?:https?:)?//", page.text)
        assert "url(http" not in page.text
        assert "@import" not in page.text


@pytest.mark.parametrize("folder", ["", "tracks", "bundles"])
def test_labels_for_screen_readers(site: Path, folder: str) -> None:
    for path in sorted((site / folder).glob("*.html")):
        page = Page(path)
        assert page.tags[0] == ("html", {"lang": "en"})
        assert (page.count("main"), page.count("nav"), page.count("footer")) == (1, 1, 1)
        assert page.count("h1") == 1
        assert page.links[0] == "#content"
        assert len(page.ids) == len(set(page.ids)), path
        assert page.count("table") == page.count("caption")
        for tag, found in page.tags:
            if tag == "nav":
                assert found.get("aria-label")
            if tag == "section":
                assert found.get("aria-label") or found["aria-labelledby"] in page.ids
            if tag == "svg" and found.get("role") == "img":
                for name in str(found["aria-labelledby"]).split():
                    assert name in page.ids
            if tag == "th":
                assert found.get("scope") in ("col", "row")
            if found.get("role") == "region":
                assert found.get("tabindex") == "0"
                assert found.get("aria-label") or found["aria-labelledby"] in page.ids
        headings = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
        assert all(after <= before + 1 for before, after in pairwise(headings))


def test_a_year_of_nights_stays_light(house: Path, tmp_path: Path) -> None:
    import shutil

    from harness.board import build_site
    from tests.board.conftest import nightly

    results = tmp_path / "house" / "results"
    shutil.copytree(house / "results" / "history", results / "history")
    (results / "nightly").mkdir()
    for track in ("small", "medium", "tiny"):
        year = nightly(400) + nightly(400, hardware="8 × H200").split("\n", 1)[1]
        (results / f"nightly/{track}.csv").write_text(year, encoding="utf-8")
    assert build_site(results, tmp_path / "site", None).heavy == ()
