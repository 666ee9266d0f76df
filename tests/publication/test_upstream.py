"""A bundle laid out as the field's repository expects: read back by the field's own reader."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.errors import EvidenceError, UnfitError, UsageError
from harness.publication import upstream
from harness.publication.proof import prove
from harness.record_folder import read_record_folder, summarise
from harness.report import write
from tests.support import bundles


@pytest.fixture
def laid_out(accepted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(upstream.FOLDERS, "fake", "track_1_short")
    return upstream.lay_out(prove(accepted), tmp_path / "clone")


def test_the_folder_and_its_logs(accepted: Path, laid_out: Path, tmp_path: Path) -> None:
    proof = prove(accepted)
    day = proof.verdict.created_utc[:10]
    assert laid_out == tmp_path / "clone" / "records" / "track_1_short" / f"{day}_Fake"
    names = {path.relative_to(laid_out).as_posix() for path in laid_out.rglob("*.txt")}
    counted = {f"candidate-{i:02d}.txt" for i in range(1, 6)}
    counted |= {f"baseline/baseline-{i:02d}.txt" for i in range(1, 6)}
    warm = {f"failed_or_warmup/{arm}-00.txt" for arm in ("candidate", "baseline")}
    assert names == counted | warm
    script = (accepted / "source/candidate/fake.py").read_text(encoding="utf-8")
    log = (laid_out / "candidate-01.txt").read_text(encoding="utf-8")
    source, environment, printed = log.split("\n" + "=" * 100 + "\n")
    assert source == script.rstrip("\n")
    assert environment.startswith("Running Python 3.")
    assert printed == (accepted / "runs/candidate-01.log").read_text(encoding="utf-8")


def test_the_fields_reader_finds_the_same_figures(accepted: Path, laid_out: Path) -> None:
    verdict = prove(accepted).verdict
    summary = summarise(read_record_folder(laid_out), 3.28)
    arms = {arm.role: arm for arm in summary.arms}
    for role, ours in (("candidate", verdict.candidate), ("baseline", verdict.baseline)):
        arm = arms[role]
        assert arm.n == ours.n == 5
        assert arm.mean_loss_nats == pytest.approx(ours.loss_mean, abs=1e-9)
        assert arm.mean_time_s * 1000 == pytest.approx(ours.time_mean_ms, abs=1e-6)
        assert arm.p == pytest.approx(ours.loss_p, rel=1e-6)
    (primary,) = [c for c in summary.comparisons if c.primary]
    assert primary.welch.p == pytest.approx(verdict.timing.welch_p, rel=1e-6)


def test_text_only_and_nothing_executable(laid_out: Path) -> None:
    for path in laid_out.rglob("*"):
        if path.is_file():
            assert path.suffix in (".txt", ".md")
            assert not path.stat().st_mode & 0o111
            path.read_text(encoding="utf-8")
    readme = (laid_out / "README.md").read_text(encoding="utf-8")
    assert "![" not in readme
    assert "`failed_or_warmup/candidate-00.txt`: finished, warm-up" in readme


def test_it_is_the_same_each_time(accepted: Path, laid_out: Path, tmp_path: Path) -> None:
    again = upstream.lay_out(prove(accepted), tmp_path / "again")
    for path in laid_out.rglob("*"):
        if path.is_file():
            assert (again / path.relative_to(laid_out)).read_bytes() == path.read_bytes()


def test_refusals(
    accepted: Path, laid_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof = prove(accepted)
    with pytest.raises(UsageError, match="there already"):
        upstream.lay_out(proof, tmp_path / "clone")
    (tmp_path / "results").mkdir()
    show = bundles.exhibition(accepted, tmp_path / "results", "2026-11-20_show")
    with pytest.raises(EvidenceError, match="exhibition"):
        upstream.lay_out(prove(show), tmp_path / "third")
    monkeypatch.delitem(upstream.FOLDERS, "fake")
    with pytest.raises(UsageError, match="no place in the upstream"):
        upstream.lay_out(proof, tmp_path / "fourth")


def test_a_full_disk_leaves_nothing(
    accepted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(upstream.FOLDERS, "fake", "track_1_short")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write.os, "fsync", full)
    with pytest.raises(UnfitError, match="cannot be written"):
        upstream.lay_out(prove(accepted), tmp_path / "clone")
    assert not [path for path in (tmp_path / "clone").rglob("*") if path.is_file()]
    assert os.listdir(tmp_path / "clone/records/track_1_short") == []  # noqa: PTH208


def test_as_a_command(
    accepted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setitem(upstream.FOLDERS, "fake", "track_1_short")
    with pytest.raises(SystemExit) as caught:
        main(["pr", str(accepted), "--upstream", str(tmp_path / "clone")])
    assert not caught.value.code
    out, err = capsys.readouterr()
    assert out == ""
    assert "speedrun verify" in err
    with pytest.raises(SystemExit) as caught:
        main(["pr", str(accepted), "--upstream", str(tmp_path / "x"), "--push"])
    assert caught.value.code == 2
