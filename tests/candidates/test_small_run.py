"""candidates/small.py from start to finish on the CPU: log, checkpoint, scorer, arguments."""

import gc
import os
import re
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.candidates.test_small_model import random_model
from tests.candidates.tiny_small import (
    ROOT,
    SCRIPT,
    load_script,
    random_documents,
    tiny_config,
    write_data,
    write_shard,
)

small = load_script()

LAUNCH = """
import sys
sys.path.insert(0, {root!r})
from tests.candidates.tiny_small import load_script, tiny_config
small = load_script()
try:
    small.train(tiny_config(), seed=1)
except small.SetupError as error:
    sys.exit(f"error: {{error}}")
"""


def launch(folder: Path, ranks: int, **env: str) -> subprocess.CompletedProcess[str]:
    script = folder / "launch.py"
    script.write_text(LAUNCH.format(root=str(ROOT)))
    command = [sys.executable, str(script)]
    if ranks > 1:
        command[1:1] = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1", "DATA_PATH": str(folder), **env},
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of 15 steps on two ranks: its folder and its stdout."""
    folder = write_data(tmp_path_factory.mktemp("run"))
    done = launch(folder, 2, SPEEDRUN_CHECKPOINT=str(folder / "final.ckpt"))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done.stdout


VAL = re.compile(r"step:(\d+)/15 val_loss:(\d+\.\d{6}) train_time:(\d+)ms step_avg:(\d+\.\d\d)ms")
STEP = re.compile(r"step:(\d+)/15 train_time:(\d+)ms step_avg:(\d+\.\d\d)ms")


@pytest.mark.slow
def test_lines(finished: tuple[Path, str]) -> None:
    lines = finished[1].splitlines()
    of_steps = [line for line in lines if line.startswith("step:")]
    validations = [m for line in of_steps if (m := VAL.fullmatch(line))]
    steps = [m for line in of_steps if (m := STEP.fullmatch(line))]
    assert [int(m[1]) for m in validations] == [0, 4, 8, 12, 15]
    assert [int(m[1]) for m in steps] == list(range(1, 16))
    assert len(of_steps) == 20
    assert validations[0][3] == "0"
    assert float(validations[0][2]) == pytest.approx(np.log(96), abs=0.02)
    times = [int(m[3]) for m in validations]
    assert times == sorted(times)
    assert float(validations[-1][4]) == pytest.approx(times[-1] / 15, abs=0.1)
    assert any(line.startswith("startup: import") for line in lines)
    assert "world size 2, gradient accumulation 4" in lines


@pytest.mark.slow
def test_log_file_begins_with_the_source(finished: tuple[Path, str]) -> None:
    folder, stdout = finished
    name = stdout.splitlines()[0]
    assert re.fullmatch(r"logs/[0-9a-f-]{36}\.txt", name)
    source, environment, rest = (folder / name).read_text().split("\n" + "=" * 100 + "\n")
    assert source.rstrip("\n") == SCRIPT.read_text().rstrip("\n")
    assert f"PyTorch {torch.__version__}" in environment
    for line in stdout.splitlines():
        if line.startswith("step:"):
            assert line in rest
    assert len(list((folder / "logs").iterdir())) == 1


@pytest.mark.slow
def test_scorer_agrees_with_the_run(finished: tuple[Path, str]) -> None:
    """nll over the validation tokens is the last val_loss; logprobs agrees and sums to one."""
    folder, stdout = finished
    scorer = small.load_scorer(folder / "final.ckpt", "cpu")
    tokens = small.read_shard(folder / "data/fineweb10B/fineweb_val_000000.bin")[:2049]
    nll = scorer.nll(tokens)
    assert nll.shape == (2048,)
    last = float(VAL.findall(stdout)[-1][1])
    assert nll.mean().item() == pytest.approx(last, abs=2e-6)
    positions = [0, 3, 255, 256, 300, 2047, 7]
    rows = scorer.logprobs(tokens, positions)
    assert rows.shape == (7, 96)
    torch.testing.assert_close(rows.exp().sum(-1), torch.ones(7))
    for row, p in zip(rows, positions, strict=True):
        assert -row[int(tokens[p + 1])].item() == pytest.approx(nll[p].item(), abs=1e-4)


@pytest.mark.slow
def test_scorer_is_causal(finished: tuple[Path, str]) -> None:
    scorer = small.load_scorer(str(finished[0] / "final.ckpt"), torch.device("cpu"))
    tokens = random_documents(400, seed=5).astype(np.int64)
    changed = tokens.copy()
    changed[200] = changed[200] % 95 + 1
    a, b = scorer.nll(torch.from_numpy(tokens)), scorer.nll(torch.from_numpy(changed))
    assert torch.equal(a[:199], b[:199])
    assert not torch.equal(a[199:], b[199:])
    torch.testing.assert_close(
        scorer.logprobs(tokens, [150, 199]), scorer.logprobs(changed, [150, 199])
    )
    assert scorer.nll(tokens[:1]).shape == (0,)
    with pytest.raises(IndexError):
        scorer.logprobs(tokens, [400])


@pytest.fixture(scope="module")
def bf16_scorer():
    """Random weights in bf16: where sums are formed in another order, rounding shows it."""
    cfg = tiny_config(dtype="bfloat16", model_dim=64, num_heads=4)
    return small.Scorer(random_model(cfg).eval().requires_grad_(False), (4, 20 * 4), 0.13)


def test_scores_have_the_same_bits_whatever_else_is_asked(bf16_scorer) -> None:
    """Other positions beside it, text that ends there or goes on, in the first block and later."""
    tokens = random_documents(700, seed=6).astype(np.int64)
    nll, rows = bf16_scorer.nll(tokens), bf16_scorer.logprobs(tokens, range(700))
    assert nll.std() > 0.1
    targets = torch.from_numpy(tokens[1:])
    assert torch.equal(-rows[:-1].gather(1, targets[:, None])[:, 0], nll)
    for p in (0, 1, 37, 254, 255, 256, 600, 699):
        assert torch.equal(bf16_scorer.logprobs(tokens, [p])[0], rows[p])
        assert torch.equal(bf16_scorer.logprobs(tokens[: p + 1], [p])[0], rows[p])
        assert torch.equal(bf16_scorer.nll(tokens[: p + 1]), nll[:p])
    for row in rows.double():
        assert abs(row.logsumexp(0)) < 1e-5


def test_scores_do_not_see_the_future(bf16_scorer) -> None:
    """Also where a document begins, or no longer does, after the position."""
    tokens = random_documents(256, seed=7).astype(np.int64)
    nll, rows = bf16_scorer.nll(tokens), bf16_scorer.logprobs(tokens, range(256))
    starts = np.flatnonzero(tokens == 0)
    for at, new in ((1, 3), (100, 0), (int(starts[2]), 5), (int(starts[-1]), 5), (255, 0)):
        other = tokens.copy()
        other[at] = new if other[at] != new else 9
        assert torch.equal(bf16_scorer.nll(other)[: at - 1], nll[: at - 1])
        moved = bf16_scorer.logprobs(other, range(256))
        assert torch.equal(moved[:at], rows[:at])
        assert not torch.equal(moved[at:], rows[at:])


def test_checkpoint_without_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other form: a weights-only file with the same tensors and facts."""
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    cfg = tiny_config()
    trainer = small.Trainer(cfg, 0, 1, torch.device("cpu"), small.Log(1))
    path = tmp_path / "deep" / "final.ckpt"
    small.save_checkpoint(path, trainer, cfg.total_steps)
    scorer = small.load_scorer(path, "cpu")
    assert scorer.windows == (4, 20 * 4)
    assert torch.equal(scorer.model.qk_bank, trainer.model.qk_bank)
    assert scorer.model.cfg == cfg


