"""What a killed process left is cleared, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from harness.throwaway import clear_abandoned, make_throwaway


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def gone() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def left(place: Path, name: str, hours: float) -> Path:
    folder = place / name
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "weights").write_bytes(b"x")
    then = time.time() - hours * 3600
    os.utime(folder, (then, then))
    return folder


def test_the_folder_of_a_dead_process_goes_after_hours(place: Path) -> None:
    dead = gone()
    old = left(place, f"speedrun-audit-{dead}-ab_c1", 7)
    kept = [
        left(place, f"speedrun-audit-{dead}-young", 5),  # another container's, perhaps
        left(place, f"speedrun-run-{os.getpid()}-mine", 70),  # its process lives
        left(place, "speedrun-audit-abc", 70),  # says not whose it is
        left(place, f"speedrun-notes-{dead}-x", 70),  # none of ours
        left(place, f"someone-speedrun-run-{dead}-x", 70),
    ]
    made = make_throwaway("run")
    assert not old.exists()
    assert all(folder.is_dir() for folder in kept)
    assert made.is_dir()
    assert made.name.startswith(f"speedrun-run-{os.getpid()}-")


def test_a_link_is_not_followed(place: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    target = left(tmp_path_factory.mktemp("precious"), "folder", 70)
    link = place / f"speedrun-run-{gone()}-link"
    link.symlink_to(target)
    os.utime(link, (0, 0), follow_symlinks=False)
    clear_abandoned()
    assert (target / "deep" / "weights").exists()


def test_a_temporary_folder_that_cannot_be_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    clear_abandoned()
    with pytest.raises(OSError):
        make_throwaway("run")
