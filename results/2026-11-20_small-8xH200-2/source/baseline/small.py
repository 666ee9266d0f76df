"""Track *small*, the readable standing record: a GPT-2 of 12 layers reaches 3.28 nats on FineWeb.

    torchrun --standalone --nproc-per-node=8 baseline/small.py          (1, 2, 4 or 8 processes)

This is record #25 of the NanoGPT speedrun (2025-07-13, 2.896 min on 8 H100s), written from its
specification: 1770 steps of 393,216 tokens, published at 98.2 ms a step (93.6 early, growing with
the attention window), 33,278 MiB allocated, loss 3.279. Losses on the way, on FineWeb: 125: 4.645,
250: 4.097, 500: 3.747, 750: 3.600, 1000: 3.512, 1250: 3.424, 1500: 3.343, 1770: 3.279.

Read it from top to bottom: configuration, data, schedules, FP8 head, attention mask, model,
optimizers, checkpoint and scorer, training. It imports nothing else of the project, and importing
it starts nothing and touches no GPU.
"""

import os

# Segments that grow in place keep reserved memory near the live peak. Must be set before torch.
os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

import functools
import gc
import json
import math
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention

SOURCE = Path(__file__).read_text()  # what runs is what is logged, even if the file changes now
Batch = tuple[Tensor, Tensor]  # inputs (T,) int32 and targets (T,) int64


class Unfit(SystemExit):
    """Machine, data or launch cannot carry the run: says what and how to fix it; exit status 1."""


# --------------------------------------------------------------------------------------------------
# Configuration. The record is Config(). Only tests build others; the environment changes nothing.


@dataclass(frozen=True, kw_only=True)
class Config:
    # data and batch: always `micro_batches` sequences a step, shared out to 1, 2, 4 or 8 ranks
    train_files: str = "data/fineweb10B/fineweb_train_*.bin"  # under DATA_PATH
    val_files: str = "data/fineweb10B/fineweb_val_*.bin"
    vocab_size: int = 50304  # 50257 GPT-2 tokens, rounded up to a multiple of 128
    bos_token: int = 50256  # each document starts with it
    micro_batches: int = 8
    train_tokens: int = 48 * 1024  # in a micro-batch, which is one sequence
    val_tokens: int = 256 * 1024  # in a validation sequence
    val_total_tokens: int = 10_485_760
    # model
    layers: int = 12
    dim: int = 768
    heads: int = 6
    mlp_dim: int = 3072
    attention_free: Sequence[int] = (7,)  # layers with an MLP only
    long_window: Sequence[int] = (0, 4, 7, 11)  # layers that see the whole window, others half
    value_tables: int = 3  # for the first and the last three layers
    softmax_scale: float = 0.12  # sharper than 1 / sqrt(128) = 0.088, as q and k are normed
    block: int = 128  # tokens in a block of the attention mask
    dtype: str = "bfloat16"  # of activations and embedding tables
    # schedules
    steps: int = 1770
    cooldown: float = 0.4  # part of the run in which the learning rate falls from 1 to 0.1
    window_tokens: int = 1728  # attention window at the end, growing linearly from nothing
    momentum_steps: int = 300
    validate_every: int = 125
    warmup_steps: int = 10  # untimed: they compile everything, then all state is put back
    # optimizers
    adam_lr: float = 0.008
    adam_betas: Sequence[float] = (0.8, 0.95)
    embed_lr_mul: float = 75.0
    head_lr_mul: float = 27.5
    scalar_lr_mul: float = 5.0
    muon_lr: float = 0.05
    # machine
    device: str = "cuda"  # "cpu" is for tests: neither FlexAttention nor FP8
    compile: bool = True

    @property
    def batch_tokens(self) -> int:
        return self.micro_batches * self.train_tokens


def compiled(fn: Callable) -> Callable:
    """`fn` compiled into one graph, or an error. What follows a graph break runs op by op and says
    nothing: one, in torch 2.11 alone, cost 28 of 94 ms a micro-batch on an H200."""
    return torch.compile(fn, dynamic=False, fullgraph=True)


@dataclass(frozen=True)
class Place:
    """This process among the processes of the run."""

    rank: int
    world: int
    device: torch.device


# --------------------------------------------------------------------------------------------------
# Data. A shard is a header of 256 int32 (magic, version, number of tokens), then uint16 tokens.


def find_shards(pattern: str) -> list[Path]:
    """Shards under DATA_PATH that match `pattern`, in the order of their names."""
    root = Path(os.environ.get("DATA_PATH", "."))
    files = sorted(root.glob(pattern))
    if not files:
        raise Unfit(f"no {pattern} under {root.resolve()}: set DATA_PATH to the parent of data/")
    return files


def read_header(path: Path) -> int:
    """Number of tokens in a shard. Raises Unfit if the file is not one, or not a complete one."""
    with path.open("rb") as file:
        raw = file.read(1024).ljust(1024, b"\0")
    magic, version, count, *_ = torch.frombuffer(bytearray(raw), dtype=torch.int32).tolist()
    if (magic, version) != (20240520, 1):
        raise Unfit(f"{path}: not a token shard (magic {magic}, version {version}); fetch it again")
    size, expected = path.stat().st_size, 1024 + 2 * count
    if size != expected:
        raise Unfit(f"{path}: {size} bytes, its {count} tokens take {expected}; fetch it again")
    return count