@pytest.mark.slow
def test_later_records_run_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Gates, composed heads, prefix term: warm-up and eight steps in this process."""
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_PATH", str(tmp_path))
    ranks = tmp_path / "ranks.tiktoken"
    letters = [bytes([97 + i // 8, *[98] * (i % 8)]) for i in range(90)]
    ranks.write_text("\n".join(f"{b64encode(w).decode()} {i}" for i, w in enumerate(letters)))
    monkeypatch.setenv("SPEEDRUN_GPT2_RANKS", str(ranks))
    cfg = tiny_config(
        gated_mudd=True, composed_heads=True, bigram_dim=32, prefix=True,
        scheduled_steps=6, extension_steps=2,
    )  # fmt: skip
    small.train(cfg, seed=1)
    lines = [x for x in capsys.readouterr().out.splitlines() if "val_loss" in x]
    assert [x.split()[0] for x in lines] == ["step:0/8", "step:4/8", "step:8/8"]
    assert all(4.0 < float(x.split("val_loss:")[1].split()[0]) < 4.7 for x in lines)


@pytest.mark.parametrize("text", [None, "YQ== 0 1\n", "no base64! 0\n"])
def test_a_missing_vocabulary_is_told_before_anything_is_built(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_PATH", str(tmp_path))
    ranks = tmp_path / "ranks.tiktoken"
    if text is not None:
        ranks.write_text(text)
    monkeypatch.setenv("SPEEDRUN_GPT2_RANKS", str(ranks))
    monkeypatch.setattr(small, "Trainer", None)
    with pytest.raises(small.SetupError, match=r"SPEEDRUN_GPT2_RANKS.*ranks\.tiktoken"):
        small.train(tiny_config(prefix=True))


@pytest.mark.slow
def test_the_loss_falls_to_the_end_on_fresh_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A whole schedule in bf16 on text that is read once: through the wider windows, the cooldown,
    the untying (step 61) and the extension nothing makes the loss rise."""
    text = random_documents(90_000, seed=1)
    folder = tmp_path / "data" / "fineweb10B"
    write_shard(folder / "fineweb_train_000001.bin", text[:85_000])
    write_shard(folder / "fineweb_val_000000.bin", text[85_000:])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_PATH", str(tmp_path))
    monkeypatch.setattr(small, "SLOTS", 2)  # the same batches in two pieces, a third of the time
    cfg = tiny_config(
        dtype="bfloat16", scheduled_steps=90, extension_steps=10, momentum_warmup=20,
        momentum_cooldown=10, val_every=30,
    )  # fmt: skip
    small.train(cfg, seed=1)
    out = capsys.readouterr().out
    assert "used up" not in out
    losses = {int(n): float(x) for n, x in re.findall(r"step:(\d+)/100 val_loss:(\S+)", out)}
    assert list(losses) == [0, 30, 60, 90, 100]
    assert losses[60] < losses[30] < losses[0]
    assert losses[90] < losses[60] - 0.1
    assert losses[100] < losses[90] + 0.01


