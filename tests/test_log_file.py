"""Files: text hazards, files that are no logs, and what reading costs."""

from __future__ import annotations

import gzip
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from harness.errors import LogError
from harness.logs import (
    parse_log,
    read_log,
)
from tests.support.result_lines import FIXTURES, codes, train, val, written

BODY = "\n".join([train(1, 10), val(50, "3.4", 50), train(99, 98), val(100, "3.2", 100)]) + "\n"


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (BODY.encode(), None),
        (BODY.replace("\n", "\r\n").encode(), "crlf"),
        (b"\xef\xbb\xbf" + BODY.encode(), "bom"),
        (BODY.rstrip("\n").encode(), "no-final-newline"),
        (b"caf\xe9 \xff\xff\n" + BODY.encode(), "not-utf8"),
        (BODY.replace("step:", "\x1b[1mstep:").encode(), "ansi"),
        (b"10%\r20%\r" + BODY.encode(), None),
        (BODY.replace("\n", "\r").encode(), None),
    ],
)
def test_text_hazards(tmp_path: Path, data: bytes, note: str | None) -> None:
    (run,) = read_log(written(tmp_path / "a.txt", data))
    assert [point.loss_text for point in run.validations] == ["3.4", "3.2"]
    assert len(run.train_points) == 2
    assert run.complete
    if note is not None:
        assert note in codes(run)


def test_line_cut_at_every_block_border(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (FIXTURES / "record.txt").read_text()
    path = written(tmp_path / "a.txt", ("# ä → 語\n" + text).encode())
    expected = read_log(path)
    for size in (1, 7, 64, 1000):
        monkeypatch.setattr("harness.log_file.BLOCK_BYTES", size)
        assert read_log(path) == expected


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "the log is empty"),
        (b"\xef\xbb\xbf", "the log is empty"),
        (b"  \n\n", "the log is empty"),
        (b"hello\nworld\n", "the file is no run log"),
        (b"[rank0] " + BODY.replace("\n", "\n[rank0] ").encode(), "the file is no run log"),
        (bytes(range(256)) * 40, "the file is binary, not a log"),
        (gzip.compress(BODY.encode()), "the file is compressed (gzip)"),
        (b"PK\x03\x04xxxx", "the file is compressed (zip)"),
        (BODY.encode("utf-16"), "the file is UTF-16 text, not UTF-8"),
        (b"x" * 1_500_000, "a line is longer than 262,144 characters"),
        (BODY.encode() + b"x" * 300_000 + b"\n", "a line is longer than 262,144 characters"),
    ],
)
def test_files_that_are_no_logs(tmp_path: Path, data: bytes, what: str) -> None:
    path = written(tmp_path / "a.txt", data)
    with pytest.raises(LogError) as caught:
        read_log(path)
    assert caught.value.what == what
    assert str(path) in caught.value.where
    assert caught.value.exit_code == 2


