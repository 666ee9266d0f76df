"""`speedrun check` as a person, a program and a pull request meet it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cli.main import main
from tests.support.scripts import HONEST, honest_with

CHEAT = honest_with("import torch._inductor.config as c\nc.max_autotune = True")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of `speedrun check …`."""
    with pytest.raises(SystemExit) as ended:
        main(["check", *map(str, arguments)])
    said = capsys.readouterr()
    code = ended.value.code
    return code if isinstance(code, int) else 0 if code is None else 1, said.out, said.err


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(HONEST, encoding="utf-8")
    return path


def cheating(script: Path, text: str = CHEAT) -> Path:
    script.write_text(text, encoding="utf-8")
    return script


def test_clean(capsys: pytest.CaptureFixture[str], script: Path) -> None:
    code, out, err = run(capsys, script)
    assert (code, out) == (0, "")
    assert "0 broken, 0 to be looked at" in err
    assert "strong checks not available" in err
    assert "against" in err


def test_broken_rule_is_said_with_place_and_remedy(
    capsys: pytest.CaptureFixture[str], script: Path
) -> None:
    code, out, err = run(capsys, cheating(script))
    line = CHEAT.splitlines().index("c.max_autotune = True") + 1
    assert (code, out) == (3, "")
    assert f"✗ {script}:{line}: torch._inductor.config.max_autotune is set to True" in err
    assert "fix: remove the setting" in err
    assert "1 broken" in err


def test_annotations(capsys: pytest.CaptureFixture[str], script: Path) -> None:
    code, out, _ = run(capsys, cheating(script), "--format", "github")
    assert code == 3
    error, notice = out.splitlines()
    line = CHEAT.splitlines().index("c.max_autotune = True") + 1
    assert error.startswith(
        f"::error file={script},line={line},col=1,title=speedrun compile-config::torch._inductor"
    )
    assert notice.startswith("::notice file=")


def test_json(capsys: pytest.CaptureFixture[str], script: Path) -> None:
    code, out, _ = run(capsys, cheating(script), "--json", "--track", "small")
    document = json.loads(out)
    assert code == document["exit_code"] == 3
    assert document["track"] == "small"
    assert document["findings"][0]["rule"] == "compile-config"
    assert document["code"]["lines_added"] > 0


def test_escape_codes_and_commands_in_names_are_shown(
    capsys: pytest.CaptureFixture[str], script: Path
) -> None:
    text = honest_with(
        'os.environ["TORCHINDUCTOR_\\x1b[2J\\n::error file=x::pwned%0A"] = "\\x1b[31m"'
    )
    _, out, err = run(capsys, cheating(script, text))
    assert "\x1b" not in err
    assert "\\x1b[2J" in err
    _, out, _ = run(capsys, script, "--format", "github")
    assert "\x1b" not in out
    assert all(line.startswith(("::error file=", "::notice file=")) for line in out.splitlines())
    assert "%250A" in out


def test_hostile_file_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "a,line=1::b\x1b[2J%.py"
    path.write_text(CHEAT, encoding="utf-8")
    _, out, err = run(capsys, path, "--format", "github")
    assert "\x1b" not in out + err
    assert "a%2Cline=1%3A%3Ab" in out


@pytest.mark.parametrize(
    "arguments",
    [("absent.py",), ("--format", "xml"), ("--track", "absent"), ("--baseline", "absent.py"), ()],
)
def test_usage_errors(
    capsys: pytest.CaptureFixture[str], script: Path, arguments: tuple[str, ...]
) -> None:
    given = arguments if arguments == ("absent.py",) else (script, *arguments)
    code, out, _ = run(capsys, *(given if arguments else ("--no-such-option",)))
    assert (code, out) == (2, "")


def test_no_python_is_annotated(capsys: pytest.CaptureFixture[str], script: Path) -> None:
    code, out, _ = run(capsys, cheating(script, "x = 1\ndef f(:\n"), "--format", "github")
    assert code == 3
    assert out.startswith(f"::error file={script},line=2,title=speedrun syntax::")


def test_huge_line_is_not_repeated(capsys: pytest.CaptureFixture[str], script: Path) -> None:
    text = honest_with(f'os.environ["TORCHINDUCTOR_{"A" * 1_000_000}"] = "{"b" * 1_000_000}"')
    code, _, err = run(capsys, cheating(script, text))
    assert code == 3
    assert len(err) < 3000