def test_records_are_cumulative() -> None:
    totals = {n: small.record_config(n).total_steps for n in small.RECORDS}
    assert totals == {84: 1390, 85: 1300, 86: 1300, 87: 1300, 88: 1285, 89: 1285}
    assert small.record_config(84) == small.Config()
    last = small.record_config(89)
    assert last.gated_mudd
    assert last.fp8_down
    assert (last.bigram_rows, last.bigram_dim) == (377_280, 768)
    cfg, options = small.parse(["--record", "87"])
    assert cfg == small.record_config(87)
    assert options["notes"] == ["program of record #87"]


@pytest.mark.parametrize(("host_tensors", "graphs"), [(True, 4), (False, 9)])
def test_ranks_share_the_compilation(
    host_tensors: bool, graphs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each graph is compiled by one rank, with the windows and the scale it will run with."""
    monkeypatch.setenv("DATA_PATH", str(write_data(tmp_path)))
    cfg = tiny_config()
    dense = small.dense_attention

    def attention(q, k, v, cu_seqlens, max_seqlen, scale, window):
        return dense(q, k, v, cu_seqlens, max_seqlen, float(scale), int(window))

    monkeypatch.setattr(small, "_attention", small.Attention("test", attention, host_tensors))
    trainer = small.Trainer(cfg, 0, 1, torch.device("cpu"), small.Log(1))
    seen = []

    def note(kind, step):
        windows = tuple(int(w) for w in trainer.windows)
        seen.append((kind, step, windows, round(float(trainer.softmax_scale), 6)))

    monkeypatch.setattr(trainer, "forward_backward", lambda loader, step: note("train", step))
    monkeypatch.setattr(trainer, "validation_losses", lambda batch, step: note("validate", step))
    plan = small.warmup_plan(trainer.schedule, cfg.total_steps)
    alone = None
    for shares in (1, 2, 3, 8):
        seen.clear()
        for share in range(shares):
            trainer.compile_share(*plan, None, share, shares)
        assert len(seen) == len(set(seen)) == graphs
        alone = alone or set(seen)
        assert set(seen) == alone
    right = small.Trainer(cfg, 0, 1, torch.device("cpu"), small.Log(1))
    for step in range(cfg.total_steps + 1):
        right.set_stage(step)
        for _, _, windows, scale in (one for one in alone if one[1] == step):
            assert windows == (right.window_short, right.window_long)
            assert scale == round(right.yarn.scale, 6)


def test_importing_starts_nothing(tmp_path: Path) -> None:
    """No output, no CUDA, no files."""
    code = (
        "import importlib.util, torch\n"
        f"spec = importlib.util.spec_from_file_location('small', {str(SCRIPT)!r})\n"
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "assert not torch.cuda.is_initialized()\n"
        "assert callable(module.load_scorer)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, capture_output=True, text=True,
        timeout=100,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_missing_data_is_one_clear_line(tmp_path: Path) -> None:
    done = launch(tmp_path, 1)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "no training shards match" in done.stderr
    assert "DATA_PATH" in done.stderr


def test_world_size_must_divide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(small.SetupError, match="1, 2, 4 or 8"):
        small.train(tiny_config())


def test_the_collector_rests_during_start_up_only(monkeypatch: pytest.MonkeyPatch) -> None:
    usual, seen = gc.get_threshold(), []

    def no_place() -> None:
        seen.append(gc.get_threshold())
        raise small.SetupError("no place")

    monkeypatch.setattr(small, "join_job", no_place)
    with pytest.raises(small.SetupError, match="no place"):
        small.train(tiny_config())
    assert seen[0][0] > 10 * usual[0]
    assert gc.get_threshold() == usual


def test_compiling_without_a_run_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    assert small.main(["--compile-for", "8"]) == 4
    assert "set TORCHINDUCTOR_CACHE_DIR" in capsys.readouterr().err
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "caches")
    for ranks in ("3", "8"):  # no GPU here
        if ranks == "3" or not torch.cuda.is_available():
            assert small.main(["--compile-for", ranks]) == 4
            assert "needs a GPU, and a world size of 1, 2, 4 or 8" in capsys.readouterr().err


def test_arguments() -> None:
    cfg, options = small.parse([])
    assert cfg == small.record_config(89)
    assert options == {"last": None, "notes": [], "seed": None, "compile_for": None}
    cfg, options = small.parse(["--ablate", "xsa,mudd", "--steps", "300", "--seed", "3"])
    assert cfg == small.replace(small.record_config(89), xsa=False, mudd=False)
    assert options["last"] == 300
    assert options["seed"] == 3
    assert options["notes"] == [
        "ablation: xsa, mudd off; this is not the record program",
        "stopping after 300 steps; this is not the record program",
    ]
    cfg, _ = small.parse(["--record", "85", "--ablate", "composed_heads"])
    assert cfg == small.replace(small.record_config(85), composed_heads=False)
    cfg, options = small.parse(["--record", "84", "--schedule", "300"])
    assert (cfg.scheduled_steps, cfg.momentum_warmup, cfg.momentum_cooldown) == (300, 65, 11)
    assert options["notes"][0] == "program of record #84"


@pytest.mark.parametrize(
    "argv",
    [
        ["--ablate", "nothing"],
        ["--ablate", "vocab_size"],
        ["--record", "84", "--ablate", "prefix"],
        ["--enable", "xsa"],
        ["--steps", "0"],
        ["--schedule", "2"],
    ],
)
def test_bad_arguments(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        small.parse(argv)
    assert stop.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_every_named_technique_is_a_switch() -> None:
    named = {
        "mudd", "xsa", "bigram", "value_embeds", "paired_heads", "key_offset", "smear", "gates",
        "mtp", "yarn", "normuon", "cautious_decay", "mantissa", "untie",
    }  # fmt: skip
    assert named <= set(small.switches(True))


def test_warm_up_covers_every_graph_of_the_record() -> None:
    schedule = small.Schedule(small.replace(small.Config(), graphs=False))
    train, validate = small.warmup_plan(schedule, 1390)
    assert train == [0, 1, 460, 920, 921, 1380, 1381]
    assert validate == [0, 500, 1000, 1390]
    assert {schedule.stage_index(s) for s in train} == {0, 1, 2, 3}
    train, validate = small.warmup_plan(schedule, 300)
    assert (train, validate) == ([0, 1], [0])


@pytest.mark.parametrize("record", [84, 89])
def test_warm_up_covers_every_recording_of_the_record(record: int) -> None:
    """Each stage without gradients before the pass, and with Adam's; #89's begin with odd steps."""
    cfg = small.record_config(record)
    schedule = small.Schedule(cfg)
    assert cfg.graphs

    def kinds(steps: Iterable[int]) -> set[tuple[int, bool]]:
        seen, there = set(), False
        for step in steps:
            seen.add((schedule.stage_index(step), there))
            there = not schedule.is_adam_step(step)
        return seen

    train, _ = small.warmup_plan(schedule, cfg.total_steps)
    assert kinds(train) == kinds(range(cfg.total_steps))
    assert len(kinds(train)) == 8


def test_required_memory() -> None:
    """The measured peak of 8 ranks and 3 GiB besides; more with fewer ranks, which hold more of the
    optimizer's state, with a bf16 head, and with the tables of #85; less without recordings."""
    gib = {w: small.required_bytes(small.Config(), w) / 2**30 for w in (1, 2, 4, 8)}
    assert gib[8] == pytest.approx(31_620 / 1024 + 3)
    assert gib[1] == pytest.approx(34_780 / 1024 + 3, abs=0.05)  # measured as well
    state = 8 * 415.3e6 + 6 * 83.4e6  # bytes, of all ranks together
    assert (gib[1] - gib[8]) * 2**30 == pytest.approx(state * (1 - 1 / 8), rel=0.01)
    assert list(gib.values()) == sorted(gib.values(), reverse=True)
    wide = small.replace(small.Config(), fp8_head=False)
    assert small.required_bytes(wide, 4) / 2**30 > gib[4] + 10  # logits and their gradient in bf16
    assert small.required_bytes(small.record_config(85), 4) / 2**30 > gib[4] + 0.5
    plain = small.required_bytes(small.replace(small.Config(), graphs=False), 8) / 2**30
    assert 26_238 / 1024 + 3 < plain < 27_500 / 1024 + 3  # measured, and not much more


def test_small_gpu_is_refused_with_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (22 << 30, 24 << 30))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "RTX 4090")
    cuda = torch.device("cuda", 0)
    with pytest.raises(small.SetupError, match=r"22\.0 of 24\.0 GiB free.*8 rank.*needs 33\.9"):
        small.check_memory(small.Config(), 8, cuda)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (79 << 30, 80 << 30))
    small.check_memory(small.Config(), 1, cuda)


