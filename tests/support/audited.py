"""Audit runs of the mini trainer: the honest one, or one with lines replaced."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from harness.audit import AuditJob, audit
from harness.audit_report import AuditReport, ScorerFacts
from harness.auditing import audit_checks
from harness.bundle import Bundle
from harness.canonical import sha256_file, sha256_text
from harness.checks.check import Check
from harness.data.shard import shard_header
from harness.rescoring import score
from harness.runner.scorer_process import ScorerProcess
from harness.source import Source
from harness.tracks.track import Track, parse_track
from tests.support.series import make_bundle, make_plan

HONEST = (Path(__file__).parent / "mini_trainer.py").read_text(encoding="utf-8")
TRAIN_TOKENS, VAL_TOKENS = 200_000, 8192
TRACK = """
schema_version = 1
baseline = "baseline/mini.py"
candidate = "candidates/mini.py"

[contest]
name = "mini"
title = "trainers of some thousand parameters"
rules_version = 1
target_loss_nats = 3.3
alpha = 0.01
compared_on = "training time"
loss_rule = "t-test"
loss_sd_nats = 0.01

[data]
kind = "shards"
folder = "data/mini"
train_glob = "mini_train_*.bin"
validation_file = "mini_val.bin"
validation_tokens = 8192

[hardware]
kind = "cpu"
processes = 1
launcher = "python"

[compile]
allowed_kwargs = ["dynamic"]
allowed_config = ["torch._dynamo.config.recompile_limit"]

[audit]
scorer = "optional"

[design]
looks = [5]
loss_p = 0.01
timing_p = 0.01
timeout_s = 60
stall_s = 60
expected_run_s = 3
"""


def mini_track(**replaced: str) -> Track:
    """The track; `scorer='"required"'` replaces a value of its TOML."""
    text = TRACK
    for name, value in replaced.items():
        text = "\n".join(
            f"{name} = {value}" if line.startswith(f"{name} =") else line
            for line in text.splitlines()
        )
    return parse_track(text, "mini")


def cheat(*replaced: tuple[str, str], text: str = HONEST) -> str:
    """The honest trainer with pieces of its text replaced; each must be there."""
    for before, after in replaced:
        assert before in text, before
        text = text.replace(before, after)
    return text


def without_scorer(text: str = HONEST) -> str:
    """A trainer that offers no scorer: its audit takes half the time."""
    return text.replace("def load_scorer", "def load_nothing")


def make_mini_data(root: Path) -> Path:
    """Two train shards and a validation shard of a Markov chain, below root/data/mini."""
    folder = root / "data" / "mini"
    if (folder / "mini_val.bin").exists():
        return root
    folder.mkdir(parents=True)
    draw = np.random.default_rng(20240520)
    likely = draw.integers(0, 32, (32, 4))

    def tokens(count: int) -> np.ndarray:
        out = np.zeros(count, dtype="<u2")
        choices = draw.integers(0, 5, count)
        other = draw.integers(0, 32, count)
        for i in range(1, count):
            choice = choices[i]
            out[i] = other[i] if choice == 4 else likely[out[i - 1], choice]
        return out

    for name, count in (
        ("mini_train_000001.bin", TRAIN_TOKENS),
        ("mini_train_000002.bin", TRAIN_TOKENS),
        ("mini_val.bin", VAL_TOKENS + 1),
    ):
        (folder / name).write_bytes(shard_header(count) + tokens(count).tobytes())
    return root


def run_audit(
    text: str, folder: Path, data: Path, *, contest: tuple[Path, ...] = (), **job: Any
) -> AuditReport:
    """The report of an audit of this script; everything is left in `folder`."""
    source = folder / "source"
    source.mkdir(parents=True)
    (source / "mini.py").write_text(text, encoding="utf-8")
    fields: dict[str, Any] = {
        "source": source,
        "script": "mini.py",
        "source_sha256": mini_source(text).sha256(),
        "track": mini_track(),
        "python": sys.executable,
        "processes": 1,
        "data_root": data,
        "timeout_s": 60.0,
        "stall_s": 60.0,
        "parent_environment": dict(os.environ),
        "contest": contest,
    }
    return audit(AuditJob(**{**fields, **job}), folder / "audit")


def mini_source(text: str) -> Source:
    return Source("mini.py", {"mini.py": text})


def mini_bundle(text: str, report: AuditReport | None, data: Path, **fields: Any) -> Bundle:
    """A bundle with this script as its candidate and this audit; `runs`, `plan` and other fields of
    a bundle replace what is made here."""
    folder = data / "data" / "mini"
    plan = make_plan(
        (5,),
        track="mini",
        track_sha256=sha256_text(TRACK),
        candidate=mini_source(text).arm_plan("candidates/mini.py"),
    )
    launch = plan.launch.model_copy(
        update={"data_sha256": {path.name: sha256_file(path) for path in folder.iterdir()}}
    )
    plan = plan.model_copy(update={"launch": launch})
    fields = {"plan": plan, "runs": (), "track": mini_track(), "audit": report, **fields}
    return make_bundle(**fields)


def judged(text: str, report: AuditReport | None, data: Path, **fields: Any) -> dict[str, Check]:
    """The audit's checks by id."""
    return {check.id: check for check in audit_checks(mini_bundle(text, report, data, **fields))}


def ask_scorer(text: str, folder: Path, data: Path, *, targets: int = VAL_TOKENS) -> ScorerFacts:
    """What the probes find of a script's scorer, no training run: its weights are random ones that
    `load_scorer` makes itself."""
    source = folder / "source"
    source.mkdir(parents=True)
    (source / "mini.py").write_text(
        text.replace(
            "model.load_state_dict(torch.load(path, weights_only=True))",
            "torch.manual_seed(7); nn.init.normal_(model.head)",
        ),
        encoding="utf-8",
    )
    (folder / "weights").write_bytes(b"none")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DATA_PATH": str(data)}
    with ScorerProcess(
        sys.executable, source, environment, f"test-{folder.name}-{os.getpid()}",
        folder / "scorer.err", 60.0,
    ) as process:  # fmt: skip
        return score(
            process,
            script=source / "mini.py",
            checkpoint=folder / "weights",
            device="cpu",
            validation=data / "data" / "mini" / "mini_val.bin",
            targets=targets,
            bos=0,
            printed_nats=None,
        )


def leaks(text: str, facts: ScorerFacts, honest: AuditReport, data: Path) -> Check:
    """The leak check of these facts, put into an honest audit."""
    report = honest.model_copy(update={"scorer": facts})
    return judged(text, report, data)["leak"]
