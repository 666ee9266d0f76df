"""Recorded passes and updates of candidates/small.py: the same numbers as plain ones.

There is no GPU here to record: `Again` stands in, whose replay calls the function once more and
puts what it returns where the recorded call's results are. What must hold then is all that a graph
asks for as well: inputs and results in the same memory, nothing taken from the step it was
recorded in. On a GPU: test_small_gpu.py.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.candidates.tiny_small import ROOT, load_script, tiny_config, write_data

small = load_script()


@pytest.fixture(autouse=True)
def three_micro_batches_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of a step, one after it, and that one's recording once more right away: eight are
    no other sequence, and take longer."""
    monkeypatch.setattr(small, "SLOTS", 3)


def short_config(**changes):
    """tiny_config with micro-batches of the same sizes, SLOTS a step instead of eight."""
    cfg = tiny_config(**changes)
    stages = (small.replace(s, batch_tokens=s.batch_tokens // 8 * small.SLOTS) for s in cfg.stages)
    return small.replace(cfg, stages=tuple(stages))


def tensors(result):
    return [t for part in result for t in (part if isinstance(part, list) else [part])]


class Again(small.Recorder):
    """Recorder without a GPU. replays: how often a recording was replayed."""

    replays = 0

    def __init__(self) -> None:
        Again.replays = 0

    @staticmethod
    def usable(device: torch.device) -> bool:
        return True

    def record(self, fn):
        kept = fn()

        def replay() -> None:
            Again.replays += 1
            new = fn()
            if kept is not None:
                for old, t in zip(tensors(kept), tensors(new), strict=True):
                    if old is not t:
                        old.copy_(t)

        return kept, replay


class Aliased(Again):
    """As bad as one pool of memory may be: what a recording returns lies where the earlier ones of
    the same recorder compute, and is not a number after a replay of one of these."""

    def __init__(self) -> None:
        super().__init__()
        self.results: list[list[torch.Tensor]] = []  # by recording

    def record(self, fn):
        kept, replay = super().record(fn)
        before = {t.data_ptr() for some in self.results for t in some}
        own = [] if kept is None else [t for t in tensors(kept) if t.data_ptr() not in before]
        self.results.append(own)
        number = len(self.results)

        def replay_and_spoil() -> None:
            replay()
            for later in self.results[number:]:
                for t in later:
                    t.fill_(float("nan"))

        return kept, replay_and_spoil


class OnePool(Aliased):
    """All recorders share."""

    shared: list[list[torch.Tensor]]

    def __init__(self) -> None:
        super().__init__()
        self.results = OnePool.shared


def run(folder: Path, monkeypatch, capsys, **changes) -> tuple[list[str], list[str], dict]:
    """(result lines without their times, lines about recordings, final weights) of one run."""
    monkeypatch.setenv("SPEEDRUN_CHECKPOINT", str(folder / "final.pt"))
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    small.train(short_config(**changes), seed=1)
    out = capsys.readouterr().out.splitlines()
    lines = [re.sub(r" train_time.*", "", x) for x in out if "val_loss" in x]
    weights, _ = small.load_checkpoint(folder / "final.pt")
    return lines, [x for x in out if "recorded:" in x], weights


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gated_mudd": True, "bigram_dim": 32},
        {"sorted_tables": False},
        {"dtype": "bfloat16"},
        # stages begin with odd steps too
        {"scheduled_steps": 15, "extension_steps": 4},
        {"adam_alternate": False},
    ],
)  # fmt: skip
def test_a_recorded_run_is_the_plain_run(
    changes: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Every stage, the untying, the extension: equal losses and equal bits in the end."""
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_PATH", str(tmp_path))
    plain, none, weights = run(tmp_path, monkeypatch, capsys, **changes)
    assert not none
    monkeypatch.setattr(small, "Recorder", Aliased)
    recorded, told, same = run(tmp_path, monkeypatch, capsys, graphs=True, **changes)
    assert recorded == plain
    for name, t in weights.items():
        assert torch.equal(t, same[name]), name
    # one process: three kinds of micro-batch a stage, first of a step without Adam's gradients or
    # with them, and any after the first; updates read the gradients themselves, but for the small
    stages = 4
    kinds = 2 * stages if changes.get("adam_alternate") is False else 3 * stages
    assert told == [f"recorded: {kinds} passes, 0 casts, updates of small"]


def test_with_one_pool_for_passes_and_updates_gradients_would_be_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So it was at first: on 8 x H200 the loss was not a number soon after stage 2 began."""
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_PATH", str(tmp_path))
    monkeypatch.setattr(OnePool, "shared", [], raising=False)
    monkeypatch.setattr(small, "Recorder", OnePool)
    lines, _, _ = run(tmp_path, monkeypatch, capsys, graphs=True)
    assert "nan" not in lines[1], "stage 1 was recorded before any update"
    assert "nan" in lines[-1]


def test_on_the_clock_everything_is_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """15 steps of 3 micro-batches and 7 updates of what is small: 52 replays, no plain pass."""
    write_data(tmp_path)
    monkeypatch.setenv("DATA_PATH", str(tmp_path))
    monkeypatch.setattr(small, "Recorder", Again)
    cfg = short_config(graphs=True)
    trainer = small.Trainer(cfg, 0, 1, torch.device("cpu"), small.Log(1))
    # what updates compute must not lie where the gradients of a pass wait: test_small_gpu.py
    assert trainer.passes.recorder is not trainer.recorder
    trainer.warm_up(cfg.total_steps, shared=False)
    Again.replays = 0

    def plain(*_):
        raise AssertionError("a plain pass")

    monkeypatch.setattr(torch.Tensor, "backward", plain)
    trainer.run(cfg.total_steps)
    assert Again.replays == 15 * 3 + 7


class Broken(Again):
    """Its replays forget to do anything."""

    def record(self, fn):
        kept = fn()
        for t in tensors(kept or ()):
            t.zero_()
        return kept, lambda: None


class Refusing(Again):
    def record(self, fn):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")


@pytest.mark.parametrize(
    ("recorder", "why"),
    [(Broken, "a replay gives other numbers"), (Refusing, "operation not permitted when stream")],
)
def test_what_cannot_be_recorded_runs_as_it_did(
    recorder: type, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_PATH", str(tmp_path))
    plain, _, weights = run(tmp_path, monkeypatch, capsys)
    monkeypatch.setattr(small, "Recorder", recorder)
    other, told, same = run(tmp_path, monkeypatch, capsys, graphs=True)
    assert other == plain
    for name, t in weights.items():
        assert torch.equal(t, same[name]), name
    assert told[0].startswith("recorded: 0 passes, 0 casts")
    assert told[1].startswith(f"not recorded: small ({why}")
    assert told[2].startswith(f"not recorded: a pass ({why}")


@pytest.mark.parametrize("recorder", [Again, Refusing])
def test_casts_that_cannot_be_recorded_are_told(recorder: type) -> None:
    """The casts need FP8 kernels, so here they are pretended."""
    amax = torch.ones(1)
    trainer = SimpleNamespace(
        recorder=recorder(),
        cfg=SimpleNamespace(fp8_mlp=True, fp8_down=True),
        model=SimpleNamespace(up_scale=amax, quantize_mlp=lambda exact: amax.fill_(2.0 + exact)),
        optimizer=SimpleNamespace(refused={}),
        casts={},
    )
    small.Trainer.record_casts(trainer)
    if recorder is Refusing:
        assert trainer.casts == {}
        assert trainer.optimizer.refused["FP8 casts"].startswith("operation not permitted")
        return
    assert trainer.optimizer.refused == {}
    for exact, value in ((True, 3.0), (False, 2.0)):
        trainer.casts[exact]()
        assert amax.item() == value


def test_a_kind_that_the_warm_up_did_not_see_runs_plain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Say, a batch of more documents than cu_seqlens has room for; then the next is replayed."""
    write_data(tmp_path)
    monkeypatch.setenv("DATA_PATH", str(tmp_path))
    monkeypatch.setattr(small, "Recorder", Again)
    weights = []
    for graphs in (False, True):
        torch.manual_seed(0)
        cfg = short_config(graphs=graphs)
        trainer = small.Trainer(cfg, 0, 1, torch.device("cpu"), small.Log(1))
        trainer.warm_up(cfg.total_steps, shared=False)
        loader = small.TrainLoader(cfg, 0, 1, torch.device("cpu"))
        loader.limits[cfg.stages[0].batch_tokens // small.SLOTS] = 71
        for step in range(4):
            trainer.train_step(loader, step)
            loader.limits.pop(cfg.stages[0].batch_tokens // small.SLOTS)
        weights.append({n: p.detach().clone() for n, p in trainer.model.named_parameters()})
    for name, t in weights[0].items():
        assert torch.equal(t, weights[1][name]), name


def test_without_another_stream_nothing_is_recorded() -> None:
    assert not small.Recorder.usable(torch.device("cpu"))
    assert small.parse([])[0].graphs
    assert not small.parse(["--ablate", "graphs"])[0].graphs


RANKS = """
import sys
sys.path.insert(0, {root!r})
from tests.candidates import test_small_graphs as test
small = test.small
small.SLOTS = 2  # so that two ranks have one micro-batch a step, and exchange sparse rows
if sys.argv[1] == "graphs":
    small.Recorder = test.Aliased
small.train(test.short_config(graphs=sys.argv[1] == "graphs"), seed=1)
"""


@pytest.mark.slow
def test_two_ranks_recorded(tmp_path: Path) -> None:
    """With the sparse exchange, and the updates of banks and tables recorded as well."""
    write_data(tmp_path)
    script = tmp_path / "ranks.py"
    script.write_text(RANKS.format(root=str(ROOT)))
    lines, told, weights = [], [], []
    for way in ("plain", "graphs"):
        path = tmp_path / f"{way}.pt"
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
             str(script), way],
            capture_output=True, text=True, timeout=240, cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "DATA_PATH": str(tmp_path),
                 "SPEEDRUN_CHECKPOINT": str(path)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        out = done.stdout.splitlines()
        lines.append([re.sub(r" train_time.*", "", x) for x in out if "val_loss" in x])
        told += [x for x in out if "recorded:" in x]
        weights.append(small.load_checkpoint(path)[0])
    assert len(lines[0]) == 5
    assert lines[0] == lines[1]
    for name, t in weights[0].items():
        assert torch.equal(t, weights[1][name]), name
    assert told == [
        "recorded: 8 passes, 0 casts, updates of bigram_embed, embed, lm_head, mlp_bank, qk_bank, "
        "small, value_embeds, vo_bank"
    ]