def test_prefixed_lines_get_a_hint(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", b"[rank0]: " + val(1, "3.2", 1).encode())
    with pytest.raises(LogError, match="do not begin with it"):
        read_log(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="No such file"):
        read_log(tmp_path / "nothing.txt")
    with pytest.raises(LogError, match="folder"):
        read_log(tmp_path)
    with pytest.raises(LogError, match="NUL"):
        read_log(Path("a\0b"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", BODY.encode())
    path.chmod(0)
    with pytest.raises(LogError, match="Permission denied"):
        read_log(path)


def test_pipe_socket_and_device_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LogError, match="pipe"):
        read_log(tmp_path / "pipe")
    with pytest.raises(LogError, match="device"):
        read_log(Path("/dev/zero"))
    with socket.socket(socket.AF_UNIX) as server:
        name = tmp_path / "s"
        if len(str(name)) < 100:
            server.bind(str(name))
            with pytest.raises(LogError, match="socket"):
                read_log(name)


def test_gigabyte_file_is_refused_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "huge.txt"
    with path.open("wb") as file:
        file.write(BODY.encode())
        file.truncate(1 << 30)
    start = time.perf_counter()
    with pytest.raises(LogError, match="1,073,741,824 bytes"):
        read_log(path)
    assert time.perf_counter() - start < 1.0


def test_endless_lines_are_refused() -> None:
    def endless() -> Iterable[str]:
        while True:
            yield "warning: still waiting\n"

    with pytest.raises(LogError, match="longer than 100,000 characters"):
        parse_log(endless(), max_chars=100_000)


def test_too_many_results_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.log_parser.MAX_TRAIN_POINTS", 1_000)
    with pytest.raises(LogError, match="too many result lines"):
        parse_log(train(i, i, 10**6) for i in range(1, 5_000))


def long_log(megabytes: float) -> bytes:
    lines = []
    size = 0
    step = 0
    while size < megabytes * 1e6:
        step += 1
        lines.append(train(step % 1500 + 1, step % 1500 * 57, 1500))
        if step % 250 == 0:
            lines.append(val(step % 1500 + 1, f"{3 + step % 7 / 10:.4f}", step % 1500 * 57, 1500))
        size += len(lines[-1]) + 1
    return ("\n".join(lines) + "\n").encode()


def test_throughput(tmp_path: Path) -> None:
    """The bar is a fifth of what an idle core does (over 60 MB/s), for loaded machines."""
    path = written(tmp_path / "long.txt", long_log(4))
    best = math.inf
    for _ in range(3):
        start = time.process_time()
        read_log(path)
        best = min(best, time.process_time() - start)
    assert path.stat().st_size / 1e6 / best > 12


REPEATS = {
    "one-step": lambda i: f"step:5/400 train_time:{i}ms step_avg:5.00ms",
    "falling-clock": lambda i: f"step:5/400 train_time:{99_999 - i}ms step_avg:5.00ms",
    "two-steps": lambda i: f"step:{i % 2}/400 train_time:{i}ms step_avg:5.00ms",
    "rise-and-fall": lambda i: (
        f"step:{min(i, 50_000 - i)}/40000 val_loss:3.2000 train_time:{min(i, 50_000 - i)}ms"
    ),
}


@pytest.mark.parametrize("kind", REPEATS)
def test_lines_made_to_be_searched_cost_no_more(kind: str) -> None:
    """Each line asks whether it was seen before. Searching for it took 54 s for 50,000 lines."""
    lines = [REPEATS[kind](i) for i in range(49_000)]
    start = time.process_time()
    parse_log(lines)
    assert time.process_time() - start < 5


# VmHWM, not ru_maxrss: that one is inherited from the parent and would hide any growth.
PEAK_GROWTH = """
import re, sys
from pathlib import Path
from harness.errors import LogError
from harness.logs import read_log
def peak_kib():
    return int(re.search(r"VmHWM:\\s+([0-9]+)", Path("/proc/self/status").read_text())[1])
before = peak_kib()
try:
    read_log(Path(sys.argv[1]))
except LogError:
    print(peak_kib() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "kind", ["steps", "one-step", "validations", "no-newline", "source", "not-utf8"]
)
def test_memory_stays_bounded(tmp_path: Path, kind: str) -> None:
    data = {
        "steps": lambda: b"".join(b"step:%d/9 train_time:1ms\n" % i for i in range(1, 600_000)),
        "one-step": lambda: b"".join(b"step:5/9 train_time:%dms\n" % i for i in range(600_000)),
        "validations": lambda: b"".join(b"s:%d tel:1\n" % i for i in range(200_000)),
        "no-newline": lambda: b"x" * 40_000_000,
        "source": lambda: "def f(): # ä→語𝄞\n".encode() * 500_000,
        "not-utf8": lambda: b"\xff\xfa warning\n" * 500_000,
    }[kind]()
    path = written(tmp_path / "hostile.txt", data)
    command = [sys.executable, "-c", PEAK_GROWTH, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 64_000, f"{done.stdout.strip()} KiB"


def test_import_is_light() -> None:
    code = (
        "import sys, harness.logs;"
        "print([m for m in ('numpy', 'scipy', 'pandas', 'pydantic', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
