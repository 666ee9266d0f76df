"""Any bytes as a run log: read, screened, summed up as a folder of one, told as JSON.

The first byte says how: its low bits a target loss and a step to judge at, so that one input
reaches `verify --step` too.
"""

from __future__ import annotations

import math
from pathlib import Path

from harness.canonical import dumps
from harness.errors import LogError
from harness.log_families import FAMILIES
from harness.logs import RunLog, parse_log, read_log
from harness.record_folder import arrange, summarise
from harness.record_report import folder_document, folder_exit_code
from tests.fuzz.target import Target, real_logs
from tests.support.result_lines import SEPARATOR, train, val

SEED_BYTES = 24_000
"""Of each real log the head and the tail are enough; short inputs are mutated faster."""


def make_target(folder: Path) -> Target:
    """A target that keeps its one file in `folder`."""
    path = folder / "a.txt"

    def one_input(data: bytes) -> None:
        path.write_bytes(data[1:])
        try:
            runs = read_log(path, max_bytes=4 << 20)
        except LogError:
            return
        check_runs(runs)
        step = runs[0].validations[0].step if data[0] & 1 and runs[0].validations else None
        target = (3.28, 2.92, 3.3821, 0.0)[data[0] >> 1 & 3]
        summary = summarise(arrange((("pr/a.txt", run) for run in runs), at_step=step), target)
        dumps(folder_document(summary))
        assert folder_exit_code(summary) in (0, 1, 2)

    return Target(one_input, seeds())


def check_runs(runs: tuple[RunLog, ...]) -> None:
    """What holds for every log that is read at all."""
    assert runs
    assert [run.run_index for run in runs] == list(range(len(runs)))
    for run in runs:
        assert run.family in FAMILIES
        assert run.complete == (not run.gaps)
        if run.complete:
            assert run.final is not None
            assert math.isfinite(run.final.loss_nats)


def seeds() -> dict[str, bytes]:
    found = {f"real-{i:02d}": b"\0" + shortened(p) for i, p in enumerate(real_logs())}
    lines = [val(0, "10.8", 0), *(train(i, 10 * i) for i in range(1, 101)), val(100, "3.27", 1000)]
    texts = {
        "plain": lines,
        "two-runs": lines + lines[:1] + [line.replace("3.27", "3.26") for line in lines[1:]],
        "echo": lines + lines[-3:],
        "separator": ["import torch", SEPARATOR, "Running Python 3.12", SEPARATOR, *lines],
        "trials": ["trial:1/2 seed:3", *lines, "trial:2/2 seed:4", *lines],
        "llmc": ["s:0 tel:10.9", "s:1 trl:3.2 lr:0.1", "s:2 tel:3.2"],
        "seconds": ["step:1/2 val_loss:3.2 val_ema_loss:3.1 train_time:1.5s step_avg:9ms"],
    }
    for name, text in texts.items():
        found[name] = b"\1" + "\n".join(text).encode() + b"\n"
        assert parse_log(text)
    return found


def shortened(path: Path) -> bytes:
    data = path.read_bytes()
    if len(data) <= SEED_BYTES:
        return data
    return data[: SEED_BYTES // 2] + data[-SEED_BYTES // 2 :]