@pytest.mark.parametrize("name", ["fwd", "bwd"])
def test_fa3_arguments_follow_the_operator_schema(name: str, monkeypatch) -> None:
    """A stand-in operator with the registered argument order gets each value in its place."""
    library = torch.library.Library("flash_attn_3", "FRAGMENT")
    common = (
        "SymInt max_seqlen_q, SymInt max_seqlen_k, float? softmax_scale, bool is_causal, "
        "SymInt window_size_left, SymInt window_size_right"
    )
    heads = {
        "fwd": "Tensor q, Tensor k, Tensor v, Tensor? k_new, Tensor? cu_seqlens_q, "
        "Tensor? cu_seqlens_k, Tensor? page_table, " + common + ", int num_splits=0",
        "bwd": "Tensor dout, Tensor q, Tensor k, Tensor v, Tensor out, Tensor softmax_lse, "
        "Tensor(a!)? dq, Tensor(b!)? dk, Tensor(c!)? dv, Tensor? cu_seqlens_q, "
        "Tensor? cu_seqlens_k, " + common + ", bool deterministic",
    }
    seen: list = []

    def record(*args):
        seen.append(args)
        return args[0].clone()

    library.define(f"{name}({heads[name]}) -> Tensor")
    library.impl(name, record, "CPU")
    try:
        small._fa3_bind(name)
        t = torch.zeros(4, 2, 8)
        cu = torch.tensor([0, 4], dtype=torch.int32)
        given = dict(
            q=t, k=t, v=t, dout=t, out=t, softmax_lse=t, dq=t, dk=t, dv=t, cu_seqlens_q=cu,
            cu_seqlens_k=cu, max_seqlen_q=4, max_seqlen_k=5, softmax_scale=0.1,
            window_size_left=7, window_size_right=0,
        )  # fmt: skip
        names = small._FA3[name][1]
        small._fa3_call(name, **{k: v for k, v in given.items() if k in names})
        got = dict(zip(names, seen[0], strict=False))
        assert (got["max_seqlen_q"], got["max_seqlen_k"]) == (4, 5)
        assert got["softmax_scale"] == pytest.approx(0.1)
        assert got["is_causal"] is True
        assert (got["window_size_left"], got["window_size_right"]) == (7, 0)
        assert got["cu_seqlens_q"] is not None
        if name == "fwd":
            assert got["num_splits"] == 1
            assert got["k_new"] is None
        else:
            assert got["deterministic"] is False
    finally:
        small._FA3.clear()
        library._destroy()
