"""baseline/small.py on the CPU, in tiny configurations; tests marked `gpu` run at real shapes."""

import importlib.util
import json
import math
import os
import re
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the training scripts need torch (extra `cpu`)")
import numpy as np  # noqa: E402
import torch.distributed as dist  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

SCRIPT = Path(__file__).parents[2] / "baseline" / "small.py"


def import_script():
    spec = importlib.util.spec_from_file_location("baseline_small", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


small = import_script()
torch.set_num_threads(1)  # matrices of 32 x 32: more threads only wait for each other
CPU = small.Place(0, 1, torch.device("cpu"))
TINY = small.Config(
    vocab_size=96, bos_token=95, micro_batches=2, train_tokens=64, val_tokens=128,
    val_total_tokens=512, layers=8, dim=32, heads=2, mlp_dim=48, attention_free=(4,),
    long_window=(0, 3, 7), block=16, dtype="float32", steps=8, window_tokens=48, momentum_steps=4,
    validate_every=4, warmup_steps=2, device="cpu", compile=False,
)  # fmt: skip


def write_shard(path: Path, tokens, magic: int = 20240520, version: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tokens = np.asarray(tokens, dtype=np.uint16)
    header = struct.pack("<256i", magic, version, len(tokens), *[0] * 253)
    path.write_bytes(header + tokens.tobytes())
    return path


def random_tokens(count: int, config=TINY, mean_document: int = 20, seed: int = 0):
    """Documents of skewed token frequencies, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    tokens = np.minimum(rng.geometric(0.2, count), config.bos_token - 1)
    tokens[rng.random(count) < 1 / mean_document] = config.bos_token
    tokens[0] = config.bos_token
    return tokens


def random_model(config=TINY, seed: int = 0, fp8: bool = False):
    """A model none of whose weights is zero, as after some training."""
    torch.manual_seed(seed)
    model = small.GPT(config, fp8)
    with torch.no_grad():
        for p in model.parameters():
            noise = torch.randn(p.shape)
            p.add_((noise * (0.1 if p.dim() == 1 else 0.5 * p.shape[-1] ** -0.5)).to(p.dtype))
        model.head.mul_(20)  # losses that differ from token to token
    return model


def window_tensor(blocks: int, device: str = "cpu"):
    return torch.full((), blocks, dtype=torch.int32, device=device)


@pytest.fixture
def process_group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def torchrun(script: Path, processes: int, env: dict[str, str], cwd: Path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={processes}", str(script)]
    env = {k: v for k, v in os.environ.items() if k != "RANK"} | {"OMP_NUM_THREADS": "1"} | env
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


LAUNCHER = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("baseline_small", {str(SCRIPT)!r})
small = sys.modules["baseline_small"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(small)
import torch, torch.distributed as dist
config = small.{TINY!r}
"""


# --------------------------------------------------------------------------------------------------
# data


def test_import_starts_nothing_and_touches_no_gpu(tmp_path):
    code = LAUNCHER + "assert not torch.cuda.is_initialized() and not dist.is_initialized()\n"
    env = dict(os.environ, DATA_PATH=str(tmp_path / "none"))
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True)
    assert (done.returncode, done.stdout, list(tmp_path.iterdir())) == (0, b"", []), done.stderr


def test_load_shard_round_trip_and_limit(tmp_path):
    tokens = random_tokens(1000)
    path = write_shard(tmp_path / "s.bin", tokens)
    loaded = small.load_shard(path, pin=False)
    assert loaded.dtype == torch.uint16
    assert loaded.tolist() == tokens.tolist()
    assert small.load_shard(path, pin=False, limit=7).tolist() == tokens[:7].tolist()


def test_damaged_shards_are_named(tmp_path):
    wrong = write_shard(tmp_path / "wrong.bin", [1, 2, 3], magic=1)
    with pytest.raises(small.Unfit, match=r"wrong\.bin: not a token shard \(magic 1, version 1\)"):
        small.load_shard(wrong, pin=False)
    short = write_shard(tmp_path / "short.bin", range(100))
    short.write_bytes(short.read_bytes()[:-10])
    with pytest.raises(small.Unfit, match=r"short\.bin: 1214 bytes, its 100 tokens take 1224"):
        small.load_shard(short, pin=False)
    (tmp_path / "empty.bin").touch()
    with pytest.raises(small.Unfit, match="not a token shard"):
        small.read_header(tmp_path / "empty.bin")


def test_no_shards_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_PATH", str(tmp_path))
    with pytest.raises(small.Unfit, match="set DATA_PATH"):
        small.main(TINY)


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_every_world_size_reads_the_same_slices(tmp_path, world):
    config = replace(TINY, micro_batches=8, train_tokens=4)
    # Shards of 100 and 97 tokens: 3 and 2 batches of 32. 97 ends in 64 + 32 + 1 = 97, not below 97.
    files = [write_shard(tmp_path / "0.bin", range(100))]
    files.append(write_shard(tmp_path / "1.bin", range(200, 297)))
    expected = [(0, 32), (32, 32), (64, 32), (200, 32), (232, 32)]
    assert [small.steps_in(n, 32) for n in (100, 97, 98, 33, 34, 1, 0)] == [3, 2, 3, 0, 1, 0, 0]
    seen: dict[int, list[int]] = {step: [] for step in range(len(expected))}
    for rank in range(world):
        place = small.Place(rank, world, torch.device("cpu"))
        batches = small.train_batches(files, config, place)
        for step in range(len(expected)):
            for _ in range(8 // world):
                inputs, targets = next(batches)
                assert (inputs.dtype, targets.dtype) == (torch.int32, torch.int64)
                assert targets.tolist() == [t + 1 for t in inputs.tolist()]
                seen[step] += inputs.tolist()
        with pytest.raises(small.Unfit, match=r"2 train shards are exhausted after 160 tokens"):
            next(batches)
    for step, (start, count) in enumerate(expected):
        assert sorted(seen[step]) == list(range(start, start + count))


def test_ranks_take_adjacent_slices(tmp_path):
    config = replace(TINY, micro_batches=4, train_tokens=4)
    files = [write_shard(tmp_path / "0.bin", range(100))]
    place = small.Place(1, 2, torch.device("cpu"))
    batches = small.train_batches(files, config, place)
    starts = [next(batches)[0][0].item() for _ in range(4)]
    assert starts == [4, 12, 20, 28]  # parts 1 and 3 of the steps at 0 and 16


def test_validation_covers_each_token_once(tmp_path):
    path = write_shard(tmp_path / "val.bin", np.arange(600) % 90)
    seen = []
    for rank in range(2):
        place = small.Place(rank, 2, torch.device("cpu"))
        for inputs, targets in small.val_batches([path], TINY, place):
            assert len(inputs) == 128
            assert ((inputs + 1) % 90 == targets).all()
            seen.append(inputs[0].item())
    assert sorted(seen) == sorted(s % 90 for s in (0, 128, 256, 384))
    short = write_shard(tmp_path / "short.bin", range(512))
    with pytest.raises(small.Unfit, match="512 tokens, validation reads 513"):
        next(small.val_batches([short], TINY, CPU))


def test_too_few_shards_stop_the_run_before_it_starts(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_PATH", str(tmp_path))
    folder = tmp_path / "data" / "fineweb10B"
    write_shard(folder / "fineweb_train_000001.bin", random_tokens(128 * 5 + 2))
    write_shard(folder / "fineweb_val_000000.bin", random_tokens(513))
    with pytest.raises(small.Unfit, match="1 train shards last 5 of 8 steps"):
        small.main(TINY)


# --------------------------------------------------------------------------------------------------
# schedules


def test_schedules_of_the_record():
    record = small.Config()
    assert record.batch_tokens == 393_216
    assert record.steps * record.batch_tokens == 695_992_320
    factors = [small.lr_factor(s, record) for s in (0, 1062, 1416, 1770)]
    assert factors == pytest.approx([1, 1, 0.55, 0.1])
    momenta = [small.muon_momentum(s, record) for s in (0, 150, 300, 1770)]
    assert momenta == pytest.approx([0.85, 0.90, 0.95, 0.95])
    windows = [small.window_blocks(s, record) for s in (0, 1, 131, 132, 885, 1769, 1770)]
    assert windows == [1, 1, 1, 2, 7, 14, 14]  # 128 * 131.1 / 128: the window is 128 up to step 131
    for step in range(1771):  # the specification's wording
        target = 1728 * step / 1770
        assert small.window_blocks(step, record) * 128 == max(128, math.ceil(target / 128) * 128)


def test_required_memory():
    gib = [small.required_bytes(small.Config(), world) / 2**30 for world in (1, 2, 4, 8)]
    assert gib == sorted(gib, reverse=True)
    assert gib[2] == pytest.approx(26_217 / 1024 + 4, abs=0.3)  # measured, and 4 GiB
    assert gib[0] - gib[3] < 2


def test_small_gpu_is_refused_with_the_figures(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (22 * 2**30, 24 * 2**30))
    place = small.Place(0, 4, torch.device("cuda", 3))
    with pytest.raises(small.Unfit, match=r"cuda:3: 22\.0 of 24\.0 GiB .* 4 GPU\(s\) needs 29\.7"):
        small.check_gpu(small.Config(), place)


@pytest.mark.parametrize(("capability", "fp8"), [((8, 0), False), ((8, 9), True), ((9, 0), True)])
def test_fp8_by_compute_capability(monkeypatch, capability, fp8):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (80 * 2**30, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert small.check_gpu(small.Config(), small.Place(0, 1, torch.device("cuda", 0))) is fp8


# --------------------------------------------------------------------------------------------------
# FP8 head


def fp8_inputs(tokens: int = 32, dim: int = 64, vocab: int = 48):
    torch.manual_seed(1)
    x = small.norm(torch.randn(tokens, dim)).bfloat16().requires_grad_()
    w = (torch.randn(vocab, dim) * 0.5).requires_grad_()
    return x, w, small.fp8_scales(dim)


def test_fp8_ops_and_their_fakes_agree():
    x, w, scales = fp8_inputs()
    x8, w8 = (x / scales[0]).to(torch.float8_e4m3fn), (w / scales[1]).to(torch.float8_e4m3fn)
    args = (x, w, x8.detach(), w8.detach(), scales)
    # Not test_schema: it compares tensors by arithmetic that FP8 has not got.
    checks = ("test_autograd_registration", "test_faketensor")
    torch.library.opcheck(small.fp8_head, args, test_utils=checks)
    g8 = (torch.randn(32, 48) * 10).to(torch.float8_e5m2)
    args = (g8, x8.detach(), w8.detach(), scales)
    torch.library.opcheck(small.fp8_head_backward, args, test_utils=checks)


def test_fp8_head_against_full_precision():
    x, w, scales = fp8_inputs()
    z = small.fp8_linear(x, w, scales)
    assert z.dtype == torch.bfloat16
    grad = torch.randn(z.shape).bfloat16() * 0.01
    z.backward(grad)
    exact = x.detach().double() @ w.detach().double().T
    dx, dw = grad.double() @ w.detach().double(), grad.double().T @ x.detach().double()
    assert (x.grad.dtype, w.grad.dtype) == (torch.bfloat16, torch.float32)
    # e4m3 has 3 stored bits (error to 1/16), e5m2 2 (to 1/8); errors average over the sums.
    for got, want, tolerance in ((z, exact, 0.04), (x.grad, dx, 0.08), (w.grad, dw, 0.08)):
        assert ((got.double() - want).norm() / want.norm()).item() < tolerance


def test_fp8_backward_is_the_product_of_the_quantised_operands():
    x, w, scales = fp8_inputs()
    grad = (torch.randn(32, 48) * 0.01).bfloat16()
    small.fp8_linear(x, w, scales).backward(grad)
    quantised = [
        (t.detach().float() / s).to(kind).double() * s
        for t, s, kind in (
            (x, scales[0], torch.float8_e4m3fn),
            (w, scales[1], torch.float8_e4m3fn),
            (grad, scales[2], torch.float8_e5m2),
        )
    ]
    xq, wq, gq = quantised
    torch.testing.assert_close(w.grad.double(), gq.T @ xq, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(x.grad.double(), gq @ wq, rtol=5e-3, atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # the tracer warns about its own internals
def test_fp8_head_traces_into_one_graph():
    results = []
    for trace in (False, True):
        x, w, scales = fp8_inputs()
        call = small.fp8_linear
        if trace:
            call = torch.compile(call, dynamic=False, fullgraph=True, backend="aot_eager")
        z = call(x, w, scales)
        z.backward(torch.ones_like(z) * 0.01)
        results.append((z, x.grad, w.grad))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_fp8_model_trains_and_evaluates_in_bf16():
    config = replace(TINY, dtype="bfloat16")
    model = random_model(config, fp8=True)
    plain = small.GPT(config)
    plain.load_state_dict(model.state_dict())
    tokens = torch.tensor(random_tokens(65))
    batch = tokens[:-1].int(), tokens[1:].long(), window_tensor(2)
    assert model(*batch).item() == pytest.approx(plain(*batch).item(), rel=5e-3)
    assert model(*batch).item() != plain(*batch).item()
    model(*batch).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.eval()(*batch).item() == plain.eval()(*batch).item()


# --------------------------------------------------------------------------------------------------
# attention mask


def visible_elements(docs, window: int, block: int):
    """Dense (T, T) mask of the specification, element by element."""
    at = torch.arange(len(docs))
    causal = at[:, None] >= at[None, :]
    near = at[:, None] // block - at[None, :] // block < max(window, 1)
    return causal & near & (docs[:, None] == docs[None, :])


def dense_from_tables(tables, docs, block: int):
    """What FlexAttention sees: full blocks whole, partial blocks under the element mask."""
    partial_count, partial_index, full_count, full_index = tables
    count = len(partial_count)
    element = visible_elements(docs, count, block)
    dense = torch.zeros(len(docs), len(docs), dtype=torch.bool)
    for q in range(count):
        rows = slice(q * block, (q + 1) * block)
        assert full_count[q] >= 0
        for kv in partial_index[q, : partial_count[q]].tolist():
            columns = slice(kv * block, (kv + 1) * block)
            assert not dense[rows, columns].any()
            dense[rows, columns] = element[rows, columns]
        for kv in full_index[q, : full_count[q]].tolist():
            columns = slice(kv * block, (kv + 1) * block)
            assert not dense[rows, columns].any()  # no block is listed twice
            dense[rows, columns] = True
    return dense


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    starts=st.lists(st.integers(0, 63), max_size=12),
    window=st.integers(0, 9),
    all_partial=st.booleans(),
)
def test_block_tables_against_the_dense_mask(starts, window, all_partial):
    block = 8
    docs = torch.zeros(64, dtype=torch.int32)
    docs[starts] = 1
    docs = docs.cumsum(0, dtype=torch.int32)
    tables = small.block_tables(docs, block, all_partial)
    assert all(t.dtype == torch.int32 for t in tables)
    for counts, indices in ((tables[0], tables[1]), (tables[2], tables[3])):
        for n, row in zip(counts.tolist(), indices.tolist(), strict=True):
            assert sorted(row) == list(range(8))  # unused entries are valid indices as well
            assert row[:n] == sorted(row[:n], reverse=True)  # the most recent first
    full = visible_elements(docs, 8, block).view(8, block, 8, block).all(3).all(1)
    assert tables[2].tolist() == ([0] * 8 if all_partial else full.sum(1).tolist())
    clamped = small.clamp_window(tables, window_tensor(window))
    assert (clamped[0] + clamped[2] <= max(window, 1)).all()
    assert torch.equal(
        dense_from_tables(clamped, docs, block), visible_elements(docs, window, block)
    )


def test_clamped_counts_follow_the_formula():
    docs = torch.tensor([0] * 100 + [1] * 156, dtype=torch.int32)  # 16 blocks of 16; border in 6
    tables = small.block_tables(docs, 16)
    assert tables[2].tolist() == [0, 1, 2, 3, 4, 5, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert tables[0].tolist() == [1, 1, 1, 1, 1, 1, 7, 2, 2, 2, 2, 2, 2, 2, 2, 2]
    partial, _, full, _ = small.clamp_window(tables, window_tensor(4))
    assert full.tolist() == [0, 1, 2, 3, 3, 3, 0, 0, 1, 2, 3, 3, 3, 3, 3, 3]
    assert partial.tolist() == [1, 1, 1, 1, 1, 1, 4, 2, 2, 2, 1, 1, 1, 1, 1, 1]


def test_plain_attention_against_the_dense_mask():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 64, 8)
    docs = torch.tensor(random_tokens(64) == 95).cumsum(0)
    for window in (0, 1, 2, 4):
        got = small.plain_attention(q, k, v, docs, window_tensor(window), 8, 0.12)
        score = (q @ k.mT * 0.12).masked_fill(~visible_elements(docs, window, 8), -math.inf)
        torch.testing.assert_close(got, score.softmax(-1) @ v)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the tracer warns about its own internals
def test_flex_path_traces_into_one_graph():
    """Mask building and FlexAttention without a graph break. This backend evaluates FlexAttention
    by its element mask alone, hence a window that covers the sequence."""
    config = replace(TINY, block=128, train_tokens=512, val_tokens=512)
    model = random_model(config)
    tokens = torch.tensor(random_tokens(512, mean_document=100)).int()
    with torch.no_grad():  # on CPUs FlexAttention has no backward pass
        want = model.trunk(tokens, window_tensor(8))
        model.use_flex = True
        trunk = torch.compile(model.trunk, dynamic=False, fullgraph=True, backend="aot_eager")
        got = trunk(tokens, window_tensor(8))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


# --------------------------------------------------------------------------------------------------
# model


def test_rotary():
    cos, sin = small.rotary_tables(300, 128)
    assert cos.shape == sin.shape == (300, 64)
    for position, j in ((0, 0), (1, 0), (7, 5), (299, 31), (299, 32), (123, 63)):
        angle = position * (1 / 1024) ** (j / 31) if j < 32 else 0.0
        assert cos[position, j].item() == pytest.approx(math.cos(angle), abs=2e-5)
        assert sin[position, j].item() == pytest.approx(math.sin(angle), abs=2e-5)
    x = torch.randn(300, 2, 128)
    y = small.rotate(x, cos, sin)
    a, b = x[9, 1, 3].item(), x[9, 1, 67].item()
    angle = 9 * (1 / 1024) ** (3 / 31)
    assert y[9, 1, 3].item() == pytest.approx(a * math.cos(angle) + b * math.sin(angle), abs=1e-5)
    assert y[9, 1, 67].item() == pytest.approx(b * math.cos(angle) - a * math.sin(angle), abs=1e-5)
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1))


def reference_losses(weights, tokens, targets, window: int):
    """The specification read once more: fp64, dense attention, one head at a time."""
    w = {k: v.double() for k, v in weights.items()}
    n, dim, heads = TINY.layers, TINY.dim, TINY.heads
    size = dim // heads

    def rms(x):
        return x / (x.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).sqrt()

    def rope(x):  # (T, size)
        half, quarter = size // 2, size // 4
        y = x.clone()
        for j in range(quarter):  # the other quarter's frequencies are zero
            angle = torch.arange(len(x)).double() * (1 / 1024) ** (j / (quarter - 1))
            first, second = x[:, j], x[:, half + j]
            y[:, j] = first * angle.cos() + second * angle.sin()
            y[:, half + j] = -first * angle.sin() + second * angle.cos()
        return y

    docs = (tokens == TINY.bos_token).cumsum(0)
    scalars = w["scalars"]
    x = x0 = rms(w["embed"][tokens])
    outputs = []
    for i in range(n):
        if i >= n // 2:
            x = x + scalars[i - n // 2] * outputs[n - 1 - i]
        l0, l1 = scalars[n + 2 * i], scalars[n + 2 * i + 1]
        a0, a1 = scalars[3 * n + 2 * i], scalars[3 * n + 2 * i + 1]
        x = l0 * x + l1 * x0
        if i != 4:
            wide = i in (0, 3, 7)
            mask = visible_elements(docs, window if wide else window // 2, TINY.block)
            h, parts = rms(x), []
            table = {0: 0, 1: 1, 2: 2, 5: 0, 6: 1, 7: 2}.get(i)
            for head in range(heads):
                cut = slice(head * size, (head + 1) * size)
                q, k, v = (h @ w[f"blocks.{i}.qkv"][j, cut].T for j in range(3))
                v = a0 * v
                if table is not None:
                    v = v + a1 * w[f"value_tables.{table}"][tokens][:, cut]
                score = 0.12 * rope(rms(q)) @ rope(rms(k)).T
                parts.append(score.masked_fill(~mask, -math.inf).softmax(-1) @ v)
            x = x + torch.cat(parts, -1) @ w[f"blocks.{i}.out"].T
        x = x + (rms(x) @ w[f"blocks.{i}.up"].T).clamp_min(0) ** 2 @ w[f"blocks.{i}.down"].T
        outputs.append(x)
    z = rms(x) @ w["head"].T
    z = 30 / (1 + torch.exp(-z / (7.5 * dim**0.5)))
    return z.logsumexp(-1) - z[torch.arange(len(z)), targets]


@pytest.mark.parametrize("window", [1, 2, 3])
def test_model_against_the_specification(window):
    model = random_model(seed=window)
    tokens = torch.tensor(random_tokens(129, seed=window))
    inputs, targets = tokens[:-1], tokens[1:]
    losses = reference_losses(model.state_dict(), inputs, targets, window)
    batch = inputs.int(), targets.long(), window_tensor(window)
    assert losses.std() > 0.1
    assert model(*batch).item() == pytest.approx(losses.sum().item(), rel=2e-6)
    assert model.eval()(*batch).item() == pytest.approx(losses.sum().item(), rel=2e-6)


def test_first_loss_is_the_logarithm_of_the_vocabulary():
    model = small.GPT(replace(TINY, dtype="bfloat16"))
    tokens = torch.tensor(random_tokens(65))
    loss = model.eval()(tokens[:-1].int(), tokens[1:].long(), window_tensor(1))
    assert loss.item() / 64 == pytest.approx(math.log(96), abs=1e-6)
    assert math.log(small.Config().vocab_size) == pytest.approx(10.8258, abs=1e-4)


def test_record_shapes_and_initial_values():
    with torch.device("meta"):
        model = small.GPT(small.Config())
    shapes = {k: tuple(p.shape) for k, p in model.named_parameters()}
    assert shapes["scalars"] == (64,)
    assert shapes["blocks.0.qkv"] == (3, 768, 768)
    assert "blocks.7.qkv" not in shapes
    assert sum(p.numel() for p in model.blocks.parameters()) == 82_575_360
    assert {p.dtype for p in (model.embed, *model.value_tables)} == {torch.bfloat16}
    assert {p.dtype for p in (model.head, model.scalars, *model.blocks.parameters())} == {
        torch.float32
    }
    tiny = small.GPT(TINY)
    assert tiny.scalars.tolist() == [1.0] * 8 + [1.0, 0.0] * 8 + [0.5] * 16
    odd = small.GPT(replace(TINY, layers=6))  # 30 scalars, two ones to fill up
    assert odd.scalars.tolist() == [1.0] * 6 + [1.0, 0.0] * 6 + [0.5] * 12 + [1.0] * 2
    assert tiny.blocks[0].qkv.std().item() == pytest.approx(0.5 * 32**-0.5, rel=0.05)
    assert tiny.blocks[0].up.abs().max() <= 3**0.5 * 0.5 * 32**-0.5
    for zero in (tiny.blocks[0].out, tiny.blocks[0].down, tiny.head):
        assert not zero.any()


# --------------------------------------------------------------------------------------------------
# optimizers


@pytest.mark.parametrize("shape", [(24, 24), (48, 16), (16, 48), (3, 24, 24)])
def test_newton_schulz_acts_on_singular_values_only(shape):
    torch.manual_seed(0)
    g = torch.randn(shape)
    u, s, vt = torch.linalg.svd(g, full_matrices=False)
    s = s / s.square().sum(-1, keepdim=True).sqrt()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    got = small.newton_schulz(g)
    assert got.dtype == torch.bfloat16
    inner = u.mT @ got.float() @ vt.mT  # diagonal in the singular basis
    assert (inner - torch.diag_embed(s)).abs().max() < 0.06  # bf16: 8 bits, five iterations


def test_newton_schulz_range():
    s = torch.logspace(math.log10(0.002), 0, 10_000, dtype=torch.float64)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    assert 0.68 < s.min() < s.max() < 1.21


def test_adam_against_torch(process_group):
    torch.manual_seed(0)
    config = replace(TINY, micro_batches=4)
    ours = torch.nn.Parameter(torch.randn(16, 3))
    theirs = torch.nn.Parameter(ours.detach().clone())
    adam = small.ShardedAdam([(ours, 2.5)], config, CPU)
    reference = torch.optim.Adam([theirs], lr=0.008 * 2.5, betas=(0.8, 0.95), eps=1e-10)
    for _ in range(5):
        grad = torch.randn(16, 3)
        ours.grad, theirs.grad = 4 * grad, grad
        adam.begin()
        for work in adam.finish(0.008):
            work.wait()
        reference.step()
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("shape", "factor"), [((8, 8), 1), ((32, 8), 2), ((8, 32), 1)])
def test_muon_step(process_group, shape, factor):
    torch.manual_seed(0)
    config = replace(TINY, micro_batches=2)
    param = torch.nn.Parameter(torch.randn(shape))
    start, muon = param.detach().clone(), small.Muon([param], config, CPU)
    buffer = torch.zeros(shape)
    for momentum in (0.85, 0.9):
        grad = torch.randn(shape)
        param.grad = 2 * grad
        muon.begin()
        for work in muon.finish(0.05, momentum):
            work.wait()
        buffer = buffer.lerp(grad, 1 - momentum)
        direction = small.newton_schulz(grad.lerp(buffer, momentum)).float()
        start -= 0.05 * factor * direction
        torch.testing.assert_close(param.detach(), start, rtol=0, atol=0.05 * factor * 0.02)


WORLD_SCRIPT = """
import os
torch.manual_seed(0)
place = small.join(config)
model = small.GPT(config)
for p in model.parameters():
    dist.broadcast(p.detach(), 0)
adam, muon = small.make_optimizers(model, config, place)
for step in range(4):
    for part in range(place.rank, 4, place.world):
        torch.manual_seed(100 * step + part)
        for p in model.parameters():  # small integers: their sum is exact in any order
            grad = torch.randint(-9, 10, p.shape).to(p.dtype)
            p.grad = grad if p.grad is None else p.grad + grad
    adam.begin()
    muon.begin()
    for work in adam.finish(0.008) + muon.finish(0.05, 0.9):
        work.wait()
    model.zero_grad()
# Each rank's copy: all-gathers must leave them equal.
torch.save(model.state_dict(), os.environ["OUT"] + f".{place.world}.{place.rank}")

files = small.find_shards(config.train_files)
batches = small.train_batches(files, config, place)
for step in range(2):
    window = torch.full((), 3, dtype=torch.int32)
    small.train_step(model, adam, muon, batches, window, step, config, place)
loss = small.Validator(model, config)(small.val_batches(files, config, place), window)
if place.rank == 0:
    print("loss", loss)
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_world_sizes_give_the_same_update(tmp_path):
    write_shard(tmp_path / "data/fineweb10B/fineweb_train_1.bin", random_tokens(256 * 8))
    script = tmp_path / "world.py"
    script.write_text(LAUNCHER + "config = small.replace(config, micro_batches=4)" + WORLD_SCRIPT)
    env = {"DATA_PATH": str(tmp_path), "OUT": str(tmp_path / "weights")}
    outputs = {world: torchrun(script, world, env, tmp_path).stdout for world in (1, 2, 4)}
    one = torch.load(tmp_path / "weights.1.0")
    moved = {name: value.std().item() for name, value in one.items() if "out" in name}
    assert min(moved.values()) > 0.01
    for world in (2, 4):
        for rank in range(world):
            other = torch.load(tmp_path / f"weights.{world}.{rank}")
            assert other.keys() == one.keys()
            for name, value in one.items():
                assert torch.equal(value, other[name]), (world, rank, name)
    # Two steps of training more, on real gradients, whose sums are rounded in another order.
    losses = [float(re.search(r"loss (.*)", text)[1]) for text in outputs.values()]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-3)


# --------------------------------------------------------------------------------------------------
# checkpoint and scorer


@pytest.fixture(params=["safetensors", "torch"])
def checkpoint(request, tmp_path, monkeypatch):
    model = random_model(replace(TINY, dtype="bfloat16"))
    if request.param == "torch":
        monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    else:
        pytest.importorskip("safetensors")
    path = tmp_path / "new" / "weights"
    small.save_checkpoint(model, path)
    assert [p.name for p in path.parent.iterdir()] == ["weights"]
    assert (path.read_bytes()[:2] == b"PK") == (request.param == "torch")
    return model, path


def test_checkpoint_round_trip(checkpoint):
    model, path = checkpoint
    scorer = small.load_scorer(str(path), "cpu")
    assert json.dumps(small.asdict(scorer.config)) == json.dumps(small.asdict(model.config))
    loaded, saved = scorer.model.state_dict(), model.state_dict()
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[k], saved[k]) for k in saved)
    assert not scorer.model.training


@pytest.fixture
def scorer():
    config = replace(TINY, dtype="bfloat16")
    return small.Scorer(random_model(config).eval(), torch.device("cpu"))


@pytest.mark.parametrize("length", [0, 1, 2, 65, 128, 129, 300])
def test_nll_and_logprobs_agree(scorer, length):
    tokens = random_tokens(300)[:length]
    nll = scorer.nll(torch.tensor(tokens))
    assert (nll.dtype, nll.shape) == (torch.float32, (max(length - 1, 0),))
    rows = scorer.logprobs(tokens.tolist(), range(length))
    assert (rows.dtype, rows.shape) == (torch.float32, (length, 96))
    torch.testing.assert_close(rows.exp().sum(-1), torch.ones(length), rtol=0, atol=1e-5)
    if length > 1:
        picked = rows[torch.arange(length - 1), torch.tensor(tokens[1:])]
        torch.testing.assert_close(-picked, nll, rtol=0, atol=1e-6)
        some = scorer.logprobs(tokens, [length - 1, 0, 0])
        torch.testing.assert_close(some, rows[[length - 1, 0, 0]], rtol=0, atol=1e-6)


def test_nll_is_the_validation_loss(scorer):
    tokens = torch.tensor(random_tokens(513))
    losses = [
        scorer.model(tokens[s : s + 128].int(), tokens[s + 1 : s + 129].long(), scorer.window)
        for s in range(0, 512, 128)
    ]
    assert scorer.window.item() == small.window_blocks(TINY.steps, TINY) == 3
    want = torch.stack(losses).sum().item() / 512
    assert scorer.nll(tokens).mean().item() == pytest.approx(want, rel=1e-5)


def test_scores_do_not_see_the_future(scorer):
    tokens = torch.tensor(random_tokens(128))
    before, rows = scorer.nll(tokens), scorer.logprobs(tokens, range(128))
    for at, new in ((1, 3), (40, 95), (64, 3), (127, 95)):
        changed = tokens.clone()
        changed[at] = new
        assert torch.equal(scorer.nll(changed)[: at - 1], before[: at - 1])
        after = scorer.logprobs(changed, range(128))
        assert torch.equal(after[:at], rows[:at])
        assert not torch.equal(after[at:], rows[at:])


def test_scorer_refuses_what_it_cannot_score(scorer):
    with pytest.raises(ValueError, match=r"tokens must lie in 0 \.\.\. 95"):
        scorer.nll([1, 96])
    with pytest.raises(ValueError, match=r"positions must lie in 0 \.\.\. 1"):
        scorer.logprobs([1, 2], [2])


# --------------------------------------------------------------------------------------------------
# the whole run


@pytest.mark.slow
def test_whole_run_with_two_processes(tmp_path):
    config = replace(TINY, dtype="bfloat16", steps=40, validate_every=20)
    folder = tmp_path / "data" / "fineweb10B"
    for i in (1, 2):
        write_shard(folder / f"fineweb_train_{i:06d}.bin", random_tokens(128 * 25, seed=i))
    val = random_tokens(600, seed=3)
    write_shard(folder / "fineweb_val_000000.bin", val)
    script = tmp_path / "mini.py"
    script.write_text(f"{LAUNCHER}\nsmall.main(small.{config!r})\n")
    env = {"DATA_PATH": str(tmp_path), "SPEEDRUN_CHECKPOINT": str(tmp_path / "final")}
    done = torchrun(script, 2, env, tmp_path)
    lines = done.stdout.splitlines()

    pattern = r"step:(\d+)/40 val_loss:(\d+\.\d{6}) train_time:(\d+)ms step_avg:(\d+\.\d\d)ms"
    found = [m for line in lines if (m := re.fullmatch(pattern, line))]
    assert [int(m[1]) for m in found] == [0, 20, 40]
    losses = [float(m[2]) for m in found]
    assert losses[0] == pytest.approx(math.log(96), abs=1e-5)
    assert losses[2] < losses[1] < losses[0] - 0.5
    times = [int(m[3]) for m in found]
    assert times[0] < times[1] < times[2]
    pattern = r"step:(\d+)/40 train_time:(\d+)ms step_avg:(\d+\.\d\d)ms"
    found = [m for line in lines if (m := re.fullmatch(pattern, line))]
    assert [int(m[1]) for m in found] == list(range(1, 41))
    assert sum("head in bf16" in line for line in lines) == 1  # rank 0 alone prints

    (log,) = (tmp_path / "logs").iterdir()
    assert lines[0] == f"logs/{log.name}"
    source, environment, rest = log.read_text().split("\n" + "=" * 100 + "\n")
    assert source == SCRIPT.read_text()
    assert environment.startswith("Python 3")
    assert rest.splitlines() == lines[1:]

    scorer = small.load_scorer(tmp_path / "final", "cpu")
    rescored = scorer.nll(torch.tensor(val[:513].astype(np.int64))).double().mean().item()
    assert rescored == pytest.approx(losses[2], abs=2e-4)


def test_warm_up_leaves_no_trace(tmp_path, monkeypatch):
    folder = tmp_path / "data" / "fineweb10B"
    write_shard(folder / "fineweb_train_000001.bin", random_tokens(128 * 12))
    write_shard(folder / "fineweb_val_000000.bin", random_tokens(513))
    monkeypatch.setenv("DATA_PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SPEEDRUN_CHECKPOINT"):
        monkeypatch.delenv(name, raising=False)
    results = []
    for warmup in (0, 3):
        torch.manual_seed(5)
        results.append(small.main(replace(TINY, warmup_steps=warmup)))
    assert results[0] == results[1]


def test_world_size_that_does_not_divide_the_batch(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(small.Unfit, match="3 processes cannot share 8 micro-batches"):
        small.join(small.Config())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_record_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(small.Unfit, match="rank 0: no GPU 0, PyTorch sees 0"):
        small.join(small.Config())


# --------------------------------------------------------------------------------------------------
# on a GPU

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("all_partial", [False, True])
def test_flex_attention_with_windows_against_plain(all_partial):
    torch.manual_seed(0)
    q, k, v, grad = torch.randn(4, 1, 6, 4096, 128, device="cuda").bfloat16()
    docs = (torch.rand(4096, device="cuda") < 1 / 400).cumsum(0, dtype=torch.int32)

    @torch.compile(dynamic=False)
    def attend(q, k, v, docs, window):
        tables = small.clamp_window(small.block_tables(docs, 128, all_partial), window)
        mask = small.flex_mask(tables, docs, 128)
        return small.flex_attention(q, k, v, block_mask=mask, scale=0.12)

    for window in (0, 1, 3, 14):
        w, results = window_tensor(window, "cuda"), []
        for call in (attend, lambda *a: small.plain_attention(*a, 128, 0.12)):
            leaves = [t.detach().clone().requires_grad_() for t in (q, k, v)]
            out = call(*leaves, docs, w)
            out.backward(grad)
            results.append([out, *(t.grad for t in leaves)])
        for got, want in zip(*results, strict=True):
            error = (got.float() - want.float()).norm() / want.float().norm()
            assert error < 0.01


@pytest.mark.gpu
@needs_gpu
@pytest.mark.filterwarnings("ignore")
def test_fp8_head_on_the_gpu_at_full_shape():
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("FP8 needs compute capability 8.9")
    torch.manual_seed(0)
    x = small.norm(torch.randn(49152, 768, device="cuda")).bfloat16()
    w, scales = torch.randn(50304, 768, device="cuda") * 0.2, small.fp8_scales(768)
    grad = (torch.randn(49152, 50304, device="cuda", dtype=torch.bfloat16)) * 1e-3
    x8, w8 = x.clone().requires_grad_(), w.clone().requires_grad_()
    z = torch.compile(small.fp8_linear, dynamic=False)(x8, w8, scales)
    z.backward(grad)
    wb = w.bfloat16()
    for got, want in ((z, x @ wb.T), (x8.grad, grad @ wb), (w8.grad, grad.T @ x)):
        error = (got.float() - want.float()).norm() / want.float().norm()
        assert error < 0.08


@pytest.mark.gpu
@needs_gpu
@pytest.mark.filterwarnings("ignore")
def test_scores_on_the_gpu_are_causal_to_the_last_bit():
    config = small.Config(layers=8, vocab_size=1024, bos_token=1023, val_tokens=8192)
    scorer = small.Scorer(random_model(config).cuda().eval(), torch.device("cuda"))
    tokens = torch.randint(0, 1023, (4096,))
    tokens[::300] = 1023
    before = scorer.nll(tokens)
    for at in (1000, 2047, 4000):
        changed = tokens.clone()
        changed[at] = 1023
        assert torch.equal(scorer.nll(changed)[: at - 1], before[: at - 1])