def load_shard(path: Path, pin: bool, limit: int | None = None) -> Tensor:
    """The first `limit` tokens of a shard (default all), uint16, read straight into pinned memory.

    Pinned, because copies to the GPU then need not wait for the GPU to finish its work.
    """
    count = read_header(path)
    tokens = torch.empty(min(count, limit or count), dtype=torch.uint16, pin_memory=pin)
    with path.open("rb", buffering=0) as file:
        file.seek(1024)
        view, done = memoryview(tokens.numpy()).cast("B"), 0
        while done < len(view):  # a raw read may return less than asked for
            done += file.readinto(view[done:])
    return tokens


def to_device(tokens: Tensor, device: torch.device) -> Batch:
    """Inputs and targets of T tokens each from T + 1 uint16 tokens, widened after the copy."""
    tokens = tokens.to(device, non_blocking=True)
    return tokens[:-1].to(torch.int32), tokens[1:].to(torch.int64)


def steps_in(shard_tokens: int, batch_tokens: int) -> int:
    """How many steps `train_batches` takes from a shard."""
    return max(0, math.ceil((shard_tokens - 1) / batch_tokens) - 1)


def train_batches(files: Sequence[Path], config: Config, place: Place) -> Iterator[Batch]:
    """This rank's micro-batches, `micro_batches / world` of them for each step.

    A step reads one contiguous slice of the shard, cut in `micro_batches` equal parts; rank r takes
    parts r, r + world, ... So each world size sees the same tokens in the same step.
    """
    size, read = config.train_tokens, 0
    for path in files:
        tokens, position = load_shard(path, pin=place.device.type == "cuda"), 0
        while position + config.batch_tokens + 1 < len(tokens):
            for part in range(place.rank, config.micro_batches, place.world):
                start = position + part * size
                yield to_device(tokens[start : start + size + 1], place.device)
            position += config.batch_tokens
        read += position
    raise Unfit(f"{len(files)} train shards are exhausted after {read:,} tokens: fetch more")


def val_batches(files: Sequence[Path], config: Config, place: Place) -> Iterator[Batch]:
    """This rank's share of the first `val_total_tokens` tokens, in sequences of `val_tokens`."""
    size, need = config.val_tokens, config.val_total_tokens + 1
    tokens = load_shard(files[0], pin=place.device.type == "cuda", limit=need)
    if len(tokens) < need:
        raise Unfit(
            f"{files[0]}: {len(tokens):,} tokens, validation reads {need:,}; fetch it again"
        )
    for start in range(place.rank * size, need - 1, place.world * size):
        yield to_device(tokens[start : start + size + 1], place.device)


# --------------------------------------------------------------------------------------------------
# Schedules. Functions of the step alone.


def lr_factor(step: int, config: Config) -> float:
    """1 for the first 60 % of the run, then linear to 0.1."""
    w = min((1 - step / config.steps) / config.cooldown, 1.0)
    return w + 0.1 * (1 - w)


def muon_momentum(step: int, config: Config) -> float:
    """0.85 to 0.95, linear in the first 300 steps."""
    return 0.85 + 0.10 * min(step / config.momentum_steps, 1.0)


def window_blocks(step: int, config: Config) -> int:
    """Attention window in blocks, 1 to 14: steps are cheaper while the model is still simple."""
    return max(1, math.ceil(config.window_tokens * step / (config.steps * config.block)))


# --------------------------------------------------------------------------------------------------
# FP8 head. The head is the largest matmul (of 49,152 x 768 x 50,304: 3.8 of 12 TFLOP forward), and
# FP8 runs at twice the rate of bf16. Training only: losses that are reported use a bf16 head.
#
# Scales are constants, nothing is measured at run time: entries of the normed x are at most
# sqrt(768), those of w stay below 24, those of dloss/dz below 30 / (4 * 7.5 * sqrt(768)) = 0.04;
# 448 is the largest e4m3 number.


def fp8_scales(dim: int) -> list[float]:
    """Scales of x, w and the gradient."""
    return [math.sqrt(dim) / 448, 24 / 448, 1 / 448]


def scaled_matmul(
    a: Tensor, b: Tensor, a_scale: float, b_scale: float, dtype: torch.dtype, fast: bool
) -> Tensor:
    """(a * a_scale) @ (b * b_scale) in FP8, a row-major, b column-major (Hopper has no other)."""
    if not a.is_cuda:  # the definition
        return ((a.float() * a_scale) @ (b.float() * b_scale)).to(dtype)
    # Each scale in storage of its own: slices of a longer tensor gave CUBLAS_STATUS_NOT_SUPPORTED
    # (H200, torch 2.11, CUDA 13). torch.full is a kernel; torch.tensor would wait for the GPU.
    scales = [torch.full((), s, dtype=torch.float32, device=a.device) for s in (a_scale, b_scale)]
    return torch._scaled_mm(a, b, *scales, out_dtype=dtype, use_fast_accum=fast)


@torch.library.custom_op("baseline_small::fp8_head", mutates_args=())
def fp8_head(x: Tensor, w: Tensor, x8: Tensor, w8: Tensor, scales: list[float]) -> Tensor:
    """z (T, V) bf16 = x (T, D) @ w (V, D)^T, from the FP8 copies x8 and w8.

    x and w are not read: autograd attaches the gradients to them. Quantisation stays outside of the
    op, in plain code, so that the compiler fuses it with its neighbours.
    """
    return scaled_matmul(x8, w8.T, scales[0], scales[1], torch.bfloat16, fast=True)


@fp8_head.register_fake
def _(x: Tensor, w: Tensor, x8: Tensor, w8: Tensor, scales: list[float]) -> Tensor:
    return x.new_empty((len(x), len(w)), dtype=torch.bfloat16)


@functools.cache
def compiled_transpose() -> Callable[[Tensor], Tensor]:
    return compiled(lambda a: a.T.contiguous())


