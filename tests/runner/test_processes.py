"""Finding and ending the processes of a run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from harness.runner.processes import (
    MARKER,
    children,
    end,
    end_leftovers,
    end_run,
    family,
    marked,
    unwatch,
    watch,
)

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
DEAF = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); "
    "time.sleep(60)",
]
PARENT = [
    sys.executable,
    "-c",
    "import subprocess, sys, time\n"
    "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    "print(p.pid, flush=True); time.sleep(60)",
]
Started = subprocess.Popen[bytes]


class Starter:
    def __init__(self) -> None:
        self.all: list[Started] = []
        self.mark = f"test-processes/{os.getpid()}/{time.monotonic_ns()}"

    def start(
        self, command: list[str] = SLEEP, marker: str | None = None, session: bool = True
    ) -> tuple[Started, str]:
        """(process, its first line)."""
        environment = {key: value for key, value in os.environ.items() if key != MARKER}
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            env=environment if marker is None else {**environment, MARKER: marker},
            start_new_session=session,
        )
        self.all.append(process)
        watch(process.pid)
        assert process.stdout is not None
        return process, process.stdout.readline().decode().strip()


@pytest.fixture
def starter() -> Iterator[Starter]:
    starter = Starter()
    yield starter
    for process in starter.all:
        for child in marked(starter.mark, prefix=True):
            child.kill()
        process.kill()
        process.wait()
        unwatch(process.pid)
        assert process.stdout is not None
        process.stdout.close()


def pids(processes: list[psutil.Process]) -> set[int]:
    return {process.pid for process in processes}


def test_a_marker_is_found_by_its_whole_value_or_its_beginning(starter: Starter) -> None:
    one, _ = starter.start(marker=starter.mark + "/run-1")
    other, _ = starter.start(marker=starter.mark + "/run-10")
    starter.start()
    assert pids(marked(starter.mark + "/run-1")) == {one.pid}
    assert pids(marked(starter.mark + "/", prefix=True)) == {one.pid, other.pid}


def test_no_marker_marks_nobody(starter: Starter) -> None:
    """Every process of the machine has a marker that begins with nothing."""
    starter.start()
    assert marked("") == []
    assert marked("", prefix=True) == []
    assert end_leftovers("") == 0


def test_a_family_is_descendants_session_and_marked(starter: Starter) -> None:
    parent, child = starter.start(PARENT)
    stranger, _ = starter.start(marker=starter.mark)
    assert pids(family(parent.pid, "no such run")) == {parent.pid, int(child)}
    assert pids(family(parent.pid, starter.mark)) == {parent.pid, int(child), stranger.pid}
    # The session outlives its leader.
    parent.kill()
    parent.wait()
    assert pids(family(parent.pid, "no such run")) == {int(child)}
    assert end_run(parent.pid, "no such run", 2.0) == 0
    assert not psutil.pid_exists(int(child)) or (
        psutil.Process(int(child)).status() == psutil.STATUS_ZOMBIE
    )


def test_the_dead_are_not_of_the_family(starter: Starter) -> None:
    process, _ = starter.start(marker=starter.mark)
    process.kill()
    deadline = time.monotonic() + 5
    while family(process.pid, starter.mark) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert family(process.pid, starter.mark) == []


def test_sigterm_first_and_sigkill_for_who_ignores_it(starter: Starter) -> None:
    polite, _ = starter.start(marker=starter.mark)
    deaf, _ = starter.start(DEAF, marker=starter.mark)
    assert end(marked(starter.mark), 1.0) == 1
    assert (polite.wait(5), deaf.wait(5)) == (-15, -9)
    assert marked(starter.mark) == []


def test_a_run_that_is_over_takes_no_time_to_end(starter: Starter) -> None:
    begun = time.monotonic()
    assert end_run(2**22 + 5, starter.mark) == 0
    assert time.monotonic() - begun < 2


def test_leftovers_of_one_bundle_and_no_other(starter: Starter) -> None:
    ours, _ = starter.start(marker=starter.mark + "/a/run")
    other, _ = starter.start(marker=starter.mark + "/b/run")
    assert end_leftovers(starter.mark + "/a/") == 1
    assert ours.wait(5) == -15
    assert other.poll() is None


def test_our_children_are_never_adopted_ones(starter: Starter) -> None:
    before = children()
    watched, _ = starter.start()
    same_session, _ = starter.start(session=False)
    unwatch(same_session.pid)
    assert {watched.pid, same_session.pid} <= children()
    assert family(2**22 + 5, starter.mark, before) == []


def test_a_new_child_in_a_session_that_nobody_watches_is_the_runs(starter: Starter) -> None:
    before = children()
    adopted, _ = starter.start()
    unwatch(adopted.pid)
    assert pids(family(2**22 + 5, starter.mark, before)) == {adopted.pid}
    assert family(2**22 + 5, starter.mark, children()) == []
    assert family(2**22 + 5, starter.mark, None) == []
