"""The scoring child: what it answers, and every way it can fail to."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from harness.runner.processes import marked
from harness.runner.scorer_process import ScorerError, ScorerProcess

GOOD = """
import torch
SCORE_WINDOW = 64
class Scorer:
    def nll(self, tokens):
        print("a candidate may print what it likes")
        return tokens[1:].float() / 10
    def logprobs(self, tokens, positions):
        return torch.zeros(len(positions), 5) + tokens[positions][:, None]
def load_scorer(path, device):
    assert open(path, "rb").read() == b"weights" and device == "cpu"
    return Scorer()
if __name__ == "__main__":
    raise SystemExit("training must not start")
"""
TOKENS = np.arange(10, dtype=np.uint32)


def scorer(folder: Path, script: str, timeout_s: float = 60.0) -> ScorerProcess:
    (folder / "script.py").write_text(script)
    (folder / "weights.bin").write_bytes(b"weights")
    return ScorerProcess(
        sys.executable, folder, dict(os.environ), f"scorer-test-{folder}", folder / "err", timeout_s
    )


def load(process: ScorerProcess, folder: Path) -> None:
    process.load(folder / "script.py", folder / "weights.bin", "cpu")


def test_questions_and_answers(tmp_path: Path) -> None:
    with scorer(tmp_path, GOOD) as process:
        load(process, tmp_path)
        assert process.window == 64
        np.testing.assert_allclose(process.nll(TOKENS), np.arange(1, 10) / 10, rtol=1e-6)
        rows = process.logprobs(TOKENS, [0, 7])
        assert rows.shape == (2, 5)
        assert rows[1].tolist() == [7] * 5
        assert process.nll(TOKENS[:1]).shape == (0,)
        process.finish()
        assert [Path(path).name for path in process.opened] == ["weights.bin"]
    assert "a candidate may print" in (tmp_path / "err").read_text()
    assert not marked(f"scorer-test-{tmp_path}")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("tokens[1:].float() / 10", "tokens.float()"), "was asked for, came"),
        (("tokens[1:].float() / 10", "1 / 0"), "ZeroDivisionError"),
        (("tokens[1:].float() / 10", "'nonsense'"), "Error"),
        (
            ("        return tokens[1:].float() / 10", "        import os; os._exit(9)"),
            "exit code 9",
        ),
        (("return tokens[1:].float() / 10", "import time; time.sleep(60)"), "took too long"),
    ],
)
def test_bad_answers_are_errors(change: tuple[str, str], words: str, tmp_path: Path) -> None:
    text = GOOD.replace(*change)
    assert text != GOOD
    with scorer(tmp_path, text, timeout_s=8.0) as process:
        load(process, tmp_path)
        with pytest.raises(ScorerError, match=words):
            process.nll(TOKENS)
    assert not marked(f"scorer-test-{tmp_path}")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("raise SystemExit(4)", "SystemExit: 4"),
        ("def load_scorer(path, device): raise OSError('no weights')", "OSError: no weights"),
        ("x = 1", "AttributeError"),
        ("import os; os.write(3, b'{}'); os._exit(0)", "ended with exit code 0|no line of JSON"),
        ("import sys; sys.stdout.write('x' * 10**6); sys.stdout.flush(); raise OSError", "OSError"),
    ],
)
def test_a_script_that_cannot_be_loaded(script: str, words: str, tmp_path: Path) -> None:
    with scorer(tmp_path, script) as process, pytest.raises(ScorerError, match=words):
        load(process, tmp_path)


def test_a_child_of_the_scorer_is_ended_too(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n" + GOOD
    )
    with scorer(tmp_path, script) as process:
        load(process, tmp_path)
        assert len(marked(f"scorer-test-{tmp_path}")) == 2
    end = time.monotonic() + 5
    while marked(f"scorer-test-{tmp_path}") and time.monotonic() < end:
        time.sleep(0.05)
    assert not marked(f"scorer-test-{tmp_path}")


def test_no_interpreter(tmp_path: Path) -> None:
    with pytest.raises(ScorerError, match="cannot be started"):
        ScorerProcess("/no/python", tmp_path, {}, "m", tmp_path / "err", 5.0)
