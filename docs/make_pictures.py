"""The README's pictures, made from a real `speedrun submit` on this machine.

    python docs/make_pictures.py                      track tiny, docs/pictures/
    python docs/make_pictures.py --track my.toml --seed 1 -- candidates/mine.py

terminal.svg   the command as it ran in a terminal, its minutes squeezed into seconds; drawn with
               rich's own SVG export, played by CSS alone, the end of it where nothing is played
report.png     the report that the run wrote, as Chromium shows it

Nothing is typed by hand: what is not in the run is not in the picture.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COLUMNS, ROWS = 108, 30
MOST_ROWS = 46
FRAMES = 40
PLAY_S, HOLD_S = 14.0, 7.0
TERMINAL_LIMIT_BYTES, REPORT_LIMIT_BYTES = 150_000, 300_000
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
VERDICT = re.compile(r"^(EXHIBITION )?(ACCEPTED|NOT PROVEN)\b")
CUT_OFF = re.compile(r"\x1b(?:\[[0-9;?]*|[\]P][^\x07\x1b]*)?$")
SEQUENCE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\x1b[\]P].*?(?:\x07|\x1b\\)|\x1b.")


# ---------------------------------------------------------------------------------------------
# The run: a child on a pseudo-terminal, everything it writes with the moment it was written
# ---------------------------------------------------------------------------------------------
@dataclass
class Recording:
    """`pieces`: (seconds since the start, text). `code`: exit code of the command."""

    command: str
    pieces: list[tuple[float, str]] = field(default_factory=list)
    code: int = 0


def record(arguments: list[str], folder: Path) -> Recording:
    """Run `speedrun` with these arguments in `folder`, on a terminal of COLUMNS x ROWS."""
    shown = shlex.join(["speedrun", *arguments])
    recording = Recording(shown)
    environment = {
        **os.environ,
        "TERM": "xterm-256color",
        "COLUMNS": str(COLUMNS),
        "LINES": str(ROWS),
        "PYTHONPATH": str(ROOT),
    }
    environment.pop("NO_COLOR", None)
    begun = time.monotonic()
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        program = [sys.executable, "-m", "harness.cli.main", *arguments]
        os.execvpe(program[0], program, environment)
    rest = b""
    while True:
        select.select([terminal], [], [])
        try:
            piece = os.read(terminal, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        rest += piece
        text = whole(rest)
        rest = rest[len(text.encode()) :]
        recording.pieces.append((time.monotonic() - begun, text))
    recording.code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return recording


def whole(data: bytes) -> str:
    """The text so far, without a character or a colour code that is still being written."""
    for cut in range(4):
        try:
            text = data[: len(data) - cut].decode("utf-8")
        except UnicodeDecodeError:
            continue
        return CUT_OFF.sub("", text)
    return data.decode("utf-8", errors="replace")


# ---------------------------------------------------------------------------------------------
# The screen: as much of a terminal as rich's live display needs
# ---------------------------------------------------------------------------------------------
class Screen:
    """Lines with their colour codes. Knows wrapping, carriage return, cursor up, erase line."""

    def __init__(self) -> None:
        self.lines, self.at, self.style = [""], 0, ""

    def write(self, text: str) -> None:
        place = 0
        while place < len(text):
            found = SEQUENCE.match(text, place)
            if found:
                self._obey(found)
                place = found.end()
                continue
            if text[place] == "\n":
                self._down("")
            elif text[place] != "\r":  # rich erases a line before it writes it anew
                if len(SEQUENCE.sub("", self.lines[self.at])) == COLUMNS:
                    self._down(self.style)
                self.lines[self.at] += text[place]
            place += 1

    def _down(self, style: str) -> None:
        self.at += 1
        if self.at == len(self.lines):
            self.lines.append(style)

    def _obey(self, found: re.Match[str]) -> None:
        number, kind = found[1] or "", found[2]
        if kind == "m":
            self.style = found[0]
            self.lines[self.at] += found[0]
        elif kind == "A":
            self.at = max(0, self.at - int(number or 1))
        elif kind == "K":
            self.lines[self.at] = ""

    def written(self) -> tuple[str, ...]:
        """All lines, without the empty ones at the end."""
        lines = self.lines
        while lines and not plain(lines[-1]):
            lines = lines[:-1]
        return tuple(lines)


def plain(line: str) -> str:
    return SEQUENCE.sub("", line).strip()


def keyframes(recording: Recording) -> list[tuple[float, tuple[str, ...]]]:
    """(share of the playing time, lines so far): FRAMES moments of the run, evenly spread, and its
    end. Lines that stay as they were are one frame.
    """
    screen = Screen()
    screen.write(f"\x1b[1;32m$\x1b[0m \x1b[1m{recording.command}\x1b[0m\n")
    frames = [(0.0, screen.written())]
    end = recording.pieces[-1][0]
    wanted = [end * (i + 1) / FRAMES for i in range(FRAMES)]
    for moment, text in recording.pieces:
        while wanted and moment > wanted[0]:
            frames.append((wanted.pop(0) / end, screen.written()))
        screen.write(text)
    frames.append((1.0, screen.written()))
    kept = [frames[0]]
    for share, lines in frames[1:]:
        if lines != kept[-1][1]:
            kept.append((share, lines))
    return kept


# ---------------------------------------------------------------------------------------------
# The picture: every different row once, by rich; frames that only name rows
# ---------------------------------------------------------------------------------------------


def draw(written: list[tuple[float, tuple[str, ...]]], title: str) -> str:
    """The animated SVG: the last lines of each moment, as a terminal shows them. It is as high as
    it takes to hold the verdict from its first line to its last."""
    end = written[-1][1]
    verdict = [y for y, line in enumerate(end) if VERDICT.search(plain(line))]
    height_rows = min(max(ROWS, len(end) - verdict[-1] + 1 if verdict else ROWS), MOST_ROWS)
    frames = [(share, lines[-height_rows:]) for share, lines in written]
    rows = list(dict.fromkeys(line for _, lines in frames for line in lines if plain(line)))
    texts, styles, height = export(rows)
    width = COLUMNS * 12.2 + 24
    total = PLAY_S + HOLD_S
    moments = [share * PLAY_S for share, _ in frames] + [total]
    css, body = [], []
    for i, (_, lines) in enumerate(frames):
        last = i == len(frames) - 1
        uses = "".join(
            f'<use href="#r{rows.index(line)}" y="{height * y:.1f}"/>'
            for y, line in enumerate(lines)
            if plain(line)
        )
        body.append(f'<g class="f{"" if last else " h"}" id="f{i}">{uses}</g>')
        css.append(timeline(i, moments[i] / total, moments[i + 1] / total))
    definitions = "".join(f'<g id="r{i}">{text}</g>' for i, text in enumerate(texts))
    full = height * height_rows + 62
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {full:.0f}"
 role="img" aria-labelledby="title desc">
<title id="title">{title}</title>
<desc id="desc">A recording of the command in a terminal: the runs of both scripts as they end, the
running tests, the verdict with every check.</desc>
<style>
text {{ font: 20px "Fira Code", ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono",
 monospace; white-space: pre; fill: #d8dee6; }}
{styles}
.h {{ opacity: 0; }}
.f {{ animation: {total:g}s step-end infinite; }}
{"".join(css)}
@media (prefers-reduced-motion: reduce) {{ .f {{ animation: none !important; }} }}
</style>
<rect width="100%" height="100%" rx="12" fill="#12161c" stroke="#39424e"/>
<g fill="#39424e"><circle cx="26" cy="24" r="7"/><circle cx="50" cy="24" r="7"/>
<circle cx="74" cy="24" r="7"/></g>
<defs>{definitions}</defs>
<g transform="translate(12 44)">{"".join(body)}</g>
</svg>
"""