def transposed(a: Tensor) -> Tensor:
    """A contiguous a^T. On GPUs in a kernel of its own, which goes over the matrix in tiles: eager
    PyTorch takes 15.9 ms for the e5m2 gradient of (49,152 x 50,304) on an H200."""
    return compiled_transpose()(a) if a.is_cuda else a.T.contiguous()


@torch.library.custom_op("baseline_small::fp8_head_backward", mutates_args=())
def fp8_head_backward(
    g8: Tensor, x8: Tensor, w8: Tensor, scales: list[float]
) -> tuple[Tensor, Tensor]:
    """dx (T, D) bf16 = g w and dw (V, D) fp32 = g^T x. No fast accumulation: its short partial sums
    do for the 768 terms of the forward pass, not for 50,304.

    The transposed copies, which make both operands contiguous along the summed axis, are made in
    here, where the compiler of the model cannot see them: it would write the transposed gradient
    from the kernel that computes it row by row, as single bytes 49,152 apart."""
    x_s, w_s, g_s = scales
    dx = scaled_matmul(g8, transposed(w8).T, g_s, w_s, torch.bfloat16, fast=False)
    dw = scaled_matmul(transposed(g8), transposed(x8).T, g_s, x_s, torch.float32, fast=False)
    return dx, dw


@fp8_head_backward.register_fake
def _(g8: Tensor, x8: Tensor, w8: Tensor, scales: list[float]) -> tuple[Tensor, Tensor]:
    dx = g8.new_empty((len(g8), w8.size(1)), dtype=torch.bfloat16)
    return dx, g8.new_empty(w8.shape, dtype=torch.float32)


def _fp8_head_save(ctx, inputs, output) -> None:
    _, _, x8, w8, ctx.scales = inputs
    ctx.save_for_backward(x8, w8)


def _fp8_head_grad(ctx, grad):
    x8, w8 = ctx.saved_tensors
    g8 = (grad.float() / ctx.scales[2]).to(torch.float8_e5m2)  # gradients need range, not digits
    dx, dw = fp8_head_backward(g8, x8, w8, ctx.scales)
    return dx, dw, None, None, None


fp8_head.register_autograd(_fp8_head_grad, setup_context=_fp8_head_save)


def fp8_linear(x: Tensor, w: Tensor, scales: list[float]) -> Tensor:
    """x (T, D) bf16 @ w (V, D)^T fp32 with FP8 matmuls, forward and backward. Returns bf16."""
    x8 = (x.detach().float() / scales[0]).to(torch.float8_e4m3fn)
    w8 = (w.detach().float() / scales[1]).to(torch.float8_e4m3fn)
    return fp8_head(x, w, x8, w8, scales)


# --------------------------------------------------------------------------------------------------
# Attention mask. A sequence of T tokens holds many documents; a token sees earlier tokens of its
# own document, at most `window` blocks of 128 back. FlexAttention wants, for each block of queries,
# the list of key blocks to visit with the element mask ("partial") and without it ("full"). They
# come from dense tables of T/128 x T/128 on the GPU (384 x 384 in training), a few microseconds;
# the generic builder evaluates the element mask at all T^2 = 2.4e9 places.

Tables = tuple[Tensor, Tensor, Tensor, Tensor]  # partial count and index, full count and index


def block_tables(docs: Tensor, block: int, all_partial: bool = False) -> Tables:
    """For each query block the key blocks that hold something visible, the most recent first.

    docs: (T,) each token's document number, non-decreasing. Returns int32: counts (blocks,) and
    indices (blocks, blocks), of which those beyond the count are unused. `all_partial` lists full
    blocks as partial: the same mask, but the arithmetic of a token then does not depend on whether
    a later token of its block starts a document; scores become causal to the last bit.
    """
    by_block = docs.view(-1, block)
    first, last = by_block[:, 0], by_block[:, -1]
    index = torch.arange(len(first), device=docs.device)
    distance = index[:, None] - index[None, :]
    visible = (distance >= 0) & (first[:, None] <= last[None, :])  # the ranges of documents overlap
    # Documents are in order, so that nothing else starts between the two ends of this comparison.
    full = (distance > 0) & (last[:, None] == first[None, :])
    if all_partial:
        full = torch.zeros_like(full)

    def most_recent_first(table: Tensor) -> tuple[Tensor, Tensor]:
        order = table.int().argsort(dim=-1, stable=True).flip(-1)
        return table.sum(-1, dtype=torch.int32), order.to(torch.int32)

    return *most_recent_first(visible & ~full), *most_recent_first(full)


def clamp_window(tables: Tables, window: Tensor) -> Tables:
    """Only the `window` most recent blocks of each list together; `window` is an int32 scalar.

    As the lists are in order of age, a window is a smaller count: a value on the GPU, which may
    grow from step to step without a recompilation.
    """
    partial_count, partial_index, full_count, full_index = tables
    partial_count = torch.minimum(partial_count, (window - full_count).clamp_min(1))
    return partial_count, partial_index, full_count.clamp_max((window - 1).clamp_min(0)), full_index


