"""The sampler: a process of its own that writes a run's telemetry once a second.

It is nice'd, imports no torch, and ends when its standard input closes: on `stop()`, and also when
the harness is killed, so none is left behind. Its own processor time stands in its last line.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TextIO

from harness import host
from harness.gpu_processes import Ownership, listed_pids
from harness.nvml import Nvml, open_nvml
from harness.runner import processes
from harness.telemetry_file import HEADER, note_line, row_line

NICE = 10
START_S = 10.0  # without the persistence daemon the driver takes seconds to wake up
SETTLE_S = 2.0


class TelemetrySampler:
    """Samples while the `with` block runs. Never raises: a run without telemetry is still a run.

    path        the CSV; parent folder must exist
    interval_s  between samples
    root_pid    processes below this one are the run's own; default: this process
    problem     after the block: why the file is not whole, empty if it is
    """

    def __init__(self, path: Path, interval_s: float = 1.0, root_pid: int | None = None) -> None:
        self.path = path
        self.interval_s = interval_s
        self.root_pid = os.getpid() if root_pid is None else root_pid
        self.problem = ""
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> TelemetrySampler:
        package = Path(__file__).parents[2]
        search = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-m", "harness.runner.telemetry_process"]
        command += [str(self.path), str(self.interval_s), str(self.root_pid)]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": search},
                start_new_session=True,  # Ctrl-C is for the harness, which then stops this
            )
        except OSError as error:
            self.problem = f"the sampler cannot be started: {error}"
        else:
            processes.watch(self._process.pid)
            # The counters before the run must be read before the run.
            assert self._process.stdout is not None
            select.select([self._process.stdout], [], [], START_S)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is None:
            return
        try:
            _, complaint = self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            _, complaint = self._process.communicate()
            self.problem = "the sampler did not end when asked and was killed"
        finally:
            processes.unwatch(self._process.pid)
        if self._process.returncode != 0 and not self.problem:
            text = complaint.decode(errors="replace").strip() or "no reason given"
            self.problem = f"the sampler ended early: {text.splitlines()[-1][:200]}"


def sample(out: TextIO, interval_s: float, root_pid: int) -> None:
    """Write until standard input closes. Raises OSError when `out` cannot be written."""
    with open_nvml() as nvml:
        # Whatever is on the GPUs before the run has begun is not of the run.
        owner = Ownership(root_pid, before=frozenset(listed_pids(nvml)))
        _settle(nvml, owner)
        _write_note(out, "before", nvml, owner)
        out.write(HEADER + "\n")
        out.flush()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        due = time.monotonic()
        while True:
            _write_rows(out, nvml, owner)
            out.flush()
            due = max(due + interval_s, time.monotonic())
            if _asked_to_stop(due - time.monotonic()):
                break
        _write_note(out, "after", nvml, owner)
        out.flush()


def _settle(nvml: Nvml, owner: Ownership) -> None:
    """Contexts of the run before may still be on their way out: what leaves now is not foreign."""
    end = time.monotonic() + SETTLE_S
    while owner.foreign(listed_pids(nvml)) and time.monotonic() < end:
        time.sleep(0.1)


def _asked_to_stop(wait_s: float) -> bool:
    readable, _, _ = select.select([sys.stdin], [], [], max(0.0, wait_s))
    return bool(readable) and not os.read(sys.stdin.fileno(), 64)


def _write_note(out: TextIO, name: str, nvml: Nvml, owner: Ownership) -> None:
    busy_s, steal_s, total_s = host.cpu_times_s()
    state = {
        "load_1m": host.load_1m(),
        "busy_s": busy_s,
        "steal_s": steal_s,
        "total_s": total_s,
        "sampler_cpu_s": round(time.process_time(), 3),
    }
    foreign = len(owner.foreign(listed_pids(nvml)))
    out.write(note_line(name, state, [nvml.counters(gpu) for gpu in nvml.gpus], foreign))


def _write_rows(out: TextIO, nvml: Nvml, owner: Ownership) -> None:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    clock, load_1m, cpu_mhz = time.monotonic(), host.load_1m(), host.cpu_mhz()
    listed = {gpu.index: [p for p, _ in nvml.compute_processes(gpu)] for gpu in nvml.gpus}
    foreign = set(owner.foreign([pid for pids in listed.values() for pid in pids]))
    for gpu in nvml.gpus:
        here = sum(pid in foreign for pid in listed[gpu.index])
        out.write(row_line(now, clock, nvml.sample(gpu), here, load_1m, cpu_mhz))
    if not nvml.gpus:
        out.write(row_line(now, clock, None, 0, load_1m, cpu_mhz))


def main(arguments: list[str]) -> int:
    """`python -m harness.runner.telemetry_process FILE INTERVAL_S ROOT_PID`."""
    path, interval_s, root_pid = Path(arguments[0]), float(arguments[1]), int(arguments[2])
    with contextlib.suppress(OSError):
        os.nice(NICE)
    try:
        with path.open("w", encoding="utf-8", newline="\n") as out:
            sample(out, interval_s, root_pid)
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