def timeline(i: int, begin: float, end: float) -> str:
    """Frame `i` is seen from `begin` to `end`, shares of the whole round."""
    steps = [f"{100 * begin:.2f}%{{opacity:1}}"]
    if begin > 0:
        steps.insert(0, "0%{opacity:0}")
    if end < 1:
        steps.append(f"{100 * end:.2f}%{{opacity:0}}")
    return f"@keyframes k{i}{{{''.join(steps)}}}#f{i}{{animation-name:k{i}}}\n"


def export(rows: list[str]) -> tuple[list[str], str, float]:
    """(SVG of each row at the top, the style sheet, height of a row), drawn by rich."""
    from rich.console import Console
    from rich.terminal_theme import TerminalTheme
    from rich.text import Text

    theme = TerminalTheme(
        (18, 22, 28), (216, 222, 230),
        [(72, 80, 90), (255, 110, 116), (99, 209, 142), (241, 192, 99), (122, 184, 255),
         (200, 150, 255), (98, 205, 214), (216, 222, 230)],
    )  # fmt: skip
    console = Console(
        width=COLUMNS, record=True, file=io.StringIO(),
        force_terminal=True, color_system="truecolor", legacy_windows=False,
    )  # fmt: skip
    for row in rows:
        console.print(Text.from_ansi(row), no_wrap=True, overflow="crop", crop=True)
    text = console.export_svg(
        theme=theme, unique_id="s", code_format="{styles}\x00{matrix}\x00{line_height}"
    )
    styles, matrix, line = text.split("\x00")
    height = float(line)
    drawn = [""] * len(rows)
    for found in re.finditer(r"<text([^>]*)>(.*?)</text>", matrix, flags=re.DOTALL):
        attributes, inner = found[1], found[2]
        y = float(re.search(r' y="([\d.]+)"', attributes)[1])  # type: ignore[index]
        number = round((y - 20) / height)
        if number >= len(rows) or not inner.replace("&#160;", "").strip():
            continue
        attributes = re.sub(r' (?:clip-path|y)="[^"]*"', "", attributes)
        drawn[number] += f'<text y="20"{attributes}>{inner.rstrip()}</text>'
    return drawn, styles.strip(), height


