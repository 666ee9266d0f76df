"""Verdict and report are written whole or not at all, and shown as they are."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.bundle import BundlePaths, read_bundle
from harness.errors import UnfitError
from harness.publish import bundle_digest, publish, show_verdict, write_verdict
from harness.terminal import Terminal
from harness.verdict import judge
from tests.support.tamper import Copy


@pytest.fixture
def copy(accepted: Path, tmp_path: Path) -> Copy:
    return Copy(accepted, tmp_path)


def test_writing_again_changes_nothing(copy: Copy) -> None:
    before = {path: path.read_bytes() for path in copy.root.rglob("*") if path.is_file()}
    write_verdict(BundlePaths(copy.root))
    after = {path: path.read_bytes() for path in copy.root.rglob("*") if path.is_file()}
    assert after == before


def test_a_verdict_that_cannot_be_written_leaves_the_old_one(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = copy.text("verdict.json")
    monkeypatch.setattr("harness.publish.replace_file", full)
    with pytest.raises(UnfitError, match="verdict cannot be written") as caught:
        write_verdict(BundlePaths(copy.root))
    assert "No space left" in caught.value.why
    assert copy.text("verdict.json") == before
    assert not list(copy.root.glob(".verdict*"))


def test_what_is_said_and_where(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(copy.root / "plots", ignore_errors=True)
    verdict = publish(BundlePaths(copy.root), Terminal(), as_json=False)
    out, err = capsys.readouterr()
    assert out == ""
    assert "ACCEPTED" in err
    assert bundle_digest(verdict) in err
    assert f"speedrun verify {copy.root}" in err
    assert (copy.root / "report.html").is_file()


def test_the_digest_moves_with_everything_it_vouches_for(accepted: Path) -> None:
    verdict = judge(read_bundle(accepted))
    digests = {
        bundle_digest(verdict.model_copy(update=change))
        for change in (
            {},
            {"plan_sha256": "0" * 64},
            {"ledger_sha256": "0" * 64},
            {"headline": "another"},
        )
    }
    assert len(digests) == 4


def test_a_failing_verdict_shows_what_where_and_what_to_do(
    copy: Copy, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(1, 6):
        copy.write(f"runs/candidate-0{i}.log", "\x1b[2Jgone\n")
        copy.write(f"runs/baseline-0{i}.log", "[/red]gone\n")
    show_verdict(copy.judge(), Terminal())
    _, err = capsys.readouterr()
    assert "RULE BROKEN" in err
    assert "✗ evidence" in err
    assert "runs/candidate-01.log" in err
    assert "more" in err
    assert "→ restore the bundle" in err
    assert "\x1b" not in err
