"""The pages under docs/ say what is so: commands as the help texts have them, links that lead."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.cli.main import app, main
from harness.command_reference import commands, parameters, render_reference

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *ROOT.glob("*.md")])
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
COMMANDS = dict(commands(app, "speedrun"))


def test_the_reference_is_what_the_help_texts_say() -> None:
    written = (DOCS / "commands.md").read_text(encoding="utf-8")
    assert written == render_reference(app), "speedrun docs --out docs/commands.md"


def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["docs", "--out", str(tmp_path / "commands.md")])
    assert not caught.value.code
    assert (tmp_path / "commands.md").read_text(encoding="utf-8") == render_reference(app)
    with pytest.raises(SystemExit):
        main(["docs"])
    assert render_reference(app) in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_a_section_is_what_help_prints(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every option and every word of the reference stands in `--help`, typer's layout aside."""
    with pytest.raises(SystemExit):
        main([*name.split()[1:], "--help"])
    out = " ".join(capsys.readouterr().out.split())
    for parameter in parameters(COMMANDS[name]):
        if parameter.is_option:
            for option in parameter.names:
                assert option in out, option
        first = parameter.meaning.split(" Default: ")[0].replace("\\|", "|")
        assert first
        assert squeezed(first) in squeezed(out), (name, parameter.names)
    text = (COMMANDS[name].__doc__ or "").split("\n\n")
    for paragraph in text:
        assert squeezed(paragraph) in squeezed(out), paragraph


def squeezed(text: str) -> str:
    """Without blanks: help is wrapped at the terminal's width, options even within words."""
    return "".join(text.split())


def test_every_option_of_every_command_is_in_the_reference() -> None:
    import typer

    def walk(command: object, path: str) -> None:
        for name, sub in getattr(command, "commands", {}).items():
            walk(sub, f"{path} {name}")
        if not getattr(command, "commands", None):
            names = {
                option for p in parameters(COMMANDS[path]) if p.is_option for option in p.names
            }
            given = {
                option
                for p in command.params  # type: ignore[attr-defined]
                if p.param_type_name == "option" and not p.hidden
                for option in (*p.opts, *p.secondary_opts)
            }
            assert given - {"--help", "-h"} == names, path

    walk(typer.main.get_command(app), "speedrun")


@pytest.mark.parametrize("name", NAMES)
def test_links_between_pages_lead_somewhere(name: str) -> None:
    page = ROOT / name
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target or target.startswith("#"):
            continue
        path = (page.parent / target.split("#")[0]).resolve()
        assert path.exists(), f"{name}: {target}"


@pytest.mark.parametrize("name", NAMES)
def test_commands_and_options_in_the_pages_exist(name: str) -> None:
    """`speedrun verb --option` in a code span or block: the verb and its options are there."""
    text = (ROOT / name).read_text(encoding="utf-8")
    code = re.findall(r"```\w*\n(.*?)```|`([^`\n]+)`", text, flags=re.DOTALL)
    lines = [line for block, span in code for line in (block or span).splitlines()]
    verbs = {path.split(" ", 1)[1] for path in COMMANDS}
    first = {verb.split()[0] for verb in verbs}
    for line in lines:
        for words in re.findall(r"\bspeedrun ((?:[a-z-]+ ?)*)([^\n#|;&`]*)", line):
            verb = words[0].split()
            if not verb or verb[0] not in first:
                assert not verb or not re.fullmatch(r"[a-z]+", verb[0]), f"{name}: {line}"
                continue
            full = next((v for v in (" ".join(verb[:2]), verb[0]) if v in verbs), None)
            if full is None:
                continue
            known = {o for p in parameters(COMMANDS[f"speedrun {full}"]) for o in p.names}
            for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", words[1]):
                assert option in known | {"--help"}, f"{name}: speedrun {full} {option}"


@pytest.mark.parametrize("name", NAMES)
def test_pages_name_no_machine(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.search(r"(?:^|[\s`(\"'])/(?:work|tmp|root|home)/", text)


PICTURES = {"terminal.svg": 150_000, "report.png": 300_000}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_light_and_self_contained(name: str) -> None:
    path = DOCS / "pictures" / name
    if not path.exists():
        pytest.skip(f"{name} is not made yet: python docs/make_pictures.py")
    data = path.read_bytes()
    assert 20_000 < len(data) <= PICTURES[name]
    if name.endswith(".svg"):
        text = data.decode("utf-8")
        assert not re.search(r"<script|@import|(?:href|src)=\"(?!#)", text)
        assert "url(http" not in text
        assert not re.search(r"/(?:work|tmp|root|home)/", text)
        for row in set(re.findall(r'href="#(r\d+)"', text)):
            assert f'id="{row}"' in text


def test_the_picture_of_a_terminal_shows_what_was_written() -> None:
    """A board that redraws itself, long lines, colours; the end is what stays on the screen."""
    import importlib.util
    import sys
    from xml.etree import ElementTree

    spec = importlib.util.spec_from_file_location("make_pictures", DOCS / "make_pictures.py")
    assert spec is not None
    assert spec.loader is not None
    pictures = importlib.util.module_from_spec(spec)
    sys.modules["make_pictures"] = pictures
    spec.loader.exec_module(pictures)
    for cut, kept in (("a\x1b[1;3", "a"), ("a\x1b", "a"), ("a\x1b[0m", "a\x1b[0m")):
        assert pictures.whole(cut.encode()) == kept
    assert pictures.whole("aé".encode()[:-1]) == "a"
    assert pictures.whole("a╭".encode()[:-2]) == "a"
    pieces = [(0.1, "first\r\n")]
    for i in range(60):
        redraw = "" if i == 0 else "\r\x1b[2K\x1b[1A\x1b[2K"
        pieces.append((0.2 + i, f"{redraw}board <{i}>\r\n\x1b[32mbar\x1b[0m"))
    long_line = "x" * (pictures.COLUMNS + 5)
    checks = "".join(f"  ok {i}\r\n" for i in range(35))
    pieces.append((61.0, f"\r\n\x1b[1;32mACCEPTED\x1b[0m & more\r\n{checks}{long_line}\r\n"))
    recording = pictures.Recording("speedrun submit", pieces)
    frames = pictures.keyframes(recording)
    assert len(frames) <= pictures.FRAMES + 2
    end = [pictures.plain(line) for line in frames[-1][1]]
    assert end[:4] == ["$ speedrun submit", "first", "board <59>", "bar"]
    assert end[-2:] == ["x" * pictures.COLUMNS, "x" * 5]
    assert not any("board <58>" in line for line in end)
    text = pictures.draw(frames, recording.command)
    root = ElementTree.fromstring(text)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    space = "{http://www.w3.org/2000/svg}"
    shown = [g for g in root.iter(f"{space}g") if (g.get("class") or "").startswith("f")]
    assert [g.get("class") for g in shown] == ["f h"] * (len(shown) - 1) + ["f"]
    rows = {g.get("id"): "".join(g.itertext()) for g in root.iter(f"{space}g") if g.get("id")}
    last = [rows[str(use.get("href"))[1:]] for use in shown[-1].iter(f"{space}use")]
    assert last[1].replace("\xa0", " ").startswith("ACCEPTED")
    assert last[-1] == "x" * 5
