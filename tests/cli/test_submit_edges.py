"""`speedrun submit` asked for what cannot be: one message, the right code, nothing on disk."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.plan import read_plan
from harness.submission import _cache_folder, _cache_state
from harness.tracks.track import load_track
from tests.support.contest import ROOT, Contest
from tests.support.series import SOURCES, fake_track, make_environment
from tests.support.tamper import Copy


@pytest.fixture
def here(contest: Contest, monkeypatch: pytest.MonkeyPatch) -> Contest:
    monkeypatch.chdir(contest.root)
    return contest


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["submit", *arguments])
    out, err = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, out, err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--target", "nan", "--exhibition"), 2, "--target"),
        (("--target", "inf", "--exhibition"), 2, "--target"),
        (("--timeout", "0"), 2, "--timeout"),
        (("--timeout", "-5"), 2, "--timeout"),
        (("--timeout", "nan"), 2, "--timeout"),
        (("--runs", "0"), 2, "prove nothing"),
        (("--runs", "0", "--plan", "fixed"), 2, "prove nothing"),
        (("--runs", "100000000"), 2, "more than a series may have"),
        (("--seed", "-1"), 2, "--seed"),
        (("--name", "///"), 2, "cannot name a bundle"),
        (("--out", "track.toml"), 4, "needs a folder"),
        (("--out", "track.toml/below"), 4, "needs a folder"),
        (("--track", "binary.toml"), 2, "not UTF-8"),
        (("--track", "folder.toml"), 2, "no track file"),
        (("--track", "bad.toml"), 2, "design.looks"),
        (("candidates",), 2, "no script at"),
        (("--baseline", "nowhere.py"), 2, "no script at nowhere.py"),
        (("--resume", "."), 2, "no bundle"),
        (("--resume", "results", "--dry-run"), 2, "--resume continues"),
    ],
)
def test_asked_for_what_cannot_be(
    here: Contest,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    (here.root / "binary.toml").write_bytes(b"\xff\xfe")
    (here.root / "folder.toml").mkdir()
    text = (here.root / "track.toml").read_text()
    (here.root / "bad.toml").write_text(text.replace("looks = [5, 10, 15, 20]", "looks = []"))
    rules = () if "--track" in arguments or "--resume" in arguments else ("--track", "track.toml")
    found, out, err = run(capsys, *rules, *arguments)
    assert (found, out) == (code, ""), err
    assert words in err
    assert f"exit code {code}" in err
    assert not (here.root / "results").exists()


def test_a_folder_that_is_yet_to_be_made(here: Contest, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--track", "track.toml", "--out", "a/b/c", "--dry-run", "--json")
    assert code == 0, err
    assert json.loads(out)["track"] == "fake"
    assert not (here.root / "a").exists(), "a dry run makes nothing"


def test_a_plan_with_and_without_a_warm_up_pair(
    here: Contest, capsys: pytest.CaptureFixture[str]
) -> None:
    dry = ("--track", "track.toml", "--seed", "7", "--dry-run", "--json")
    plans = {}
    for option, words in ((), "12 to 42 runs"), (("--no-warm-up",), "10 to 40 runs"):
        code, out, err = run(capsys, *dry, *option)
        assert code == 0, err
        assert words in err
        plans[option] = read_plan(out, "stdout")
    usual, without = plans.values()
    assert (usual.warm_up_runs, without.warm_up_runs) == (2, 0)
    assert without.pairs == usual.pairs[1:], "the counted pairs are the same ones"
    assert [pair.index for pair in without.pairs] == list(range(1, 21))
    assert all(pair.counts for pair in without.pairs)


def test_without_a_warm_up_pair_the_caches_must_be_warm(
    here: Contest, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU's track: both scripts were compiled here, under this torch."""
    state = "cold"
    monkeypatch.setattr("harness.submission._cache_state", lambda *_: state)
    arguments = ("--track", "track.toml", "--dry-run", "--json")
    code, out, err = run(capsys, *arguments, "--no-warm-up")
    assert (code, out) == (4, ""), err
    assert "needs warm compile caches" in err
    assert "leave out --no-warm-up" in err
    assert not (here.root / "results").exists()
    assert run(capsys, *arguments)[0] == 0
    state = "warm"
    code, out, err = run(capsys, *arguments, "--no-warm-up")
    assert code == 0, err
    assert read_plan(out, "stdout").launch.compile_caches == "warm"


def test_caches_are_warm_when_both_scripts_were_compiled() -> None:
    track, environment = load_track("small"), make_environment(["NVIDIA H100 80GB HBM3"])
    assert _cache_state(fake_track(), SOURCES, environment) == "unused"
    for source in SOURCES.values():
        assert _cache_state(track, SOURCES, environment) == "cold"
        _cache_folder(source.sha256(), environment).mkdir(parents=True)
    assert _cache_state(track, SOURCES, environment) == "warm"
    later = environment.interpreter.model_copy(update={"torch": "2.99.0"})
    newer = environment.model_copy(update={"interpreter": later})
    assert _cache_state(track, SOURCES, newer) == "cold"


@pytest.mark.parametrize("name", ["ledger.jsonl", "plan.json", "environment.json", "track.toml"])
def test_resume_of_a_bundle_with_a_file_missing(
    accepted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    copy = Copy(accepted, tmp_path)
    copy.path(name).unlink()
    code, _, err = run(capsys, "--resume", str(copy.root))
    assert code == 3
    assert name in err
    assert not (copy.root / ".lock").exists()


def test_resume_of_a_torn_ledger_mends_it(
    accepted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Copy(accepted, tmp_path)
    whole = copy.text("ledger.jsonl")
    copy.write("ledger.jsonl", whole + '{"event":"interr')
    code, _, err = run(capsys, "--resume", str(copy.root))
    assert code == 0, err
    assert copy.text("ledger.jsonl") == whole


def test_ctrl_c_before_anything_has_run_is_130_and_no_traceback(here: Contest) -> None:
    """While shards are hashed, say: there is no bundle yet, and nothing to resume."""
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        cwd=here.root,
        env={**here.environment(), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "Traceback" not in err


INTERRUPTED = """
import time
import harness.submission
from harness.cli.main import main
def slow(*_):
    print("waiting", flush=True)
    time.sleep(60)
harness.submission.hash_data = slow
main(["submit", "--track", "track.toml"])
"""
