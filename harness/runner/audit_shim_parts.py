"""What the audit shim counts with: notes, opened files, samples of the parameters.

Loaded by audit_shim.py in the candidate's process: imports nothing of the harness. Paths are
handled by `os`, not pathlib: a hook that runs at every open must be short.
"""

# ruff: noqa: PTH100, PTH116, PTH118, PTH119, PTH120, PTH123

import contextlib
import functools
import gc
import json
import math
import os
import sys
import time
import weakref
from collections.abc import Callable
from typing import Any

DATA = os.path.realpath(os.environ.get("DATA_PATH", "."))
LINES_OF_A_KIND = 20_000
"""A script of record size opens 6,000 files, its compile caches nearly all of them."""
CALLS_LIMIT = 400_000
SAMPLES, TENSORS, PASSES = 128, 4000, 256
RELATED = 0.5
"""Correlation of a tensor's samples before and after: fresh draws have about 0, trained ones 1."""
TRACED = frozenset({"FakeTensor", "FunctionalTensor"})
LINE_CHARS = 4096
now = time.monotonic
Sample = tuple[tuple[int, ...], tuple[float, ...]]


def text(value: Any, limit: int = 300) -> str:
    """A short text of anything."""
    try:
        if isinstance(value, bytes):
            value = os.fsdecode(value)
        return (value if isinstance(value, str) else repr(value))[:limit]
    except Exception:
        return "?"


class Notes:
    """The file of notes: appended line by line, so that a killed run leaves what it noted."""

    def __init__(self, folder: str) -> None:
        name = f"rank-{os.environ.get('RANK', '0')}-{os.getpid()}.jsonl"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
        self.descriptor = os.open(os.path.join(folder, name), flags, 0o600)
        self.counts: dict[str, int] = {}
        self.left_out: dict[str, int] = {}

    def write(self, kind: str, sort: str = "", **fields: Any) -> None:
        """`sort` parts a kind: each part has lines of its own, which no other can use up."""
        part = f"{kind} {sort}".rstrip()
        count = self.counts[part] = self.counts.get(part, 0) + 1
        if count > LINES_OF_A_KIND and kind != "end":
            self.left_out[part] = self.left_out.get(part, 0) + 1
            return
        line = json.dumps({"k": kind, "t": now(), "pid": os.getpid(), **fields}, default=repr)
        with contextlib.suppress(OSError):
            os.write(self.descriptor, line.encode("utf-8", "backslashreplace") + b"\n")


class Calls:
    """Moments of calls of one kind, written 256 to a line. To the microsecond: a replayed graph
    follows a printed line within less than a tenth of a millisecond."""

    def __init__(self, notes: Notes, kind: str) -> None:
        self.notes, self.kind, self.total = notes, kind, 0
        self.moments: list[float] = []

    def add(self) -> None:
        self.total += 1
        if self.total <= CALLS_LIMIT:
            self.moments.append(round(now(), 6))
            if len(self.moments) >= 256:
                self.flush()

    def flush(self) -> None:
        moments, self.moments = self.moments, []
        if moments:
            self.notes.write(self.kind, at=moments)


class Files:
    """Opened files. The interpreter's own are left out; data files are noted each time."""

    def __init__(self, notes: Notes) -> None:
        self.notes = notes
        self.seen: dict[tuple[str, bool], int] = {}
        roots = {sys.prefix, sys.base_prefix, os.path.dirname(os.__file__)}
        self.python = tuple(os.path.realpath(root) + os.sep for root in roots if root != "/usr")

    def opened(self, path: Any, mode: str | None, flags: int | None) -> None:
        if isinstance(path, int) or path is None:
            return
        path = os.path.abspath(os.fsdecode(path))
        writes = bool((flags or 0) & (os.O_WRONLY | os.O_RDWR))
        writes = writes or any(letter in (mode or "") for letter in "wax+")
        if not writes and path.startswith((*self.python, "/proc/", "/sys/")):
            return
        real = os.path.realpath(path)
        if not writes and real.startswith(self.python):
            return
        times = self.seen[real, writes] = self.seen.get((real, writes), 0) + 1
        data = real.startswith(DATA + os.sep)
        if times > (2000 if data else 3):
            return
        size = changed = None
        with contextlib.suppress(OSError):
            status = os.stat(real)
            size, changed = status.st_size, status.st_mtime
        self.notes.write(
            "open", "data" if data else "",
            path=real[:1000], w=writes, size=size, mtime=changed, rchar=bytes_read(),
        )  # fmt: skip


def bytes_read() -> int | None:
    """Bytes this process has read so far by read calls (Linux); mapped pages do not count."""
    try:
        descriptor = os.open("/proc/self/io", os.O_RDONLY)
        try:
            return int(os.read(descriptor, 64).split()[1])
        finally:
            os.close(descriptor)
    except (OSError, ValueError, IndexError):
        return None


