"""A contest in a folder: a track file, two fake trainers, and `speedrun` as a child process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

TRAINER = (Path(__file__).parent / "fake_trainer.py").read_text(encoding="utf-8")
ROOT = Path(__file__).resolve().parents[2]

TRACK = """
schema_version = 1
baseline = "baseline/fake.py"
candidate = "candidates/fake.py"

[contest]
name = "fake"
title = "a contest of fake trainers"
rules_version = 1
target_loss_nats = 3.28
alpha = 0.01
compared_on = "training time"
loss_rule = "t-test"
loss_sd_nats = 0.0014
loss_per_100_steps_nats = 0.0129
buffer_nats = 0.001

[data]
kind = "shards"
folder = "data/fake"
train_glob = "fake_train_*.bin"
validation_file = "fake_val.bin"
validation_tokens = 10

[hardware]
kind = "cpu"
processes = 1
launcher = "python"

[compile]

[design]
looks = [5, 10, 15, 20]
loss_p = 0.0031
timing_p = 0.0031
timeout_s = 30
stall_s = 20
expected_run_s = 0.2

[audit]
required = false
"""


def write_trainer(
    path: Path,
    *,
    loss: float = 3.27,
    sd: float = 0.0014,
    ms: float = 80,
    time_sd: float = 0.0008,
    steps: int = 1000,
    mode: str = "",
    sleep_s: float = 0.0,
) -> Path:
    """A fake trainer with these figures at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    constants = (
        f"LOSS, SD, MS, TIME_SD, STEPS, SLEEP_S = {loss}, {sd}, {ms}, {time_sd}, {steps}, "
        f"{sleep_s}\nMODE = {mode!r}\n"
    )
    path.write_text(constants + TRAINER, encoding="utf-8")
    return path


class Contest:
    """A folder with a fake track; the candidate is 5 % faster and 0.01 below the target."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "track.toml").write_text(TRACK, encoding="utf-8")
        data = root / "data" / "fake"
        data.mkdir(parents=True)
        for name in ("fake_train_000001.bin", "fake_val.bin"):
            (data / name).write_bytes(b"tokens")
        self.candidate = write_trainer(root / "candidates" / "fake.py", ms=76)
        self.baseline = write_trainer(root / "baseline" / "fake.py", loss=3.278)

    def set(self, **figures: object) -> None:
        """Another candidate."""
        write_trainer(self.candidate, **{"ms": 76, **figures})  # type: ignore[arg-type]

    def slow(self, sleep_s: float) -> None:
        """Both arms sleep this long in every run."""
        self.set(sleep_s=sleep_s)
        write_trainer(self.baseline, loss=3.278, sleep_s=sleep_s)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "harness.cli.main", *arguments]

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "XDG_CACHE_HOME": str(self.root / "cache"),
            "COLUMNS": "200",
        }

    def run(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=self.root,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def submit(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("submit", "--track", "track.toml", *arguments)

    def bundles(self) -> list[Path]:
        return sorted((self.root / "results").glob("*"))

    @property
    def bundle(self) -> Path:
        (only,) = self.bundles()
        return only

    def verdict(self) -> dict[str, object]:
        return json.loads((self.bundle / "verdict.json").read_text(encoding="utf-8"))

    def ledger(self) -> list[dict[str, object]]:
        lines = (self.bundle / "ledger.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]