# ---------------------------------------------------------------------------------------------
# The report's picture
# ---------------------------------------------------------------------------------------------
def photograph(report: Path, picture: Path, height: int = 1180) -> None:
    """report.html at 1,180 px, light, as Chromium shows its top."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        sys.exit(f"no browser here: none of {', '.join(BROWSERS)}")
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
             "--blink-settings=preferredColorScheme=1", f"--user-data-dir={profile}",
             f"--window-size=1180,{height}", f"--screenshot={picture}", report.resolve().as_uri()],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--track", default="tiny")
    parser.add_argument("--seed", default="")
    parser.add_argument("--folder", type=Path, default=ROOT, help="where the command is run")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures")
    parser.add_argument("--keep", type=Path, help="keep the bundle in this folder")
    parser.add_argument("candidate", nargs="?", default="")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        results = asked.keep.resolve() if asked.keep else Path(scratch) / "results"
        arguments = ["submit", *([asked.candidate] if asked.candidate else [])]
        arguments += ["--track", asked.track] if asked.track != "tiny" else []
        arguments += ["--seed", asked.seed] if asked.seed else []
        # The bundle's place is a detail of this recording; the picture shows the plain command.
        recording = record([*arguments, "--out", str(results)], asked.folder)
        recording.command = shlex.join(["speedrun", *arguments])
        if recording.code not in (0, 1):
            sys.exit(f"submit ended with exit code {recording.code}: no picture of that")
        recording.pieces = [
            (moment, text.replace(str(results), "results")) for moment, text in recording.pieces
        ]
        if asked.keep:  # to draw it again without running it again
            (asked.keep / "terminal.json").write_text(json.dumps(asdict(recording)))
        svg = draw(keyframes(recording), recording.command)
        target = asked.out / "terminal.svg"
        target.write_text(svg, encoding="utf-8", newline="\n")
        bundles = [path for path in results.iterdir() if path.is_dir()]
        bundle = max(bundles, key=lambda path: path.stat().st_mtime)
        photograph(bundle / "report.html", asked.out / "report.png")
    for name, limit in (("terminal.svg", TERMINAL_LIMIT_BYTES), ("report.png", REPORT_LIMIT_BYTES)):
        size = (asked.out / name).stat().st_size
        sys.stdout.write(f"{asked.out / name}: {size:,} bytes of {limit:,}\n")
        if size > limit:
            sys.exit(f"{name} is too large")


if __name__ == "__main__":
    main()
