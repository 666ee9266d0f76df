"""Launch one run: its own session, arrival-stamped output, limits, and a clean end.

The run is left alone: nothing is injected. Its stdout goes line by line into `<run>.log`, the
arrival of each line (seconds since launch, monotonic clock) into `<run>.times`, its stderr into
`<run>.err`.
"""

from __future__ import annotations

import contextlib
import errno
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

from harness.errors import UnfitError
from harness.runner.processes import MARKER, children, end_run, unwatch, watch

LINE_LIMIT_BYTES = 1 << 20
LOG_LIMIT_BYTES = 64 << 20
STDERR_LIMIT_BYTES = 4 << 20
STDERR_TAIL_LINES = 40
STDERR_TAIL_BYTES = 2000
"""What is kept of each of the last lines beyond the limit."""
TICK_S = 0.05

EndReason = Literal["exit", "timeout", "stall", "output", "disk", "stopped"]


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """One launch.

    command      argument list, never a shell string
    folder       working folder, thrown away afterwards
    environment  the whole environment of the process
    marker       value of SPEEDRUN_RUN, unique to this run
    log, times, stderr  where its output goes
    timeout_s    longest life of the process
    stall_s      longest silence on stdout
    """

    command: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str]
    marker: str
    log: Path
    times: Path
    stderr: Path
    timeout_s: float
    stall_s: float
    grace_s: float = 10.0


@dataclass(slots=True)
class LaunchOutcome:
    """How a launch ended.

    reason     "exit" when the process ended by itself, else what ended it
    exit_code  of the process, negative for a signal; None if it could not be ended
    leftover   processes that outlived the run or ignored SIGTERM and were killed
    """

    reason: EndReason
    exit_code: int | None
    wall_s: float
    leftover: int
    detail: str = ""


@dataclass(slots=True)
class _Pump:
    """Copies one stream to a file in its own thread; remembers what went wrong."""

    stream: IO[bytes]
    path: Path
    limit: int
    started: float
    times: Path | None = None
    on_line: Callable[[str], None] | None = None
    last_s: float = 0.0
    trouble: EndReason | None = None
    detail: str = ""
    thread: threading.Thread = field(init=False)

    def start(self) -> None:
        self.thread = threading.Thread(target=self._guarded, daemon=True)
        self.thread.start()

    def _guarded(self) -> None:
        try:
            self._copy()
        except OSError as error:
            self.trouble = "disk"
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            self.detail = "the disk is full" if full else f"{self.path.name}: {error.strerror}"
        except ValueError:
            pass  # the stream was closed under us after the run had been killed
        # Keep draining, so that a run that is being ended is not blocked on a full pipe.
        with contextlib.suppress(OSError, ValueError):
            while self.trouble and self.stream.read(1 << 16):
                pass

    def _copy(self) -> None:
        written = 0
        kept: deque[bytes] = deque(maxlen=STDERR_TAIL_LINES)
        stamps = self.times.open("w", encoding="ascii") if self.times else None
        try:
            with self.path.open("wb") as out:
                while line := self.stream.readline(LINE_LIMIT_BYTES):
                    self.last_s = time.monotonic() - self.started
                    written += len(line)
                    if written > self.limit or len(line) >= LINE_LIMIT_BYTES:
                        if stamps is None:
                            # stderr is a courtesy: cut, not an offence. Its end is kept: a
                            # traceback comes last.
                            kept.append(line[-STDERR_TAIL_BYTES:].rstrip(b"\n") + b"\n")
                            continue
                        self.trouble = "output"
                        self.detail = (
                            f"more than {self.limit >> 20} MiB of output"
                            if written > self.limit
                            else f"a line of more than {LINE_LIMIT_BYTES >> 20} MiB"
                        )
                        return
                    out.write(line if line.endswith(b"\n") else line + b"\n")
                    out.flush()
                    if stamps is not None:
                        stamps.write(f"{self.last_s:.6f}\n")
                        stamps.flush()
                    if self.on_line is not None:
                        self.on_line(line.decode("utf-8", errors="replace").rstrip("\r\n"))
                if kept:
                    out.write(b"[... cut ...]\n" + b"".join(kept))
        finally:
            if stamps is not None:
                stamps.close()


def launch(
    spec: LaunchSpec,
    on_line: Callable[[str], None] | None = None,
    stop: threading.Event | None = None,
) -> LaunchOutcome:
    """Run to the end, or to a limit, or until `stop` is set; nothing of it is alive afterwards.

    Raises UnfitError if the process cannot be started at all.
    """
    environment = {**spec.environment, MARKER: spec.marker}
    before = children()
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            spec.command,
            cwd=spec.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise UnfitError(
            "the run cannot be started",
            where=spec.command[0],
            why=str(error.strerror),
            fix="give a working interpreter with --python",
        ) from None
    watch(process.pid)
    assert process.stdout is not None
    assert process.stderr is not None
    out = _Pump(process.stdout, spec.log, LOG_LIMIT_BYTES, started, spec.times, on_line)
    err = _Pump(process.stderr, spec.stderr, STDERR_LIMIT_BYTES, started)
    out.start()
    err.start()
    try:
        reason = _wait(process, spec, out, started, stop)
        grace_s = spec.grace_s if reason != "exit" else 0.5
        leftover = end_run(process.pid, spec.marker, grace_s, before)
        exit_code = process.wait(timeout=10) if reason == "exit" else _collect(process)
    finally:
        # Also on an exception here (KeyboardInterrupt): leave no process behind.
        end_run(process.pid, spec.marker, 0.5, before)
        _collect(process)
        unwatch(process.pid)
        wall_s = time.monotonic() - started
        for pump in (out, err):
            pump.thread.join(timeout=5)
            with contextlib.suppress(OSError):
                pump.stream.close()
    if reason == "exit" and out.trouble:
        reason = out.trouble
    return LaunchOutcome(reason, exit_code, wall_s, leftover, out.detail)


def _wait(
    process: subprocess.Popen[bytes],
    spec: LaunchSpec,
    out: _Pump,
    started: float,
    stop: threading.Event | None,
) -> EndReason:
    while process.poll() is None:
        now = time.monotonic() - started
        if stop is not None and stop.is_set():
            return "stopped"
        if out.trouble:
            return out.trouble
        if now > spec.timeout_s:
            return "timeout"
        if now - out.last_s > spec.stall_s:
            return "stall"
        time.sleep(TICK_S)
    return "exit"


def _collect(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return None


def stderr_tail(path: Path, lines: int = 12) -> str:
    """The last lines of a run's stderr, for an error message."""
    try:
        with path.open("rb") as handle:
            handle.seek(0, 2)
            handle.seek(max(0, handle.tell() - 8192))
            text = handle.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
