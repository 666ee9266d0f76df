"""One launch, and every way it can end: nothing of it is alive afterwards."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.errors import UnfitError
from harness.runner import launch as launch_module
from harness.runner.launch import LaunchOutcome, LaunchSpec, launch, stderr_tail
from harness.runner.processes import PR_SET_CHILD_SUBREAPER, adopt_orphans

LIMITS: dict[str, Any] = {"timeout_s": 20.0, "stall_s": 20.0, "grace_s": 0.5}


@pytest.fixture
def subreaper() -> Iterator[None]:
    """As `submit` does, for the length of one test."""
    adopt_orphans()
    yield
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


class Bench:
    """A folder to launch small programs in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = f"test-launch/{os.getpid()}/{folder.name}"
        self.lines: list[str] = []

    def run(self, code: str, stop: threading.Event | None = None, **spec: Any) -> LaunchOutcome:
        (self.folder / "main.py").write_text(textwrap.dedent(code))
        fields = {
            "command": (sys.executable, "-u", "main.py"),
            "folder": self.folder,
            # Python takes its time to look for a home; the bench has none.
            "environment": {"PATH": os.environ["PATH"], "BENCH": self.mark},
            "marker": self.mark,
            "log": self.folder / "run.log",
            "times": self.folder / "run.times",
            "stderr": self.folder / "run.err",
            **LIMITS,
            **spec,
        }
        return launch(LaunchSpec(**fields), self.lines.append, stop)

    @property
    def log(self) -> str:
        return (self.folder / "run.log").read_text()

    @property
    def times(self) -> list[float]:
        return [float(line) for line in (self.folder / "run.times").read_text().split()]

    def pid(self, name: str) -> int:
        return int((self.folder / name).read_text())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# -- what is written -----------------------------------------------------------------------------


def test_output_arrival_times_and_exit_code(bench: Bench) -> None:
    outcome = bench.run(
        """
        import sys, time
        for i in range(5):
            print("line", i)
            time.sleep(0.05)
        print("to stderr", file=sys.stderr)
        sys.stdout.write("no newline at the end")
        sys.exit(7)
        """
    )
    assert (outcome.reason, outcome.exit_code, outcome.leftover) == ("exit", 7, 0)
    assert bench.log == "".join(f"line {i}\n" for i in range(5)) + "no newline at the end\n"
    assert bench.lines == bench.log.splitlines()
    assert (bench.folder / "run.err").read_text() == "to stderr\n"
    times = bench.times
    assert len(times) == 6
    assert times == sorted(times)
    assert times[0] > 0
    assert times[-1] <= outcome.wall_s
    # Stamped on arrival, not when the pipe was emptied.
    assert all(b - a > 0.03 for a, b in pairwise(times[:5]))


def test_a_run_that_prints_nothing(bench: Bench) -> None:
    assert bench.run("pass").reason == "exit"
    assert (bench.log, bench.times) == ("", [])


def test_bytes_that_are_no_text_are_kept_as_they_are(bench: Bench) -> None:
    bench.run("import sys; sys.stdout.buffer.write(b'a\\xff\\x00b\\r\\n\\x1b[1mc\\n')")
    assert (bench.folder / "run.log").read_bytes() == b"a\xff\x00b\r\n\x1b[1mc\n"
    assert bench.lines == ["a\ufffd\x00b", "\x1b[1mc"]


def test_the_run_gets_its_environment_its_folder_and_no_input(bench: Bench) -> None:
    bench.run(
        """
        import os, sys
        print(sorted(k for k in os.environ if k != "LC_CTYPE"))
        print(os.getcwd() == os.path.dirname(os.path.abspath(__file__)))
        print(repr(sys.stdin.read()), os.getsid(0) == os.getpid())
        """
    )
    assert bench.lines == ["['BENCH', 'PATH', 'SPEEDRUN_RUN']", "True", "'' True"]


def test_a_program_that_cannot_be_started(bench: Bench) -> None:
    for command in (("/nonexistent/python",), (str(bench.folder),)):
        with pytest.raises(UnfitError) as caught:
            bench.run("", command=command)
        assert caught.value.where == command[0]
        assert "--python" in caught.value.fix


# -- limits --------------------------------------------------------------------------------------


