"""The board in a real browser: phone and desktop, light and dark, by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.browser import BROWSER, MISSING, Browser

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason=MISSING)]
SIZES = [(390, 844), (1280, 900)]
SHOWN = (
    "index.html",
    "tracks/small.html",
    "tracks/fake.html",
    "bundles/2026-11-20_fast.html",
    "bundles/2026-11-20_show.html",
    "bundles/2026-11-20_better.html",
)
WIDE = """(() => {
  const root = document.documentElement, width = root.clientWidth;
  const wide = [...document.querySelectorAll("body *")].filter(e =>
    !e.closest(".scroll, pre, svg, .skip") && e.getBoundingClientRect().right > width + 1);
  return [root.scrollWidth, width, wide.map(e => e.outerHTML.slice(0, 80))];
})()"""
CUT = """[...document.querySelectorAll(".scroll")].filter(e => e.scrollWidth > e.clientWidth + 1)
  .map(e => e.getAttribute("aria-labelledby"))"""
# Contrast after WCAG 2.2, of every text against the nearest opaque background.
CONTRAST = """(() => {
  const parse = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const light = c => c.slice(0, 3).map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  const lum = c => { const [r, g, b] = light(c); return .2126 * r + .7152 * g + .0722 * b; };
  const back = e => { for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
  const poor = [];
  for (const e of document.querySelectorAll("body *")) {
    if (e.closest("svg, .skip") || ![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
      continue;
    const a = lum(parse(getComputedStyle(e).color)), b = lum(back(e));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) poor.push([e.outerHTML.slice(0, 60), ratio]);
  }
  return poor;
})()"""
FOCUSED = """(() => {
  const e = document.activeElement;
  if (!e || e === document.body) return null;
  const box = e.getBoundingClientRect(), style = getComputedStyle(e);
  return {tag: e.tagName, href: e.getAttribute("href"), width: box.width, left: box.left,
          outline: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0,
          name: (e.getAttribute("aria-label") || e.textContent).trim()};
})()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_nothing_overflows_and_all_text_can_be_read(
    browser: Browser, site: Path, width: int, height: int, scheme: str
) -> None:
    for name in SHOWN:
        browser.open(site / name, width, height, scheme)
        assert browser.evaluate(WIDE) == [width, width, []], name
        assert browser.evaluate(CONTRAST) == [], name
        requests = browser.evaluate("performance.getEntriesByType('resource').length")
        assert requests == 0, name
        paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
        if width == 390 and not name.startswith("bundles"):
            assert browser.evaluate(CUT) == [], name


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_tab_key_reaches_every_link_and_shows_where_it_is(
    browser: Browser, site: Path, width: int, height: int
) -> None:
    for name in ("index.html", "bundles/2026-11-20_fast.html"):
        browser.open(site / name, width, height, "light")
        count = "document.querySelectorAll('a[href], summary, [tabindex=\"0\"]').length"
        stops = []
        for _ in range(browser.evaluate(count)):
            browser.press_tab()
            stops.append(browser.evaluate(FOCUSED))
        assert None not in stops, name
        assert stops[0]["href"] == "#content"
        assert stops[0]["left"] >= 0  # the skip link comes into view
        reached = [stop["href"] for stop in stops if stop["tag"] == "A"]
        there = browser.evaluate(
            "[...document.querySelectorAll('a[href]')].map(e => e.getAttribute('href'))"
        )
        assert reached == there, name
        for stop in stops:
            assert stop["outline"], stop
            assert stop["width"] > 0, stop
            assert stop["name"], stop


def test_the_skip_link_leads_past_the_navigation(browser: Browser, site: Path) -> None:
    browser.open(site / "index.html", 1280, 900, "light")
    browser.press_tab()
    browser.evaluate("document.activeElement.click()")
    browser.press_tab()
    assert browser.evaluate("document.activeElement.closest('main') !== null")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_screenshot_is_not_blank(
    browser: Browser, site: Path, width: int, height: int, scheme: str
) -> None:
    browser.open(site / "index.html", width, height, scheme)
    data = browser.screenshot()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(data) > 60_000  # a blank page of this size compresses to under 10 kB


def test_screen_readers_get_names_and_tables(browser: Browser, site: Path) -> None:
    """The accessibility tree as the browser builds it, on a phone, where rows become blocks."""
    browser.open(site / "index.html", 390, 844, "light")
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    shown = [node for node in nodes if not node.get("ignored")]
    roles: dict[str, list[str]] = {}
    for node in shown:
        roles.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
    assert {"banner", "navigation", "main", "contentinfo"} <= set(roles)
    tables = roles["table"]
    assert "Standing records by track and hardware class" in tables
    assert all(tables)
    assert {"columnheader", "rowheader", "cell"} <= set(roles)
    pictures = roles.get("image", []) + roles.get("img", []) + roles.get("graphics-document", [])
    assert any("Record times of track small" in name for name in pictures)
    assert all(roles["link"])
