"""Writing a report: all files, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UnfitError
from harness.report import write, write_report
from tests.report import cases

FILES = {
    "README.md",
    "report.html",
    "plots/loss_curves.svg",
    "plots/final_losses.svg",
    "plots/paired_times.svg",
}


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_writes_every_file_and_nothing_else(tmp_path: Path) -> None:
    written = write_report(cases.accepted(), tmp_path / "new" / "bundle")
    found = everything(tmp_path / "new" / "bundle")
    assert set(found) == FILES
    assert {str(path.relative_to(tmp_path / "new" / "bundle")) for path in written} == FILES
    for path in written:
        assert path.stat().st_mode & 0o777 == 0o644
        assert b"\r" not in path.read_bytes()


def test_the_same_verdict_gives_the_same_bytes(tmp_path: Path) -> None:
    write_report(cases.accepted(), tmp_path)
    first = everything(tmp_path)
    write_report(cases.accepted(), tmp_path)
    assert everything(tmp_path) == first


def test_a_bundle_is_called_by_its_own_name(tmp_path: Path) -> None:
    bundle = tmp_path / "2026-11-20_muon-tiny-2"
    bundle.mkdir()
    (bundle / "plan.json").write_text("{}")
    write_report(cases.accepted(), bundle)
    for name in ("README.md", "report.html"):
        text = (bundle / name).read_text(encoding="utf-8")
        assert "speedrun verify results/2026-11-20_muon-tiny-2\n" in text.replace("</code>", "\n")


def test_a_plot_without_data_any_more_is_removed_and_nothing_else(tmp_path: Path) -> None:
    write_report(cases.accepted(), tmp_path)
    (tmp_path / "plots" / "mine.svg").write_text("kept")
    write_report(cases.without_curves(), tmp_path)
    assert set(everything(tmp_path)) == FILES - {"plots/loss_curves.svg"} | {"plots/mine.svg"}


def test_a_full_disk_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(cases.accepted(), tmp_path)
    before = everything(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write.os, "fsync", full)
    with pytest.raises(UnfitError) as caught:
        write_report(cases.rule_broken(), tmp_path)
    assert caught.value.why == "No space left on device"
    assert caught.value.where == str(tmp_path)
    assert everything(tmp_path) == before


def test_a_folder_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("x")
    with pytest.raises(UnfitError, match="cannot be written"):
        write_report(cases.accepted(), tmp_path / "taken")