def test_time_out_ends_a_run_that_ignores_sigterm(bench: Bench) -> None:
    outcome = bench.run(
        """
        import os, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open("pid", "w").write(str(os.getpid()))
        while True:
            print("still here")
            time.sleep(0.05)
        """,
        timeout_s=1.0,
    )
    assert (outcome.reason, outcome.exit_code) == ("timeout", -signal.SIGKILL)
    assert outcome.leftover == 1
    assert outcome.wall_s < 8
    assert not alive(bench.pid("pid"))
    assert len(bench.times) == len(bench.lines) > 3


def test_silence_ends_a_run_and_talk_does_not(bench: Bench) -> None:
    outcome = bench.run("import time; print('one'); time.sleep(60)", stall_s=0.7)
    assert outcome.reason == "stall"
    assert bench.log == "one\n"
    talk = "import time\nfor i in range(8): print(i); time.sleep(0.1)"
    assert bench.run(talk, stall_s=0.7).reason == "exit"


def test_a_stop_ends_the_run_and_keeps_what_it_said(bench: Bench) -> None:
    stop = threading.Event()
    threading.Timer(0.6, stop.set).start()
    outcome = bench.run("import time; print('begun'); time.sleep(60)", stop)
    assert (outcome.reason, outcome.exit_code) == ("stopped", -signal.SIGTERM)
    assert outcome.wall_s < 6
    assert bench.log == "begun\n"


def test_sigterm_is_tried_first(bench: Bench) -> None:
    outcome = bench.run(
        """
        import signal, sys, time
        def last_words(*_):
            print("saved")
            sys.exit(0)
        signal.signal(signal.SIGTERM, last_words)
        print("begun")
        time.sleep(60)
        """,
        timeout_s=1.0,
        grace_s=5.0,
    )
    assert outcome.reason == "timeout"
    assert outcome.leftover == 0
    assert bench.log == "begun\nsaved\n"


