"""Taking up a bundle: one writer, and nothing of a killed series left open or alive."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.bundle import BundlePaths
from harness.canonical import sha256_file
from harness.errors import UnfitError
from harness.ledger import Finished, Ledger, Lost, Planned, Started
from harness.recovery import hash_run_files, locked, mend_after_kill
from harness.runner.processes import MARKER, unwatch, watch
from harness.watcher import Silent
from tests.support.series import DIGEST, make_plan


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def paths(tmp_path: Path) -> BundlePaths:
    paths = BundlePaths(tmp_path)
    paths.runs.mkdir()
    return paths


def start(ledger: Ledger, run_id: str) -> None:
    ledger.append(
        Started, run_id=run_id, arm="candidate", pair=1, attempt=1, source_sha256=DIGEST,
        command=("python",), environment={},
    )  # fmt: skip


def test_one_writer_at_a_time(paths: BundlePaths) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from harness.bundle import BundlePaths; from harness.recovery import locked\n"
        "with locked(BundlePaths(Path(sys.argv[1]))): print('mine')"
    )
    command = [sys.executable, "-c", code, str(paths.root)]
    root = Path(__file__).resolve().parents[1]

    def other() -> str:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    with locked(paths):
        assert "another speedrun process is writing" in other()
        assert paths.lock.exists(), "who was turned away takes nothing with it"
    assert other() == "mine\n"
    assert not paths.lock.exists()


def test_the_lock_is_given_back_after_an_error(paths: BundlePaths) -> None:
    with pytest.raises(KeyboardInterrupt), locked(paths):
        raise KeyboardInterrupt
    assert not paths.lock.exists()
    with locked(paths):
        pass


def test_a_bundle_that_nobody_can_write_to(tmp_path: Path) -> None:
    with pytest.raises(UnfitError, match="cannot be written"), locked(BundlePaths(tmp_path / "no")):
        pass
    (tmp_path / ".lock").mkdir()
    with pytest.raises(UnfitError, match="cannot be written"), locked(BundlePaths(tmp_path)):
        pass


def test_an_open_run_is_lost_and_its_files_are_hashed(paths: BundlePaths) -> None:
    plan, ledger = make_plan(), Ledger.create(paths.ledger)
    ledger.append(Planned, plan_sha256=plan.sha256(), environment_sha256=DIGEST)
    start(ledger, "candidate-01")
    ledger.append(Finished, run_id="candidate-01", wall_s=1.0, exit_code=0, files={})
    start(ledger, "candidate-02")
    paths.log("candidate-02").write_text("half a lo")
    watcher = Notes()
    mend_after_kill(paths, plan, ledger, watcher)
    lost = ledger.events[-1]
    assert isinstance(lost, Lost)
    assert (lost.run_id, lost.files) == (
        "candidate-02", {"candidate-02.log": sha256_file(paths.log("candidate-02"))},
    )  # fmt: skip
    assert len(watcher.notes) == 1
    mend_after_kill(paths, plan, ledger, watcher)
    assert len(ledger.events) == 5, "once is enough"
    assert len(Ledger.open(paths.ledger).events) == 5


def test_processes_of_the_killed_series_are_ended_and_no_others(paths: BundlePaths) -> None:
    plan, ledger = make_plan(), Ledger.create(paths.ledger)
    prefix = plan.sha256()[:16]
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    ours, other = (
        subprocess.Popen(command, env={MARKER: f"{mark}/candidate-02"}, start_new_session=True)
        for mark in (prefix, prefix[::-1])
    )
    for process in (ours, other):
        watch(process.pid)
    try:
        watcher = Notes()
        mend_after_kill(paths, plan, ledger, watcher)
        assert ours.wait(5) == -15
        assert other.poll() is None
        assert "ended 1 process" in watcher.notes[0]
    finally:
        for process in (ours, other):
            process.kill()
            process.wait()
            unwatch(process.pid)


def test_files_of_a_run_are_its_own(paths: BundlePaths) -> None:
    for name in ("candidate-01.log", "candidate-01.times", "candidate-01-attempt2.log", "x.log"):
        (paths.runs / name).write_text(name)
    (paths.runs / "candidate-01.folder").mkdir()
    assert set(hash_run_files(paths, "candidate-01")) == {"candidate-01.log", "candidate-01.times"}