def mapped_bytes() -> dict[str, int]:
    """Resident bytes of mapped files below DATA_PATH: what was touched of each (Linux)."""
    found: dict[str, int] = {}
    path = None
    with contextlib.suppress(OSError, ValueError):
        with open("/proc/self/smaps", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if "-" in line.split(" ", 1)[0]:  # a mapping's first line: its address range
                    path = line[line.index("/") :].rstrip() if "/" in line else None
                    path = path if path and path.startswith(DATA + os.sep) else None
                elif path and line.startswith("Rss:"):
                    found[path] = found.get(path, 0) + 1024 * int(line.split()[1])
    return found


class Parameters:
    """Samples of every trainable tensor, before the first backward pass that it is there for, and
    at the first line.

    Looked for at every pass, as some scripts send a scalar backward before they have a model, and
    what is first seen after some training would pass for untrained. After PASSES nothing is added:
    what comes later has no earlier state and counts as drawn anew. Ranks that print nothing never
    learn that the clock runs, and looks on it would change its times: they look once.
    """

    def __init__(self) -> None:
        self.before: list[Sample] | None = None
        self.references: list[Any] = []
        self.passes = 0
        self.at_the_clock = False
        self.looks = PASSES if os.environ.get("RANK", "0") == "0" else 1

    def found(self, torch: Any) -> list[Any]:
        # References besides the collector's list: gc.freeze hides what it holds.
        alive = {id(o): o for o in (reference() for reference in self.references) if o is not None}
        # Of some 300,000 objects, up to 256 times: with a context manager for each a look took
        # .28 s, without .08. No id() of each either: every call of it goes to the audit hook.
        for o in [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor)]:
            with contextlib.suppress(Exception):
                plain = "Fake" not in type(o).__name__
                if plain and o.is_leaf and o.requires_grad and o.numel():
                    alive[id(o)] = o
        return list(alive.values())[:TENSORS]

    def samples(self, torch: Any, tensors: list[Any]) -> list[Sample]:
        taken = []
        for tensor in tensors:
            with contextlib.suppress(Exception):
                flat = tensor.detach().reshape(-1)
                last = flat.numel() - 1
                at = sorted({i * last // max(SAMPLES - 1, 1) for i in range(SAMPLES)})
                values = flat[torch.tensor(at, device=flat.device)].double().cpu().tolist()
                taken.append((tuple(tensor.shape), tuple(values)))
        return taken

    def backward(self, torch: Any) -> None:
        """Called before each backward pass, and before a CUDA graph is captured."""
        self.passes += 1
        if self.at_the_clock or self.passes > self.looks:
            return
        known = {id(reference()) for reference in self.references}
        new = [tensor for tensor in self.found(torch) if id(tensor) not in known]
        self.references += [weakref.ref(tensor) for tensor in new]
        self.before = (self.before or []) + self.samples(torch, new)

    def at_clock(self, torch: Any) -> dict[str, int] | None:
        """How the parameters stand to what they were before anything was trained."""
        self.at_the_clock = True
        if self.before is None:
            return None
        return compare(self.before, self.samples(torch, self.found(torch)))


def compare(before: list[Sample], after: list[Sample]) -> dict[str, int]:
    """Tensors that are the same to the bit, kept (as before, with training on top) or fresh.

    A tensor that was constant (all zeros, all ones) and is no more has been trained as well.
    """
    earlier: dict[tuple[int, ...], list[tuple[float, ...]]] = {}
    changed: dict[tuple[int, ...], list[tuple[float, ...]]] = {}
    for shape, values in before:
        earlier.setdefault(shape, []).append(values)
    tally = {"tensors": len(after), "same": 0, "kept": 0, "fresh": 0}
    for shape, values in after:
        if values in earlier.get(shape, ()):
            tally["same"] += 1
        else:
            changed.setdefault(shape, []).append(values)
    for shape, group in changed.items():
        old = earlier.get(shape, [])
        constant = sum(len(set(values)) == 1 for values in old)
        constant -= sum(s == shape and len(set(values)) == 1 for s, values in after)
        for values in group:
            related = any(correlation(values, other) > RELATED for other in old)
            kept = related or constant > 0
            tally["kept" if kept else "fresh"] += 1
            constant -= kept and not related
    return tally


def correlation(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Pearson's r; 0 where it says nothing."""
    if len(a) != len(b) or len(a) < 3:
        return 0.0
    mean_a, mean_b = math.fsum(a) / len(a), math.fsum(b) / len(b)
    x, y = [value - mean_a for value in a], [value - mean_b for value in b]
    scale = math.sqrt(math.fsum(v * v for v in x) * math.fsum(v * v for v in y))
    return math.fsum(p * q for p, q in zip(x, y, strict=True)) / scale if scale > 0 else 0.0


def is_plain(value: Any) -> bool:
    """Made of numbers, texts, lists and dicts: something that reads the same in another process."""
    if isinstance(value, dict):
        return all(is_plain(k) and is_plain(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def is_traced(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Is this torch.compile looking at a backward pass, not one that computes anything?"""
    first = args[0] if args else kwargs.get("tensors", kwargs.get("outputs"))
    outputs = first if isinstance(first, list | tuple) else [first]
    return any(type(output).__name__ in TRACED for output in outputs)


def program(arguments: tuple[Any, ...]) -> str:
    """What is started, without the paths of this machine: names of program and first words."""
    words = arguments[1] if len(arguments) > 1 else arguments[:1]
    words = words if isinstance(words, list | tuple) else [words]
    return " ".join(os.path.basename(text(word)) for word in words[:4])[:120]


def is_result(line: str) -> bool:
    return line.startswith("step:") and ("val_loss:" in line or "train_time:" in line)


class Finder:
    """Calls back when a module of interest has been imported; finds nothing itself."""

    def __init__(self, wanted: dict[str, Callable[[Any], None]]) -> None:
        self.wanted = wanted

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        callback = self.wanted.get(name)
        if callback is None:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                loader: Any = spec.loader
                loader.exec_module = functools.partial(_execute, loader.exec_module, callback)
                return spec
        return None


def _execute(execute: Callable[[Any], None], callback: Callable[[Any], None], module: Any) -> None:
    execute(module)
    callback(module)