def test_a_signal_is_an_exit_code(bench: Bench) -> None:
    outcome = bench.run("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert (outcome.reason, outcome.exit_code) == ("exit", -signal.SIGSEGV)


def test_too_much_output_ends_the_run(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_module, "LOG_LIMIT_BYTES", 1 << 20)
    outcome = bench.run("while True: print('x' * 1000)")
    assert outcome.reason == "output"
    assert "more than 1 MiB" in outcome.detail
    assert (bench.folder / "run.log").stat().st_size <= 1 << 20


def test_a_line_without_end_ends_the_run(bench: Bench) -> None:
    outcome = bench.run("import sys\nwhile True: sys.stdout.write('x' * 65536)")
    assert outcome.reason == "output"
    assert "line" in outcome.detail
    assert bench.log == ""


def test_stderr_is_cut_in_the_middle_and_its_end_is_kept(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_module, "STDERR_LIMIT_BYTES", 100_000)
    outcome = bench.run(
        """
        import sys
        for i in range(5000):
            print("warning", i, "x" * 90, file=sys.stderr)
        print("y" * 3_000_000, file=sys.stderr)
        raise RuntimeError("the reason")
        """
    )
    assert (outcome.reason, outcome.exit_code) == ("exit", 1)
    path = bench.folder / "run.err"
    assert 100_000 * 0.9 < path.stat().st_size < 200_000
    text = path.read_text()
    assert text.startswith("warning 0 ")
    assert "[... cut ...]" in text
    assert stderr_tail(path).endswith("RuntimeError: the reason")


# -- disks ---------------------------------------------------------------------------------------

FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
@pytest.mark.parametrize("which", ["log", "times"])
def test_a_full_disk_ends_the_run_with_its_reason(bench: Bench, which: str) -> None:
    outcome = bench.run(
        "import time\nwhile True: print('x' * 5000); time.sleep(0.01)", **{which: FULL}
    )
    assert (outcome.reason, outcome.detail) == ("disk", "the disk is full")
    assert outcome.wall_s < 8


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
def test_a_full_disk_is_told_of_a_run_that_ends_by_itself(bench: Bench) -> None:
    assert bench.run("print('one line')", log=FULL).reason == "disk"


def test_a_log_that_cannot_be_opened(bench: Bench) -> None:
    outcome = bench.run("while True: print('x')", log=bench.folder / "none" / "run.log")
    assert outcome.reason == "disk"
    assert "run.log" in outcome.detail


def test_stderr_that_cannot_be_written_is_no_reason_to_stop(bench: Bench) -> None:
    code = "import sys\nfor _ in range(20000): print('e' * 50, file=sys.stderr)\nprint('done')"
    outcome = bench.run(code, stderr=bench.folder / "none" / "run.err")
    assert (outcome.reason, outcome.exit_code) == ("exit", 0)
    assert bench.log == "done\n"


# -- those who try to get away -------------------------------------------------------------------


def test_a_run_that_closes_its_output_is_waited_for(bench: Bench) -> None:
    outcome = bench.run(
        """
        import os, time
        print("last line")
        os.close(1), os.close(2)
        time.sleep(0.8)
        os._exit(5)
        """
    )
    assert (outcome.reason, outcome.exit_code) == ("exit", 5)
    assert outcome.wall_s > 0.8
    assert bench.log == "last line\n"


def test_a_run_that_closes_its_output_and_lives_on_is_ended(bench: Bench) -> None:
    code = "import os, time; os.close(1); os.close(2); time.sleep(60)"
    outcome = bench.run(code, stall_s=0.5)
    assert outcome.reason == "stall"
    assert outcome.wall_s < 8


def test_a_child_that_holds_the_pipe_open_does_not_hold_us(bench: Bench) -> None:
    (bench.folder / "deaf.py").write_text(
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "open('c', 'w').write(str(os.getpid()))\n"
        "os.rename('c', 'child')\n"
        "time.sleep(60)\n"
    )
    outcome = bench.run(
        """
        import os, subprocess, sys, time
        subprocess.Popen([sys.executable, "deaf.py"], start_new_session=True)
        while not os.path.exists("child"):
            time.sleep(0.02)
        print("parent is done")
        """
    )
    assert (outcome.reason, outcome.exit_code) == ("exit", 0)
    assert outcome.leftover == 1
    assert outcome.wall_s < 10
    assert not alive(bench.pid("child"))


DAEMON = """
import os, sys, time
if os.fork() == 0:
    {setsid}
    if os.fork() == 0:
        # Nothing of the run is left in what can be seen of this process.
        code = "import os, time; open('daemon', 'w').write(str(os.getpid())); time.sleep(60)"
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.execve(sys.executable, [sys.executable, "-c", code], {{}})
    os._exit(0)
deadline = time.time() + 10
while not os.path.exists("daemon") and time.time() < deadline:
    time.sleep(0.02)
time.sleep(0.1)
print("done")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux only")
@pytest.mark.usefixtures("subreaper")
@pytest.mark.parametrize("setsid", ["os.setsid()", "pass"])
def test_a_double_fork_with_a_cleaned_environment_is_ended(bench: Bench, setsid: str) -> None:
    outcome = bench.run(DAEMON.format(setsid=setsid))
    assert outcome.reason == "exit"
    assert bench.lines == ["done"]
    assert not alive(bench.pid("daemon"))


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux only")
@pytest.mark.usefixtures("subreaper")
def test_processes_of_our_own_are_left_alone(bench: Bench) -> None:
    """Started before or during the run, in our session or not before: none is the run's."""
    mine = [psutil.Popen(["sleep", "60"]), psutil.Popen(["sleep", "60"], start_new_session=True)]
    late: list[psutil.Popen] = []
    timer = threading.Timer(0.3, lambda: late.append(psutil.Popen(["sleep", "60"])))
    timer.start()
    try:
        bench.run("import time; time.sleep(0.8)")
        assert len(late) == 1
        assert all(process.poll() is None for process in [*mine, *late])
    finally:
        for process in [*mine, *late]:
            process.kill()
            process.wait()


def test_an_interrupt_leaves_no_process_behind(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> str:
        deadline = time.monotonic() + 10
        while not (bench.folder / "pid").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        raise KeyboardInterrupt

    monkeypatch.setattr(launch_module, "_wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench.run(
            "import os, time; open('p', 'w').write(str(os.getpid())); os.rename('p', 'pid'); "
            "time.sleep(60)"
        )
    assert not alive(bench.pid("pid"))


def test_no_thread_is_left(bench: Bench) -> None:
    before = threading.active_count()
    bench.run("print(1)")
    bench.run("import time; time.sleep(60)", timeout_s=0.3)
    assert threading.active_count() == before


def test_tail_of_stderr(tmp_path: Path) -> None:
    path = tmp_path / "err"
    assert stderr_tail(path) == ""
    path.write_text("\n".join(f"line {i}" for i in range(5000)))
    assert stderr_tail(path, 2) == "line 4998\nline 4999"
    path.write_bytes(b"\xff\xfe broken")
    assert "broken" in stderr_tail(path)