def flex_mask(tables: Tables, docs: Tensor, block: int) -> BlockMask:
    def visible(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return (q >= kv) & (docs[q] == docs[kv])

    lists = [t[None, None] for t in tables]
    return BlockMask.from_kv_blocks(*lists, BLOCK_SIZE=block, mask_mod=visible)


def plain_attention(
    q: Tensor, k: Tensor, v: Tensor, docs: Tensor, window: Tensor, block: int, scale: float
) -> Tensor:
    """The same without FlexAttention, one query block after the other, for CPUs.
    q, k, v and the result are (1, heads, T, head_dim)."""
    at = torch.arange(len(docs), device=docs.device)
    rows = []
    for start in range(0, len(docs), block):
        end = start + block
        low = max(0, end - max(int(window), 1) * block)
        mask = (at[start:end, None] >= at[low:end]) & (docs[start:end, None] == docs[low:end])
        keys, values = k[:, :, low:end], v[:, :, low:end]
        rows.append(
            F.scaled_dot_product_attention(
                q[:, :, start:end], keys, values, attn_mask=mask, scale=scale
            )
        )
    return torch.cat(rows, dim=2)


# --------------------------------------------------------------------------------------------------
# Model


def norm(x: Tensor) -> Tensor:
    """RMS norm over the last axis, without weights."""
    return F.rms_norm(x, (x.size(-1),))


def rotary_tables(length: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """cos and sin, each (length, head_dim / 2) fp32. Half of the frequencies are zero: those
    channels carry no position and are free to match content at any distance."""
    frequency = (1 / 1024) ** torch.linspace(0, 1, head_dim // 4)
    frequency = torch.cat([frequency, torch.zeros(head_dim // 4)])
    angle = torch.outer(torch.arange(length).float(), frequency)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x (T, heads, head_dim), in fp32."""
    a, b = x.float().chunk(2, dim=-1)
    cos, sin = cos[: len(x), None], sin[: len(x), None]
    return torch.cat([a * cos + b * sin, b * cos - a * sin], dim=-1).type_as(x)


class Block(nn.Module):
    """Weights of a layer, fp32. Output matrices start at zero: the layer starts as identity."""

    def __init__(self, config: Config, attention: bool) -> None:
        super().__init__()
        dim, hidden = config.dim, config.mlp_dim
        bound = math.sqrt(3) * 0.5 * dim**-0.5  # uniform with standard deviation 0.5 / sqrt(dim)
        uniform = torch.empty(3 * dim + hidden, dim).uniform_(-bound, bound)
        qkv, up = uniform[: 3 * dim].clone(), uniform[3 * dim :].clone()
        self.qkv = nn.Parameter(qkv.view(3, dim, dim)) if attention else None
        self.out = nn.Parameter(torch.zeros(dim, dim)) if attention else None
        self.up = nn.Parameter(up)
        self.down = nn.Parameter(torch.zeros(dim, hidden))


class GPT(nn.Module):
    """Called with one sequence, gives its loss in nats, summed over its tokens: neither optimizer
    minds the scale of gradients. Validation calls `trunk` and `loss` apart, see `Validator`."""

    def __init__(self, config: Config, fp8: bool = False) -> None:
        super().__init__()
        self.config, self.fp8 = config, fp8
        self.use_flex = config.device != "cpu"
        vocab, dim, layers = config.vocab_size, config.dim, config.layers
        tables = torch.randn(1 + config.value_tables, vocab, dim).to(getattr(torch, config.dtype))
        self.embed = nn.Parameter(tables[0].clone())
        self.value_tables = nn.ParameterList([nn.Parameter(t.clone()) for t in tables[1:]])
        self.blocks = nn.ModuleList(
            [Block(config, i not in config.attention_free) for i in range(layers)]
        )
        self.head = nn.Parameter(torch.zeros(vocab, dim))  # the first loss is ln 50304 = 10.826
        # In one tensor, which Adam shards like any other: skip weights (the first half is used),
        # (l0, l1) and (a0, a1) of each layer, ones up to a multiple of 8, the largest world.
        pairs = [torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])]
        scalars = torch.cat([torch.ones(layers), *(p.repeat(layers) for p in pairs)])
        self.scalars = nn.Parameter(F.pad(scalars, (0, -5 * layers % 8), value=1.0))
        longest = max(config.train_tokens, config.val_tokens)
        cos, sin = rotary_tables(longest, dim // config.heads)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def attention(
        self, x: Tensor, block: Block, value: Tensor | None, mix: Tensor, attend: Callable
    ) -> Tensor:
        qkv = F.linear(x, block.qkv.flatten(0, 1).to(x.dtype))
        q, k, v = qkv.view(len(x), 3 * self.config.heads, -1).chunk(3, dim=1)  # (T, heads, 128)
        q, k = rotate(norm(q), self.cos, self.sin), rotate(norm(k), self.cos, self.sin)
        v = mix[0] * v
        if value is not None:  # each token adds a learned vector to its values: no matmul needed
            v = v + mix[1] * value.view_as(v)
        y = attend(*(t.transpose(0, 1)[None] for t in (q, k, v)))
        return F.linear(y[0].transpose(0, 1).reshape(x.shape), block.out.to(x.dtype))

    def trunk(self, tokens: Tensor, window: Tensor, all_partial: bool = False) -> Tensor:
        """All below the head: tokens (T,) -> features (T, D); T a multiple of `block`, `window`
        the long window in blocks, an int32 scalar."""
        config = self.config
        docs = (tokens == config.bos_token).cumsum(0, dtype=torch.int32)
        scale, windows = config.softmax_scale, (window // 2, window)
        if self.use_flex:
            tables = block_tables(docs, config.block, all_partial)
            masks = [flex_mask(clamp_window(tables, w), docs, config.block) for w in windows]
            kinds = [
                lambda q, k, v, m=m: flex_attention(q, k, v, block_mask=m, scale=scale)
                for m in masks
            ]
        else:
            kinds = [
                lambda q, k, v, w=w: plain_attention(q, k, v, docs, w, config.block, scale)
                for w in windows
            ]
        short, long = kinds  # by name: torch 2.11 cannot compile kinds[a bool]
        n = config.layers
        skip_weights, layer_mix, value_mix = self.scalars[: 5 * n].split([n, 2 * n, 2 * n])
        values = [F.embedding(tokens, table) for table in self.value_tables]
        values = values + [None] * (n - 2 * len(values)) + values

        x = x0 = norm(F.embedding(tokens, self.embed))
        skips: list[Tensor] = []  # U-net: layer 6 reads the output of layer 5, ... 11 that of 0
        for i, block in enumerate(self.blocks):
            if i >= n // 2:
                x = x + skip_weights[i - n // 2] * skips.pop()
            x = layer_mix[2 * i] * x + layer_mix[2 * i + 1] * x0
            if block.qkv is not None:
                attend = long if i in config.long_window else short
                mix = value_mix[2 * i : 2 * i + 2]
                x = x + self.attention(norm(x), block, values[i], mix, attend)
            hidden = F.linear(norm(x), block.up.to(x.dtype)).relu().square()
            x = x + F.linear(hidden, block.down.to(x.dtype))
            if i < n // 2:
                skips.append(x)
        return norm(x)

    def logits(self, x: Tensor) -> Tensor:
        """Logits (T, V) fp32 of features x (T, D), soft-capped to 0 ... 30."""
        dim = self.config.dim
        if self.training and self.fp8:
            z = fp8_linear(x, self.head, fp8_scales(dim))
        else:
            z = F.linear(x, self.head.to(x.dtype))
        return 30 * torch.sigmoid(z.float() / (7.5 * math.sqrt(dim)))

    def loss(self, x: Tensor, targets: Tensor) -> Tensor:
        """Nats of all targets (T,) together, from features x (T, D)."""
        return F.cross_entropy(self.logits(x), targets, reduction="sum")

    def forward(self, tokens: Tensor, targets: Tensor, window: Tensor) -> Tensor:
        return self.loss(self.trunk(tokens, window), targets)


# --------------------------------------------------------------------------------------------------
# Optimizers, both sharded: a rank receives (reduce-scatter) only the gradients of what it updates,
# and hands back (all-gather) the new weights. No update is computed twice, no all-reduce runs.
# begin() starts the reduce-scatters; finish() updates and starts the all-gathers.
# Gradients come as sums and are scaled by 1 / micro_batches: the mean over all micro-batches.

# torch 2.13 has new names for these two and warns at the old ones.
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


def number(value: float) -> Tensor:
    """A CPU scalar: unlike a float it may change without recompiling the function it goes to."""
    return torch.tensor(value, dtype=torch.float32)


def adam_update(
    param: Tensor, grad: Tensor, m: Tensor, v: Tensor, lr: Tensor, corrections: list[Tensor],
    betas: Sequence[float], grad_scale: float,
) -> None:  # fmt: skip
    """Adam (Kingma & Ba 2015) with eps 1e-10, no weight decay; `corrections` are 1 - beta^t.
    Moments are kept in the parameter's dtype, arithmetic is fp32."""
    g = grad.float() * grad_scale
    m32 = betas[0] * m.float() + (1 - betas[0]) * g
    v32 = betas[1] * v.float() + (1 - betas[1]) * g.square()
    m.copy_(m32)
    v.copy_(v32)
    step = m32 / corrections[0] / ((v32 / corrections[1]).sqrt() + 1e-10)
    param.copy_(param.float() - lr * step)


class ShardedAdam:
    """For embeddings, head and scalars; each is split on its first axis in `world` equal parts."""

    def __init__(
        self, params: Sequence[tuple[nn.Parameter, float]], config: Config, place: Place
    ) -> None:
        """`params`: tensors with the multiplier of their learning rate."""
        self.params, self.config, self.step = params, config, 0
        self.shards = [p.detach().chunk(place.world)[place.rank] for p, _ in params]
        self.m = [torch.zeros_like(s) for s in self.shards]
        self.v = [torch.zeros_like(s) for s in self.shards]
        self.update = compiled(adam_update) if config.compile else adam_update

    def begin(self) -> None:
        self.grads = [torch.empty_like(s) for s in self.shards]
        self.work = [
            _reduce_scatter(g, p.grad, async_op=True)
            for g, (p, _) in zip(self.grads, self.params, strict=True)
        ]

    def finish(self, lr: float) -> list[dist.Work]:
        """One step; returns the all-gathers that are under way."""
        self.step += 1
        config, gathers = self.config, []
        corrections = [number(1 - beta**self.step) for beta in config.adam_betas]
        for i, (param, multiplier) in enumerate(self.params):
            self.work[i].wait()
            self.update(
                self.shards[i], self.grads[i], self.m[i], self.v[i], number(lr * multiplier),
                corrections, config.adam_betas, 1 / config.micro_batches,
            )  # fmt: skip
            gathers.append(_all_gather(param.detach(), self.shards[i], async_op=True))
        del self.grads, self.work
        return gathers

    def state(self) -> list[Tensor]:
        return self.m + self.v


def newton_schulz(g: Tensor) -> Tensor:
    """About U V^T of g = U S V^T, for a matrix or a batch of them, in bf16 (Jordan et al. 2024).

    An iteration maps each singular value x to ax + bx^3 + cx^5. These coefficients do not converge
    to 1; they buy a steep slope at 0, so that five iterations bring all from 0.002 to 1 into
    0.68 ... 1.21, which trains as well.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = g.size(-2) > g.size(-1)
    x = g.bfloat16().mT if tall else g.bfloat16()  # the smaller of the two Gram matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # singular values into 0 ... 1
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def muon_update(
    param: Tensor, grad: Tensor, buffer: Tensor, momentum: Tensor, lr: Tensor, grad_scale: float
) -> None:
    """Nesterov momentum; then all singular values of the update are made about 1."""
    g = grad * grad_scale
    buffer.copy_(momentum * buffer + (1 - momentum) * g)
    param.sub_(lr * newton_schulz(momentum * buffer + (1 - momentum) * g))


class Muon:
    """For the matrices of the blocks. Those of one shape are taken `world` at a time; rank r owns
    the r-th of each such group. Dummies fill the groups up (46 matrices make 8 groups of 8)."""

    def __init__(self, params: Sequence[nn.Parameter], config: Config, place: Place) -> None:
        self.config, self.rank = config, place.rank
        self.groups: list[list[Tensor]] = []
        for shape in dict.fromkeys(p.shape for p in params):
            same = [p for p in params if p.shape == shape]
            same += [torch.zeros_like(same[0]).detach() for _ in range(-len(same) % place.world)]
            self.groups += [same[i : i + place.world] for i in range(0, len(same), place.world)]
        self.buffers = [torch.zeros_like(group[self.rank]).detach() for group in self.groups]
        self.update = compiled(muon_update) if config.compile else muon_update

    def begin(self) -> None:
        self.grads = [torch.empty_like(b) for b in self.buffers]
        self.work = []
        for group, mine in zip(self.groups, self.grads, strict=True):
            grads = [p.grad if p.requires_grad else p for p in group]
            self.work.append(dist.reduce_scatter(mine, grads, async_op=True))

    def finish(self, lr: float, momentum: float) -> list[dist.Work]:
        """One step; returns the all-gathers that are under way."""
        gathers = []
        for i, group in enumerate(self.groups):
            self.work[i].wait()
            mine = group[self.rank].detach()
            if group[self.rank].requires_grad:  # not a dummy
                rows, cols = mine.shape[-2:]
                size = number(lr * math.sqrt(max(1, rows / cols)))  # tall: more, to move outputs
                self.update(
                    mine, self.grads[i], self.buffers[i], number(momentum), size,
                    1 / self.config.micro_batches,
                )  # fmt: skip
            gathers.append(dist.all_gather([p.detach() for p in group], mine, async_op=True))
        del self.grads, self.work
        return gathers

    def state(self) -> list[Tensor]:
        return self.buffers


def make_optimizers(model: GPT, config: Config, place: Place) -> tuple[ShardedAdam, Muon]:
    tables = [(p, config.embed_lr_mul) for p in (model.embed, *model.value_tables)]
    ends = [(model.head, config.head_lr_mul), (model.scalars, config.scalar_lr_mul)]
    matrices = list(model.blocks.parameters())
    return ShardedAdam([*tables, *ends], config, place), Muon(matrices, config, place)


# --------------------------------------------------------------------------------------------------
# Checkpoint and scorer: with these the harness re-scores the weights by a loop of its own.


def save_checkpoint(model: GPT, path: Path) -> None:
    """Weights and configuration: safetensors where installed, else a weights-only torch file."""
    weights = {name: t.detach().cpu() for name, t in model.state_dict().items()}
    config = json.dumps(asdict(model.config))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        from safetensors.torch import save_file
    except ImportError:
        torch.save({"weights": weights, "config": config}, partial)
    else:
        save_file(weights, partial, metadata={"config": config})
    partial.replace(path)  # under its own name a checkpoint is always complete


def load_checkpoint(path: Path, device: torch.device) -> GPT:
    """The model of `save_checkpoint` in evaluation mode. Runs no code from the file."""
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"  # what torch.save writes
    if is_zip:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        weights, text = saved["weights"], saved["config"]
    else:
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            names, text = file.keys(), file.metadata()["config"]
            weights = {name: file.get_tensor(name) for name in names}
    model = GPT(replace(Config(**json.loads(text)), device=device.type))
    model.load_state_dict(weights)
    return model.eval().to(device)


class Scorer:
    """Scores tokens as validation does: sequences of at most 262,144 tokens, the final window, the
    bf16 head. All is computed in calls of fixed shapes, so that `nll` and `logprobs` give the same
    for the same token, and in an order of sums on which no later token has any influence."""

    ROWS = 1024  # features per call of the head

    def __init__(self, model: GPT, device: torch.device) -> None:
        self.model, self.device, self.config = model, device, model.config
        on_gpu = device.type == "cuda"
        self.trunk = compiled(model.trunk) if on_gpu else model.trunk
        longest = model.config.val_tokens
        self.lengths = sorted({n for n in (4096, 32768) if n < longest} | {longest})
        window = window_blocks(self.config.steps, self.config)
        self.window = torch.full((), window, dtype=torch.int32, device=device)

    def features(self, tokens: Tensor) -> Tensor:
        """Features (T, D) of one sequence, padded at its end with empty documents."""
        length = min(n for n in self.lengths if n >= len(tokens))
        padded = F.pad(tokens, (0, length - len(tokens)), value=self.config.bos_token)
        padded = padded.to(self.device, torch.int32)
        return self.trunk(padded, self.window, all_partial=True)[: len(tokens)]

    def rows(self, features: Tensor) -> Iterator[Tensor]:
        """Log-probabilities (up to 1024, V) in nats, for each 1024 rows of features (N, D)."""
        for part in features.split(self.ROWS):
            full = F.pad(part, (0, 0, 0, self.ROWS - len(part)))
            yield self.model.logits(full)[: len(part)].log_softmax(-1)

    @torch.no_grad()
    def nll(self, tokens: Sequence[int] | Tensor) -> Tensor:
        """Nats of tokens[1:], given all before: float32 (T - 1,), on the CPU."""
        tokens, size, out = self.check(tokens), self.config.val_tokens, [torch.empty(0)]
        for start in range(0, len(tokens) - 1, size):
            targets = tokens[start + 1 : start + 1 + size].to(self.device)
            features = self.features(tokens[start : start + size])[: len(targets)]
            for rows, t in zip(self.rows(features), targets.split(self.ROWS), strict=True):
                out.append(-rows.gather(1, t[:, None])[:, 0].cpu())
        return torch.cat(out)

    @torch.no_grad()
    def logprobs(self, tokens: Sequence[int] | Tensor, positions: Sequence[int] | Tensor) -> Tensor:
        """Log-probabilities of the token after tokens[p] for each p of `positions`: nats, float32
        (len(positions), V), on the CPU."""
        tokens, size = self.check(tokens), self.config.val_tokens
        at = torch.as_tensor(positions, dtype=torch.int64).flatten()
        if len(at) and not 0 <= int(at.min()) <= int(at.max()) < len(tokens):
            raise ValueError(f"positions must lie in 0 ... {len(tokens) - 1}")
        out = torch.empty(len(at), self.config.vocab_size)
        for s in (at // size).unique().tolist():
            features = self.features(tokens[s * size : (s + 1) * size])
            chosen = (at // size == s).nonzero()[:, 0]
            picked = features[(at[chosen] - s * size).to(self.device)]
            for rows, place in zip(self.rows(picked), chosen.split(self.ROWS), strict=True):
                out[place] = rows.cpu()
        return out

    def check(self, tokens: Sequence[int] | Tensor) -> Tensor:
        tokens = torch.as_tensor(tokens).flatten().to("cpu", torch.int64)
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.config.vocab_size:
            raise ValueError(f"tokens must lie in 0 ... {self.config.vocab_size - 1}")
        return tokens


def load_scorer(path: str | Path, device: str | torch.device) -> Scorer:
    """The scorer of a checkpoint that a run wrote under SPEEDRUN_CHECKPOINT."""
    return Scorer(load_checkpoint(Path(path), torch.device(device)), torch.device(device))


# --------------------------------------------------------------------------------------------------
# Training


def required_bytes(config: Config, world: int) -> int:
    """GPU memory for a rank: what is alive when the backward pass begins, times what was measured
    over it (26,217 MiB, 4 H200; published: 33,278 MiB, 8 H100), and 4 GiB for what the allocator
    holds unused, the CUDA context, NCCL and cuBLAS.

    A token keeps at most, in bf16: in each layer two residual streams and norms, q, k and v before
    and after norm and rotation, the attention's output (11 D), the hidden layer before and after
    its square (8 D); from the head, logits and the two FP8 copies of their gradient (4 V bytes).
    """
    vocab, dim, mlp = config.vocab_size, config.dim, config.mlp_dim
    attention_layers = config.layers - len(config.attention_free)
    matrices = 4 * (attention_layers * 4 * dim * dim + config.layers * 2 * dim * mlp)
    tables, head = 2 * (1 + config.value_tables) * vocab * dim, 4 * vocab * dim
    weights = 3 * (matrices + tables + head)  # and their gradients, and copies for communication
    moments = (matrices + 2 * tables + 2 * head) // world
    per_token = 2 * config.layers * (11 * dim + 2 * mlp) + 4 * vocab
    return int(0.927 * (weights + moments + config.train_tokens * per_token)) + 4 * 2**30


def check_gpu(config: Config, place: Place) -> bool:
    """Whether the GPU has FP8. Raises Unfit if its free memory is too small for the run."""
    free, total = torch.cuda.mem_get_info(place.device)
    need = required_bytes(config, place.world)
    if free < need:
        raise Unfit(
            f"{place.device}: {free / 2**30:.1f} of {total / 2**30:.1f} GiB are free, training on "
            f"{place.world} GPU(s) needs {need / 2**30:.1f} GiB on each: use larger GPUs, or end "
            "the other processes that nvidia-smi lists"
        )
    return torch.cuda.get_device_capability(place.device) >= (8, 9)


class Log:
    """Lines of rank 0: to logs/<uuid>.txt and, but for source and environment, to stdout."""

    def __init__(self, place: Place) -> None:
        self.path = Path("logs") / f"{uuid.uuid4()}.txt" if place.rank == 0 else None
        if self.path is not None:
            self.path.parent.mkdir(exist_ok=True)
            print(self.path, flush=True)

    def __call__(self, text: str, console: bool = True) -> None:
        if self.path is not None:
            with self.path.open("a") as file:
                print(text, file=file)
            if console:
                print(text, flush=True)


def environment_text() -> str:
    versions = f"Python {sys.version}\nPyTorch {torch.__version__}, CUDA {torch.version.cuda}\n"
    try:
        return versions + subprocess.run(["nvidia-smi"], capture_output=True, text=True).stdout
    except FileNotFoundError:
        return versions + "no nvidia-smi"


class Clock:
    """Training time in ms. Starting and stopping wait for the GPU, and ranks start together."""

    def __init__(self, device: torch.device) -> None:
        self.wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
        self.before_ms, self.started_s = 0.0, 0.0

    def start(self) -> None:
        self.wait()
        dist.barrier()
        self.wait()
        self.started_s = time.perf_counter()

    def stop(self) -> float:
        self.wait()
        self.before_ms = self.now_ms()
        return self.before_ms

    def now_ms(self) -> float:
        return self.before_ms + 1000 * (time.perf_counter() - self.started_s)


def train_step(
    model: nn.Module, adam: ShardedAdam, muon: Muon, batches: Iterator[Batch], window: Tensor,
    step: int, config: Config, place: Place,
) -> None:  # fmt: skip
    for _ in range(config.micro_batches // place.world):
        model(*next(batches), window).backward()
    adam.begin()
    muon.begin()
    factor = lr_factor(step, config)
    # Adam first: it is much data and little arithmetic (463 of 803 MB of weights), Muon the
    # reverse, so that Adam's weights travel while Muon computes.
    gathers = adam.finish(config.adam_lr * factor)
    gathers += muon.finish(config.muon_lr * factor, muon_momentum(step, config))
    for work in gathers:
        work.wait()
    model.zero_grad(set_to_none=True)


class Validator:
    """Mean loss over the validation tokens of all ranks, nats.

    Trunk and head are compiled apart and the head is called in parts: the logits of all 262,144
    tokens would take 26 GB in bf16 and 53 in fp32, those of a part of 16,384 are 1.6 and 3.3.
    """

    def __init__(self, model: GPT, config: Config) -> None:
        self.model, self.part = model, math.gcd(config.val_tokens, config.train_tokens)
        self.trunk, self.loss = model.trunk, model.loss
        if config.compile:
            self.trunk = compiled(model.trunk)
            self.loss = compiled(model.loss)

    @torch.no_grad()
    def __call__(self, batches: Iterator[Batch], window: Tensor) -> float:
        self.model.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=window.device)  # nats, tokens
        for tokens, targets in batches:
            parts = zip(
                self.trunk(tokens, window).split(self.part), targets.split(self.part), strict=True
            )
            sums[0] += sum(self.loss(x, t) for x, t in parts)
            sums[1] += len(targets)
        dist.all_reduce(sums)
        self.model.train()
        return (sums[0] / sums[1]).item()


def join(config: Config) -> Place:
    """This process's place, as torchrun tells it; a group of one under plain `python`."""
    rank, local, world = (
        int(os.environ.get(k, d)) for k, d in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1))
    )
    if config.micro_batches % world:
        raise Unfit(f"{world} processes cannot share {config.micro_batches} micro-batches equally")
    device = torch.device("cpu")
    if config.device == "cuda":
        if local >= torch.cuda.device_count():
            raise Unfit(f"rank {rank}: no GPU {local}, PyTorch sees {torch.cuda.device_count()}")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    place = Place(rank, world, device)
    alone = {} if "RANK" in os.environ else {"store": dist.HashStore(), "rank": 0, "world_size": 1}
    if device.type == "cuda":
        dist.init_process_group("nccl", device_id=device, **alone)
    else:
        dist.init_process_group("gloo", **alone)
    return place


def main(config: Config = Config()) -> float:
    """Trains, logs, saves if asked to. Returns the final validation loss in nats."""
    train_files, val_files = find_shards(config.train_files), find_shards(config.val_files)
    steps = sum(steps_in(read_header(path), config.batch_tokens) for path in train_files)
    if steps < max(config.steps, config.warmup_steps):
        raise Unfit(f"{len(train_files)} train shards last {steps} of {config.steps} steps")
    place = join(config)
    fp8 = check_gpu(config, place) if config.device == "cuda" else False

    log = Log(place)
    log(f"{SOURCE}\n{'=' * 100}\n{environment_text()}\n{'=' * 100}", console=False)
    if not fp8:
        chip = torch.cuda.get_device_name() if config.device == "cuda" else "a CPU"
        log(f"head in bf16, not FP8, which needs compute capability 8.9: running on {chip}")

    model = GPT(config, fp8).to(place.device)
    for param in model.parameters():
        dist.broadcast(param.detach(), 0)
    adam, muon = make_optimizers(model, config, place)
    compiled_model = compiled(model) if config.compile else model
    validate = Validator(model, config)

    def window_at(step: int) -> Tensor:  # torch.full is a kernel, torch.tensor waits for the GPU
        blocks = window_blocks(step, config)
        return torch.full((), blocks, dtype=torch.int32, device=place.device)

    # Warm-up, untimed: real batches and the largest window compile all that will run. Then weights
    # and optimizer state return to copies taken before, and the data to its beginning.
    state = [*(p.detach() for p in model.parameters()), *adam.state(), *muon.state()]
    saved = [t.to("cpu", copy=True) for t in state]
    batches, window = train_batches(train_files, config, place), window_at(config.steps)
    for _ in range(config.warmup_steps):
        train_step(compiled_model, adam, muon, batches, window, 0, config, place)
    validate(iter([next(val_batches(val_files, config, place))]), window)
    for tensor, copy in zip(state, saved, strict=True):
        tensor.copy_(copy)
    adam.step = 0
    batches = train_batches(train_files, config, place)
    del saved
    gc.collect()

    clock, val_loss = Clock(place.device), math.nan
    clock.start()
    for step in range(config.steps + 1):
        window = window_at(step)
        if step == config.steps or step % config.validate_every == 0:
            ms = clock.stop()
            val_loss = validate(val_batches(val_files, config, place), window)
            log(
                f"step:{step}/{config.steps} val_loss:{val_loss:.6f} "
                f"train_time:{ms:.0f}ms step_avg:{ms / max(step, 1):.2f}ms"
            )
            if step == config.steps:
                break
            clock.start()
        train_step(compiled_model, adam, muon, batches, window, step, config, place)
        ms = clock.now_ms()
        log(
            f"step:{step + 1}/{config.steps} train_time:{ms:.0f}ms step_avg:{ms / (step + 1):.2f}ms"
        )

    if config.device == "cuda":
        peak = torch.cuda.max_memory_allocated() >> 20, torch.cuda.max_memory_reserved() >> 20
        log(f"peak memory allocated: {peak[0]} MiB reserved: {peak[1]} MiB")
    if place.rank == 0 and os.environ.get("SPEEDRUN_CHECKPOINT"):
        save_checkpoint(model, Path(os.environ["SPEEDRUN_CHECKPOINT"]))
    dist.barrier()
    dist.destroy_process_group()
    return val_loss


if __name__ == "__main__":
    main()
