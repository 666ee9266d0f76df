"""report.html in a real browser: no horizontal overflow on a phone or a desktop, and not blank."""

from __future__ import annotations

import html
import json
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from harness.report import render_html
from tests.report.cases import CASES

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)
WIDTHS = (390, 1280)
SHOWN = ("accepted", "not_proven", "rule_broken", "forty", "long_name", "hostile", "no_runs")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason=f"no browser here: none of {', '.join(NAMES)}"),
]

# Reports stand in same-origin frames of the exact width; the outer page measures them.
MEASURE = """<!DOCTYPE html><meta charset="utf-8"><body style="margin:0">{frames}
<pre id="measured"></pre><script>
addEventListener("load", () => {{
  const rows = [...document.querySelectorAll("iframe")].map(frame => {{
    const root = frame.contentDocument.documentElement, width = root.clientWidth;
    const wide = [...root.querySelectorAll("body *")].filter(e =>
      !e.closest(".scroll, pre, svg") && e.getBoundingClientRect().right > width + 1);
    const drawn = [...root.querySelectorAll("figure svg")].map(e => e.getBoundingClientRect());
    return {{
      name: frame.title, width, scroll: root.scrollWidth, height: root.scrollHeight,
      wide: wide.map(e => e.outerHTML.slice(0, 80)),
      figures: drawn.map(box => [box.width, box.height]),
    }};
  }});
  document.getElementById("measured").textContent = JSON.stringify(rows);
}});
</script>"""


def browse(page: Path, *arguments: str) -> str:
    """Open `page` headless; stdout. The profile lies beside the page."""
    assert BROWSER
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        f"--user-data-dir={page.parent / 'profile'}",
        *arguments,
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def frames(names: tuple[str, ...], widths: tuple[int, ...], height: int) -> str:
    return "".join(
        f'<iframe title="{name}" srcdoc="{html.escape(render_html(CASES[name]()))}" '
        f'style="width:{width}px;height:{height}px;border:0"></iframe>'
        for name in names
        for width in widths
    )


def test_nothing_overflows_at_phone_and_desktop_width(tmp_path: Path) -> None:
    page = tmp_path / "measure.html"
    page.write_text(MEASURE.format(frames=frames(SHOWN, WIDTHS, 800)), encoding="utf-8")
    found = re.search(r'<pre id="measured">(.*?)</pre>', browse(page, "--dump-dom"), re.DOTALL)
    assert found, "the page did not measure itself"
    rows = json.loads(html.unescape(found[1]))
    assert [(row["name"], row["width"]) for row in rows] == [(n, w) for n in SHOWN for w in WIDTHS]
    for row in rows:
        assert row["scroll"] == row["width"], row
        assert row["wide"] == [], row
        assert row["height"] > 800, row
        assert len(row["figures"]) == (0 if row["name"] == "no_runs" else 3)
        for width, height in row["figures"]:
            assert width >= min(row["width"], 600) * 0.7, row
            assert height > 60, row


@pytest.mark.parametrize("width", WIDTHS)
def test_a_screenshot_is_not_blank(width: int, tmp_path: Path) -> None:
    page, picture = tmp_path / "shot.html", tmp_path / "shot.png"
    body = f'<!DOCTYPE html><body style="margin:0">{frames(("accepted",), (width,), 2400)}'
    page.write_text(body, encoding="utf-8")
    browse(page, f"--window-size={max(width, 600)},2400", f"--screenshot={picture}")
    data = picture.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    shown_width, shown_height = struct.unpack(">II", data[16:24])
    assert shown_width >= width
    assert shown_height >= 2000
    assert len(data) > 60_000  # a blank page of this size compresses to under 10 kB
