"""report.html: well-formed, self-contained, accessible, hostile text inert."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser

import pytest

from harness.report import formats as fmt
from harness.report import render_html
from tests.report import cases
from tests.report.cases import CASES

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks nesting while it parses, and collects what the tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        assert len(attrs) == len(dict(attrs)), f"attribute twice in {tag}"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.mark.parametrize("case", CASES)
def test_every_case_is_well_formed_and_byte_stable(case: str) -> None:
    text = render_html(CASES[case]())
    assert text == render_html(CASES[case]())
    page = Page(text)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids)), "an id twice"
    for _, attrs in page.tags:
        for target in (attrs.get("aria-labelledby") or "").split():
            assert target in ids
        reference = attrs.get("xlink:href") or ""
        if reference:
            assert reference[0] == "#"
            assert reference[1:] in ids
    for target in re.findall(r"url\(#([^)]+)\)", text):
        assert target in ids
    assert "None" not in page.words
    assert not re.search(r"(?<!\")\b(nan|inf)\b", page.words)


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_fetched_and_nothing_runs(case: str) -> None:
    page = Page(render_html(CASES[case]()))
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    for _, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on")]
        for name in ("src", "href", "srcset", "action", "data"):
            assert name not in attrs
    policy = [a for a in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy[0]["content"] == "default-src 'none'; style-src 'unsafe-inline'"
    style = re.findall(r"<style.*?</style>", render_html(CASES[case]()), re.DOTALL)
    assert not [s for s in style if "@import" in s or "url(" in s.replace("url(#", "")]


def test_hostile_text_stays_text() -> None:
    text = render_html(cases.hostile())
    assert "<script>alert" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    words = Page(text).words
    assert "<script>alert(1)</script>" in words
    assert "<img src=x onerror=y>" in words
    assert "\\x1b[31mred" in words


def test_an_unknown_name_or_a_none_is_an_error() -> None:
    from jinja2 import UndefinedError

    from harness.report import page

    with pytest.raises(UndefinedError):
        page.template("report.html.j2").render()
    with pytest.raises(TypeError, match="None"):
        page._shown(None)


def test_the_page_says_what_the_verdict_says() -> None:
    verdict = cases.accepted()
    words = Page(render_html(verdict)).words
    for figure in (
        f"{verdict.candidate.time_mean_ms / 1000:.4f}",  # type: ignore[operator]
        f"{verdict.baseline.time_mean_ms / 1000:.4f}",  # type: ignore[operator]
        f"{verdict.candidate.loss_mean:.5f}",
        f"{verdict.candidate.loss_sd:.5f}",
        f"{verdict.timing.ratio:.4f}",
        fmt.p_value(verdict.loss.rule_p),
        "0.210 nats above the floor",
        verdict.plan_sha256,
        verdict.ledger_sha256,
        "speedrun verify results/2026-11-20_muon-tiny",
    ):
        assert figure in words
    for loss in verdict.candidate.losses_nats + verdict.baseline.losses_nats:
        assert fmt.plain(loss) in words
    for run in verdict.runs:
        assert run.run_id in words
    for name, value in verdict.environment.items():
        assert name in words
        assert value in words


@pytest.mark.parametrize("case", CASES)
def test_the_decision_is_told_as_it_is(case: str) -> None:
    verdict = CASES[case]()
    words = Page(render_html(verdict)).words
    if verdict.decision == "accepted" and not verdict.exhibition:
        assert "New record" in words
        assert "✓ Accepted" in words
    else:
        assert "New record" not in words
    if verdict.decision != "accepted":
        assert "Accepted" not in words
    assert ("Exhibition, not a record attempt" in words) == bool(verdict.exhibition)


def test_a_failing_check_is_marked_in_words_and_not_in_colour_alone() -> None:
    text = render_html(cases.rule_broken())
    words = Page(text).words
    assert "data BROKEN : training and validation tokens" in words
    assert "Fix: remedy of data" in words
    assert words.index("Broken") < words.index("Result")
    assert '<li class="fail">' in text


def test_headings_captions_and_labels() -> None:
    page = Page(render_html(cases.forty()))
    assert page.of("html")[0]["lang"] == "en"
    assert len(page.of("h1")) == 1
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert len(page.of("caption")) == len(page.of("table")) >= 5
    for th in page.of("th"):
        assert th.get("scope") in ("row", "col")
    drawings = page.of("svg")
    assert len(drawings) == 3
    for drawing in drawings:
        assert drawing["role"] == "img"
        assert drawing["aria-labelledby"]
    assert len(page.of("title")) == 1 + 3
    assert page.of("meta")[1]["name"] == "viewport"


def test_a_missing_plot_says_why() -> None:
    words = Page(render_html(cases.nothing_finished())).words
    assert "no counted run has finished with a finite loss" in words
    assert "no counted pair has finished in both arms" in words
    assert "no run printed a validation loss" in words
