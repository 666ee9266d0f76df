"""What is seen of a run from outside, whatever its processes do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.runner.observer import Observer
from harness.runner.processes import MARKER

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")


def watched(script: str, folder: Path, seconds: float = 1.0) -> Observer:
    """An observer that watched this script for its life."""
    marker = f"observer-{folder.name}-{time.monotonic_ns()}"
    observer = Observer(marker, lambda path: path.startswith(str(folder)))
    observer.start()
    process = subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, MARKER: marker}, cwd=folder
    )
    try:
        process.wait(timeout=20)
    finally:
        observer.stop()
        process.kill()
    return observer


def test_open_and_mapped_files_are_seen(tmp_path: Path) -> None:
    for name in ("held.bin", "mapped.bin"):
        (tmp_path / name).write_bytes(b"x" * 10_000)
    observer = watched(
        "import mmap, time\n"
        "held = open('held.bin', 'rb')\n"
        "file = open('mapped.bin', 'rb')\n"
        "mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ); file.close()\n"
        "import os; os.close(file.fileno()) if not file.closed else None\n"
        "time.sleep(1)\n",
        tmp_path,
    )
    seen = {Path(path).name: len(moments) for path, moments in observer.sightings.items()}
    assert seen["held.bin"] > 5
    assert seen["mapped.bin"] > 1
    assert not observer.problem


def test_a_child_that_clears_its_environment_and_session_is_family(tmp_path: Path) -> None:
    observer = watched(
        "import subprocess, sys, time\n"
        "code = 'import time\\nend = time.time() + 1\\nwhile time.time() < end: pass'\n"
        "child = subprocess.Popen([sys.executable, '-c', code], env={}, start_new_session=True)\n"
        "child.wait()\n",
        tmp_path,
    )
    root = min(observer.processes.values(), key=lambda p: p.first_s)
    children = [p for p in observer.processes.values() if p is not root]
    assert len(children) == 1
    assert children[0].parent == root.pid
    assert children[0].cpu_s > 0.3
    assert children[0].cpu_between(0, float("inf")) == pytest.approx(children[0].cpu_s, abs=0.3)
    assert root.cpu_s < children[0].cpu_s


def test_strangers_are_left_alone(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(5)"])
    try:
        observer = watched("import time; time.sleep(0.3)", tmp_path)
        assert other.pid not in observer.processes
        assert len(observer.processes) == 1
    finally:
        other.kill()
        other.wait()
