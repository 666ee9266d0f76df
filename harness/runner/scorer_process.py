"""The other end of the scoring child's pipe: ask for scores, within a time limit."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from harness.runner.processes import MARKER, children, end_run, unwatch, watch

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Tokens = npt.NDArray[np.uint32]

PROGRAM = Path(__file__).with_name("scorer_program.py")
LINE_LIMIT = 1 << 20
ANSWER_LIMIT_BYTES = 1 << 30


class ScorerError(Exception):
    """The scorer raised, answered nonsense, or took too long."""


class ScorerProcess:
    """A candidate's scorer in a child of its own; nothing of it is alive after `close`."""

    def __init__(
        self,
        python: str,
        folder: Path,
        environment: Mapping[str, str],
        marker: str,
        stderr: Path,
        timeout_s: float,
        wrap: Callable[[Sequence[str]], Sequence[str]] = list,
    ) -> None:
        """folder: working folder; timeout_s: for everything that is asked, together; wrap: what
        makes of the command the one that is started."""
        self.window: int | None = None
        self.opened: tuple[str, ...] = ()
        self._deadline = time.monotonic() + timeout_s
        self._marker = marker
        self._before = children()
        self._stderr = stderr.open("wb")
        try:
            self._process = subprocess.Popen(
                list(wrap([python, str(PROGRAM)])),
                cwd=folder,
                env={**environment, MARKER: marker},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                start_new_session=True,
            )
        except OSError as error:
            self._stderr.close()
            raise ScorerError(f"the interpreter cannot be started: {error.strerror}") from None
        watch(self._process.pid)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)

    def load(self, script: Path, checkpoint: Path, device: str) -> None:
        """Raises ScorerError."""
        question = {"script": str(script), "checkpoint": str(checkpoint), "device": device}
        answer, _ = self._ask({"do": "load", **question})
        window = answer.get("window")
        self.window = window if isinstance(window, int) and window > 0 else None

    def nll(self, tokens: Tokens) -> Floats:
        """Nats of tokens[1:]. Raises ScorerError."""
        return self._scores({"do": "nll"}, tokens)

    def logprobs(self, tokens: Tokens, positions: list[int]) -> Floats:
        """(len(positions), V) log-probabilities of what follows tokens[p]. Raises ScorerError."""
        return self._scores({"do": "logprobs", "positions": positions}, tokens)

    def finish(self) -> None:
        """Ask which files were opened, and end. Raises ScorerError."""
        answer, _ = self._ask({"do": "end"})
        self.opened = tuple(str(path) for path in answer.get("opened", ()))

    def __enter__(self) -> ScorerProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        end_run(self._process.pid, self._marker, 0.5, self._before)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        unwatch(self._process.pid)
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            with contextlib.suppress(OSError, ValueError):
                if stream is not None:
                    stream.close()

    def _scores(self, question: dict[str, Any], tokens: Tokens) -> Floats:
        import numpy as np

        question = {**question, "tokens": len(tokens)}
        answer, data = self._ask(question, tokens.astype("<u4").tobytes())
        try:
            return np.frombuffer(data, dtype="<f4").reshape([int(n) for n in answer["shape"]])
        except (KeyError, TypeError, ValueError) as error:
            raise ScorerError(f"the answer is no array: {error}") from None

    def _ask(self, question: dict[str, Any], data: bytes = b"") -> tuple[dict[str, Any], bytes]:
        self._send(json.dumps(question).encode() + b"\n" + data)
        line = b""
        while not line.endswith(b"\n"):
            line += self._receive(1)
            if len(line) > LINE_LIMIT:
                raise ScorerError("the answer is no line of JSON")
        try:
            answer = json.loads(line)
            size = int(answer["bytes"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ScorerError("the answer is no line of JSON") from None
        if not 0 <= size <= ANSWER_LIMIT_BYTES:
            raise ScorerError(f"an answer of {size} bytes")
        body = bytearray()
        while len(body) < size:
            body += self._receive(min(1 << 20, size - len(body)))
        if "error" in answer:
            raise ScorerError(str(answer["error"])[:500])
        return answer, bytes(body)

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self._wait(self._in, selectors.EVENT_WRITE)
            try:
                view = view[os.write(self._in, view[: 1 << 16]) :]
            except BlockingIOError:
                continue
            except OSError:
                raise ScorerError(self._gone()) from None

    def _receive(self, most: int) -> bytes:
        self._wait(self._out, selectors.EVENT_READ)
        piece = os.read(self._out, most)
        if not piece:
            raise ScorerError(self._gone())
        return piece

    def _wait(self, descriptor: int, event: int) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, event)
            left = self._deadline - time.monotonic()
            if left <= 0 or not selector.select(left):
                raise ScorerError("it took too long")

    def _gone(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return f"the scoring process ended with exit code {self._process.wait(timeout=2)}"
        return "the scoring process closed its pipe"
