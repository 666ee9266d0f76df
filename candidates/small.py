"""Track small: 3.28 nats on FineWeb on 8 Hopper GPUs. The challenger: record #89's program.

Run:  torchrun --standalone --nproc-per-node=8 candidates/small.py        (1, 2, 4 or 8 processes)
Data: $DATA_PATH/data/fineweb10B/fineweb_{train,val}_*.bin               (DATA_PATH: default ".")

Read it top to bottom: Config, schedules, data, attention, Triton kernels, model, optimizer,
training, scorer, main. candidates/README.md maps each technique to its formula and measured share.
Notation in shape comments: T tokens of this rank and micro-step, V vocabulary, D model width,
H heads, C = D / H head width.
"""

# ============================================================================================
# Environment
# ============================================================================================
import os
import sys
import time

PROCESS_START = time.perf_counter()
# Batches of three sizes pass through one allocator: growing segments keep it from fragmenting.
os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

import argparse
import base64
import contextlib
import functools
import gc
import glob
import hashlib
import json
import math
import mmap
import struct
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

IMPORT_SECONDS = time.perf_counter() - PROCESS_START


class SetupError(Exception):
    """Something about the machine, the data or the arguments makes a run impossible.

    The text says what, where and how to fix it; main() prints it without a traceback, exit 4.
    """


# ============================================================================================
# Config
# ============================================================================================
# The batch of a step is always cut in this many equal parts, each one rank's micro-batch. With
# fewer ranks every rank does SLOTS / world of them in turn and the update stays the same.
SLOTS = 8


@dataclass(frozen=True)
class Stage:
    """One part of the schedule; windows are in blocks of Config.window_block tokens."""

    batch_tokens: int
    max_seq_len: int
    window_short: int
    window_long: int
    lr_mul: float
    mtp_start: tuple[float, ...]
    mtp_end: tuple[float, ...]


RECORD_STAGES = (
    Stage(131_072, 896, 1, 3, 1.00, (1.0, 0.5, 0.25), (1.0, 0.5, 0.0)),
    Stage(262_144, 2048, 3, 7, 1.52, (1.0, 0.5), (1.0, 0.0)),
    Stage(393_216, 2048, 5, 11, 1.73, (1.0,), (1.0,)),
    Stage(393_216, 2048, 6, 13, 1.73, (1.0,), (1.0,)),  # extension; its lr_mul is never reached
)


@dataclass(frozen=True)
class Config:
    """Everything that can be turned. The defaults are the program of record #84, from which
    record_config makes the later ones; DEFAULT_RECORD's is what runs without arguments.

    The booleans are Python constants while the model is traced, so a technique that is switched
    off leaves nothing in the compiled program and one that is on pays nothing for its switch.
    """

    # sizes
    vocab_size: int = 50304  # 50257 padded to a multiple of 128
    model_dim: int = 768
    num_heads: int = 6
    mlp_dim: int = 3072
    bigram_rows: int = 50304 * 15
    bigram_dim: int = 192
    sign_rows: int = 8192
    gate_channels: int = 12
    mudd_dim: int = 64
    dtype: str = "bfloat16"  # "float32" in CPU tests

    # roles of the eleven layers
    attention_layers: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 7, 8, 9, 10)  # 6 has an MLP only
    paired_layers: tuple[int, ...] = (0, 2, 5, 9)
    long_layers: tuple[int, ...] = (3, 10)
    xsa_layers: tuple[int, ...] = (1, 3, 4, 7, 8, 10)
    value_layers: tuple[int, ...] = (1, 2, 8, 9, 10)  # layer of the j-th value table

    # data
    train_files: str = "data/fineweb10B/fineweb_train_*.bin"
    val_files: str = "data/fineweb10B/fineweb_val_*.bin"
    val_tokens: int = 10_485_760
    val_tokens_per_rank: int = 262_144
    bos_id: int = 50256
    first_scan_tokens: int = 6_000_000

    # schedule
    stages: tuple[Stage, ...] = RECORD_STAGES
    scheduled_steps: int = 1380
    extension_steps: int = 10
    cooldown_fraction: float = 0.60
    lr_floor: float = 0.15
    momentum_low: float = 0.85
    momentum_high: float = 0.95
    momentum_warmup: int = 300
    momentum_cooldown: int = 50
    window_block: int = 128
    final_window_long: int = 20  # blocks, last validation only
    softmax_scale: float = 0.1
    val_every: int = 250

    # optimizer
    adam_lr: float = 0.008
    adam_eps: float = 1e-10
    adam_wd: float = 0.005
    muon_lr: float = 0.023
    muon_beta2: float = 0.9
    muon_wd: float = 1.2

    # learned techniques
    mudd: bool = True
    xsa: bool = True
    bigram: bool = True
    bigram_sign: bool = True
    value_embeds: bool = True
    paired_heads: bool = True
    key_offset: bool = True
    smear: bool = True
    gates: bool = True
    skip: bool = True
    mtp: bool = True
    yarn: bool = True
    normuon: bool = True
    cautious_decay: bool = True
    mantissa: bool = True
    untie: bool = True
    adam_alternate: bool = True

    # systems
    fp8_mlp: bool = True
    fp8_head: bool = True
    relu2_kernel: bool = True
    sparse_bigram: bool = True
    compile: bool = True
    graphs: bool = True  # what a step launches is recorded in CUDA graphs
    sorted_tables: bool = True  # gradients of the tables by add_rows
    fused_heads: bool = True  # norm, rotation, XSA and gates of the heads by kernels of our own
    fixed_x_scale: bool = True  # the MLP's input in FP8 by a fixed scale, not by its largest value

    # records after #84; see RECORDS
    gated_mudd: bool = False  # 85: per-token gates in place of static scalars
    composed_heads: bool = False  # 85: attention weights mixed across heads in layer 10
    compose_window: int = 112
    prefix: bool = False  # 88: a loss term for the longest token that begins the target
    prefix_weight: float = 0.25
    fp8_down: bool = False  # 89: FP8 down-projection with delayed scales

    @property
    def head_dim(self) -> int:
        return self.model_dim // self.num_heads

    @property
    def num_layers(self) -> int:
        return 11

    @property
    def torch_dtype(self) -> torch.dtype:
        return {"bfloat16": torch.bfloat16, "float32": torch.float32}[self.dtype]

    @property
    def total_steps(self) -> int:
        return self.scheduled_steps + self.extension_steps


def maybe_compiled(fn: Callable[..., Any], cfg: Config) -> Callable[..., Any]:
    return torch.compile(fn, dynamic=False, fullgraph=True) if cfg.compile else fn


def round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


# What each record changed, cumulative from 84 on.
RECORDS: dict[int, dict[str, Any]] = {
    84: {},
    85: {
        "gated_mudd": True,
        "composed_heads": True,
        "bigram_rows": 50304 * 15 // 2,
        "bigram_dim": 768,
        "scheduled_steps": 1285,
        "extension_steps": 15,
    },
    86: {},  # XSA without the unit vector: the same mathematics, always on
    87: {},  # one saved activation in the MLP: the same mathematics, always on
    88: {"prefix": True, "scheduled_steps": 1270},
    89: {"fp8_down": True},
}


# One GPU each, text read once, two runs a program: #89 in 425 steps ends at 3.3631 nats and takes
# 165.4 s, #84 in 460 at 3.3590 and takes 179.1 (candidates/NOTES.md).
DEFAULT_RECORD = 89


def record_config(number: int) -> Config:
    """The program of a record, 84 to 89."""
    changes: dict[str, Any] = {}
    for step in range(84, number + 1):
        changes |= RECORDS[step]
    return Config(**changes)


def switches(on: bool, cfg: Config | None = None) -> list[str]:
    """Names of the boolean fields that are `on` in `cfg`, the default program if none is given."""
    cfg = cfg or Config()
    return [f.name for f in fields(Config) if getattr(cfg, f.name) is on]


# ============================================================================================
# Schedules
# ============================================================================================
class Schedule:
    """Everything that depends on the step number (0-based) alone."""

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg
        s = cfg.scheduled_steps
        cuts = [round(s * k / 3) for k in (1, 2)]
        self.starts = (0, cuts[0], cuts[1], s)
        self.ends = (cuts[0], cuts[1], s, cfg.total_steps)
        self.cooldown_start = int(s * (1 - cfg.cooldown_fraction))
        # The head is tied to the embedding through this step. It must be one on which Adam runs.
        self.split_step = self.starts[2] | 1 if cfg.untie else cfg.total_steps + 1

    def stage_index(self, step: int) -> int:
        """0, 1, 2 or 3 (extension); the last step's stage holds after the end."""
        for index, end in enumerate(self.ends):
            if step < end:
                return index
        return len(self.ends) - 1

    def stage(self, step: int) -> Stage:
        return self.cfg.stages[self.stage_index(step)]

    def lr_factor(self, step: int) -> float:
        """Multiplier of both base learning rates; it jumps at stage borders, cooldown or not."""
        factor = self.stage(step).lr_mul
        if step >= self.cooldown_start:
            span = self.cfg.scheduled_steps - self.cooldown_start
            t = min(1.0, (step - self.cooldown_start) / span)
            factor = factor * (1 - t) + self.cfg.lr_floor * t
        return factor

    def muon_momentum(self, step: int) -> float:
        low, high = self.cfg.momentum_low, self.cfg.momentum_high
        down_from = self.cfg.total_steps - self.cfg.momentum_cooldown
        if step > down_from:
            return high - (high - low) * (step - down_from) / self.cfg.momentum_cooldown
        return low + (high - low) * min(1.0, step / self.cfg.momentum_warmup)

    def mtp_weights(self, step: int) -> tuple[float, ...]:
        """Loss weights of the next, second and third token; linear within the stage."""
        if not self.cfg.mtp:
            return (1.0,)
        i = self.stage_index(step)
        t = (step - self.starts[i]) / max(1, self.ends[i] - self.starts[i])
        stage = self.cfg.stages[i]
        return tuple(a + (b - a) * t for a, b in zip(stage.mtp_start, stage.mtp_end, strict=True))

    def prefix_weight(self, step: int) -> float | None:
        """Weight of the prefix term: constant in stage 1, falling to 0 in stage 2, then gone."""
        i = self.stage_index(step)
        if not self.cfg.prefix or i > 1:
            return None
        t = (step - self.starts[i]) / (self.ends[i] - self.starts[i])
        return self.cfg.prefix_weight * (1 - t if i == 1 else 1)

    def is_adam_step(self, step: int) -> bool:
        return step % 2 == 1 or not self.cfg.adam_alternate

    def is_validation_step(self, step: int, last: int) -> bool:
        return step == last or (self.cfg.val_every > 0 and step % self.cfg.val_every == 0)


class Yarn:
    """Rotary frequencies and softmax scale, stretched each time the long window widens.

    YaRN (Peng et al. 2023, alpha = 1, beta = 32): a channel pair that turns often within the old
    window keeps its frequency, one that turns less than once is slowed by old / new.
    """

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg
        self.reset()

    def reset(self) -> None:
        pairs = self.cfg.head_dim // 4  # half of the channels rotate, in adjacent pairs
        self.frequencies = (1 / 1024) ** np.linspace(0.0, 1.0, pairs)
        self.scale = self.cfg.softmax_scale
        self.window = self.cfg.stages[0].window_long * self.cfg.window_block

    def widen(self, window: int) -> bool:
        """Adapt to a long window of `window` tokens; True if anything changed."""
        old, self.window = self.window, window
        if old == window or not self.cfg.yarn:
            return False
        turns = old * self.frequencies / (2 * math.pi)
        keep = np.clip((turns - 1) / (32 - 1), 0.0, 1.0)
        ratio = old / window
        self.frequencies = self.frequencies * (ratio + keep * (1 - ratio))
        self.scale *= 0.2 * math.log(window / old) + 1
        return True


# ============================================================================================
# Data
# ============================================================================================
SHARD_MAGIC, SHARD_VERSION, HEADER_INTS = 20240520, 1, 256
# Sequences of one batch, measured over ten FineWeb shards: at most 56, 90, 121 (so the fixed
# length of cu_seqlens can be tight, which attention pays for: -0.5 s against 128/128/256).
DOCUMENT_LIMITS = {16_384: 64, 32_768: 96, 49_152: 128}


def document_limit(tokens: int) -> int:
    """Length of cu_seqlens for a batch of `tokens` tokens on a rank."""
    return DOCUMENT_LIMITS.get(tokens) or max(128, round_up(tokens // 300, 128))


def data_files(pattern: str, what: str) -> list[Path]:
    root = Path(os.environ.get("DATA_PATH", "."))
    found = sorted(Path(name) for name in glob.glob(str(root / pattern)))
    if not found:
        raise SetupError(
            f"no {what} shards match {root / pattern}; set DATA_PATH to the folder that holds data/"
        )
    return found


def read_shard(path: Path) -> np.ndarray:
    """Tokens of one .bin shard, uint16, mapped: pages are read when first touched.

    A copy would cost the clock some 50 ms for the 200 MB of the first shard, of which the first
    batch needs a few; of later shards the background scan has touched every page beforehand.
    """
    with path.open("rb") as file:
        header = np.frombuffer(file.read(4 * HEADER_INTS), dtype="<i4")
        if len(header) < HEADER_INTS or header[0] != SHARD_MAGIC or header[1] != SHARD_VERSION:
            raise SetupError(f"{path} is not a version-{SHARD_VERSION} token shard; fetch it again")
        count, held = int(header[2]), (path.stat().st_size - 4 * HEADER_INTS) // 2
        if held < count:
            raise SetupError(f"{path} is truncated: {held:,} of {count:,} tokens; fetch it again")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(mapped, dtype="<u2", count=count, offset=4 * HEADER_INTS)


def find_bos(tokens: np.ndarray, bos_id: int) -> list[int]:
    """Positions of `bos_id`, in pieces so that the comparison's buffer stays in cache."""
    found: list[int] = []
    for start in range(0, len(tokens), 1 << 20):
        hits = np.flatnonzero(tokens[start : start + (1 << 20)] == bos_id)
        found.extend((hits + start).tolist())
    return found


class Shard:
    """One training shard: its tokens, and where its documents start.

    Only the first `first_scan` tokens are searched at once (the first batch waits for that); a
    thread searches the whole shard and `starts` is replaced when it is done.
    """

    def __init__(self, path: Path, bos_id: int, first_scan: int) -> None:
        self.path = path
        self.tokens = read_shard(path)
        self.starts = find_bos(self.tokens[:first_scan], bos_id)
        self.complete = first_scan >= len(self.tokens)
        self.cursor = 0
        self._all: list[int] | None = None
        self._thread: threading.Thread | None = None
        if not self.complete:
            self._thread = threading.Thread(target=self._scan, args=(bos_id,), daemon=True)
            self._thread.start()

    def _scan(self, bos_id: int) -> None:
        self._all = find_bos(self.tokens, bos_id)

    def refresh(self, wait: bool = False) -> None:
        """Take the complete index if it is there, or wait for it."""
        if self.complete:
            return
        if wait and self._thread is not None:
            self._thread.join()
        if self._all is not None:
            self.starts, self.complete = self._all, True

    def take(self, ranks: int, tokens: int, max_seq_len: int) -> list[list[tuple[int, int]]] | None:
        """Pieces (start, end) of the next batch for every rank, or None when documents run out.

        Each rank gets whole documents from their start on, each at most `max_seq_len` long (its
        tail is dropped), until it has `tokens` + 1 tokens; the last one is cut to fit. Every rank
        computes all assignments, so no communication is needed.
        """
        self.refresh()
        pieces: list[list[tuple[int, int]]] = []
        cursor = self.cursor
        for _ in range(ranks):
            mine, filled = [], 0
            while filled <= tokens:
                if cursor + 1 >= len(self.starts) and not self.complete:
                    self.refresh(wait=True)  # the end of the last known document is unknown
                if cursor >= len(self.starts):
                    self.cursor = cursor
                    return None
                start = self.starts[cursor]
                cursor += 1
                stop = self.starts[cursor] if cursor < len(self.starts) else len(self.tokens)
                end = min(stop, start + max_seq_len, start + tokens - filled + 1)
                mine.append((start, end))
                filled += end - start
            pieces.append(mine)
        self.cursor = cursor
        return pieces


class Batch(NamedTuple):
    """One micro-batch on the device, and its bigram rows on the CPU."""

    tokens: Tensor  # (T,) int32
    targets: Tensor  # (T,) int64
    cu_seqlens: Tensor  # (document_limit(T),) int32
    bigram_rows: Tensor  # (T,) int32
    bigram_rows_cpu: np.ndarray  # (T,) int32


def bigram_hash(tokens: np.ndarray, rows: int, out: np.ndarray) -> np.ndarray:
    """Row of the bigram table for each position: ((36313 x_t) ^ (27191 x_{t-1})) mod (rows - 1).

    Position 0 has no predecessor and takes the last row. Products stay below 2^31 for GPT-2 ids.
    """
    mix = (tokens[1:] * np.int32(36313)) ^ (tokens[:-1] * np.int32(27191))
    out[0] = rows - 1
    np.remainder(mix, np.int32(rows - 1), out=out[1:])
    return out


def make_batch(
    buffer: np.ndarray, boundaries: Sequence[int], cfg: Config, device: torch.device, limit: int
) -> Batch:
    """Device copies of T + 1 tokens; `boundaries` are cumulative lengths, without the leading 0.

    Types are converted on the CPU into pinned memory, so the copies run while the GPU works. The
    pinned blocks come from torch's caching allocator, which reuses one only after its copy is done.
    """
    size = len(buffer) - 1
    pin = device.type == "cuda"
    tokens = torch.empty(size, dtype=torch.int32, pin_memory=pin)
    targets = torch.empty(size, dtype=torch.int64, pin_memory=pin)
    cu_seqlens = torch.empty(limit, dtype=torch.int32, pin_memory=pin)
    rows = torch.empty(size, dtype=torch.int32, pin_memory=pin)
    tokens.numpy()[:] = buffer[:-1]
    targets.numpy()[:] = buffer[1:]
    lengths = cu_seqlens.numpy()
    lengths[0] = 0
    lengths[1 : len(boundaries) + 1] = boundaries
    lengths[len(boundaries) + 1 :] = size
    rows_cpu = bigram_hash(tokens.numpy(), cfg.bigram_rows, rows.numpy())
    to_device = [t.to(device, non_blocking=True) for t in (tokens, targets, cu_seqlens, rows)]
    return Batch(*to_device, rows_cpu)


class TrainLoader:
    """Micro-batches that start every sequence at a document's first token.

    A step's tokens are assigned in SLOTS parts whatever the number of ranks, so every world size
    trains on the same batches in the same order.

    Nothing is opened before the first call of `next`, so the first read is on the clock. The next
    shard is read and searched by a thread while the current one is used; batches themselves are
    put together on the calling thread, which runs ahead of the GPU.
    """

    def __init__(self, cfg: Config, rank: int, world: int, device: torch.device) -> None:
        self.cfg, self.rank, self.world, self.device = cfg, rank, world, device
        self.files = data_files(cfg.train_files, "training")
        self.opened = 0  # shards taken into use
        self.shard: Shard | None = None
        self.queue: list[list[tuple[int, int]]] = []
        self.coming: dict[str, Shard | BaseException] = {}
        self.thread: threading.Thread | None = None
        self.limits: dict[int, int] = {}
        self.notices: list[str] = []

    def _load(self, path: Path) -> None:
        try:
            shard = Shard(path, self.cfg.bos_id, self.cfg.first_scan_tokens)
            self.coming["shard"] = shard
        except BaseException as error:  # handed to the training thread, which raises it
            self.coming["shard"] = error

    def _start_loading(self) -> None:
        path = self.files[self.opened % len(self.files)]
        self.thread = threading.Thread(target=self._load, args=(path,), daemon=True)
        self.thread.start()

    def _advance(self) -> Shard:
        if self.thread is None:
            self._start_loading()
        assert self.thread is not None
        self.thread.join()
        loaded = self.coming.pop("shard")
        if isinstance(loaded, BaseException):
            raise loaded
        self.opened += 1
        if self.opened > 1 and self.opened % len(self.files) == 1 % len(self.files):
            self.notices.append(
                f"data: all {len(self.files)} training shards are used up, starting over "
                f"(pass {1 + (self.opened - 1) // len(self.files)})"
            )
        self._start_loading()
        return loaded

    def _assign(self, tokens: int, max_seq_len: int) -> None:
        """Queue this rank's pieces of the next step: slots rank, rank + world, …"""
        empty = 0
        while True:
            if self.shard is None:
                self.shard = self._advance()
            slots = self.shard.take(SLOTS, tokens, max_seq_len)
            if slots is not None:
                self.queue = slots[self.rank :: self.world]
                return
            empty += 1
            if empty > len(self.files) + 1:
                raise SetupError(
                    f"no training shard holds one batch of {SLOTS} x {tokens:,} tokens"
                )
            self.shard = None  # what is left of it is too little for a batch: dropped

    def next(self, tokens: int, max_seq_len: int) -> Batch:
        """This rank's next micro-batch: `tokens` tokens, sequences of at most `max_seq_len`."""
        if not self.queue:
            self._assign(tokens, max_seq_len)
        assert self.shard is not None
        mine = self.queue.pop(0)
        source = self.shard.tokens
        buffer = np.concatenate([source[a:b] for a, b in mine])
        ends = np.cumsum([b - a for a, b in mine])
        ends[-1] -= 1  # the last token is a target only
        limit = self.limits.get(tokens) or document_limit(tokens)
        if len(ends) + 1 > limit:
            limit = round_up(len(ends) + 1, 64)
            self.notices.append(
                f"data: a batch holds {len(ends)} documents, more than cu_seqlens has room for; "
                f"its length becomes {limit} (one recompilation)"
            )
        self.limits[tokens] = limit
        return make_batch(buffer, ends.tolist(), self.cfg, self.device, limit)

    def take_notices(self) -> list[str]:
        notices, self.notices = self.notices, []
        return notices


class Validation:
    """The first `val_tokens` of the validation shard, cut without regard to documents."""

    def __init__(self, cfg: Config, rank: int, world: int, device: torch.device) -> None:
        self.cfg, self.rank, self.world, self.device = cfg, rank, world, device
        if cfg.val_tokens % (world * cfg.val_tokens_per_rank):
            raise SetupError(f"{world} ranks do not divide {cfg.val_tokens:,} validation tokens")
        path = data_files(cfg.val_files, "validation")[0]
        self.tokens = read_shard(path)
        if len(self.tokens) < cfg.val_tokens + 1:
            raise SetupError(
                f"{path} holds {len(self.tokens):,} tokens; validation needs {cfg.val_tokens + 1:,}"
            )

    def batches(self) -> Iterator[Batch]:
        per_rank = self.cfg.val_tokens_per_rank
        for start in range(0, self.cfg.val_tokens, self.world * per_rank):
            first = start + self.rank * per_rank
            buffer = self.tokens[first : first + per_rank + 1]
            yield unaligned_batch(buffer, self.cfg, self.device)


def unaligned_batch(buffer: np.ndarray, cfg: Config, device: torch.device) -> Batch:
    """A batch whose sequences begin at each BOS; what precedes the first is a sequence too."""
    starts = find_bos(buffer[:-1], cfg.bos_id)
    limit = document_limit(len(buffer) - 1)
    if len(starts) + 2 > limit:
        limit = round_up(len(starts) + 2, 128)
    return make_batch(buffer, starts, cfg, device, limit)


# ============================================================================================
# Attention
# ============================================================================================
Number = float | int | Tensor  # a tensor of one number, on the CPU


class Attention(NamedTuple):
    """A backend: its name for the log, and the function behind attention_varlen.

    host_tensors: scale and window may be CPU tensors, which the kernel's launch reads. They are
    then inputs of the compiled graph and no constants in it, so that one graph serves all windows:
    four graphs a run instead of eight.
    """

    name: str
    run: Callable[[Tensor, Tensor, Tensor, Tensor, int, Number, Number], Tensor]
    host_tensors: bool = False


def dense_attention(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen: int, scale: float, window: int
) -> Tensor:
    """Plain softmax attention in fp32, queries in blocks; what CPU runs and tests use."""
    total = q.size(0)
    position = torch.arange(total, device=q.device, dtype=torch.int32)
    document = torch.searchsorted(cu_seqlens, position, right=True)
    out = []
    for start in range(0, total, 1024):
        stop, low = min(total, start + 1024), max(0, start - window)
        scores = scale * torch.einsum("qhc,khc->hqk", q[start:stop].float(), k[low:stop].float())
        distance = position[start:stop, None] - position[None, low:stop]
        seen = (distance >= 0) & (distance <= window)
        seen &= document[start:stop, None] == document[None, low:stop]
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        out.append(torch.einsum("hqk,khc->qhc", weights, v[low:stop].float()))
    return torch.cat(out).to(q.dtype)


@functools.cache
def compiled_flex_attention() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def flex_attention_varlen(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen: int, scale: float, window: int
) -> Tensor:
    """FlexAttention for GPUs without FlashAttention-3; the block mask comes from block bounds.

    A key block is visited when it lies within the window and shares a document with the query
    block, so nothing of size T x T is ever formed.
    """
    from torch.nn.attention.flex_attention import BlockMask, flex_attention

    total, block = q.size(0), 128
    padding = -total % block
    if padding:
        q, k, v = (F.pad(t, (0, 0, 0, 0, 0, padding)) for t in (q, k, v))
    size = total + padding
    position = torch.arange(size, device=q.device, dtype=torch.int32)
    document = torch.searchsorted(cu_seqlens, position, right=True).to(torch.int32)

    def visible(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (j <= i) & (i - j <= window) & (document[i] == document[j])

    blocks = torch.arange(size // block, device=q.device, dtype=torch.int32)
    first, last = document.view(-1, block)[:, 0], document.view(-1, block)[:, -1]
    visit = (blocks[None] <= blocks[:, None]) & (
        (blocks[:, None] - blocks[None] - 1) * block + 1 <= window
    )
    visit &= (first[:, None] <= last[None]) & (first[None] <= last[:, None])
    count = visit.sum(-1, dtype=torch.int32)
    order = visit.to(torch.int32).argsort(dim=-1, descending=True, stable=True).to(torch.int32)
    mask = BlockMask.from_kv_blocks(
        count[None, None], order[None, None], BLOCK_SIZE=block, mask_mod=visible
    )
    if q.is_cuda and not torch.compiler.is_compiling():  # scoring; eager it would form T x T scores
        flex_attention = compiled_flex_attention()
    out = flex_attention(
        q.transpose(0, 1)[None],
        k.transpose(0, 1)[None],
        v.transpose(0, 1)[None],
        scale=scale,
        block_mask=mask,
    )
    return out[0].transpose(0, 1)[:total]


# The raw FlashAttention-3 operators, as lists of (argument name, neutral value) in their order.
_FA3: dict[str, tuple[Callable[..., Any], list[str], list[Any]]] = {}


def _fa3_bind(name: str) -> None:
    """Read the operator's argument order from its own schema: builds differ in their tails."""
    op = getattr(torch.ops.flash_attn_3, name).default
    neutral = {"num_splits": 1, "is_causal": True}
    names, values = [], []
    for argument in op._schema.arguments:
        names.append(argument.name)
        if argument.name in neutral:
            values.append(neutral[argument.name])
        elif argument.has_default_value():
            values.append(argument.default_value)
        else:
            kind = str(argument.type)
            values.append(
                None if "Optional" in kind else {"bool": False, "int": 0, "float": 0.0}.get(kind)
            )
    _FA3[name] = (op, names, values)


def _fa3_call(name: str, **given: Any) -> Any:
    op, names, values = _FA3[name]
    return op(*(given.get(n, default) for n, default in zip(names, values, strict=True)))


@torch.library.custom_op("speedrun_small::fa3_forward", mutates_args=())
def fa3_forward(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen: int, scale: Tensor,
    window: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """FlashAttention-3, variable length, causal, window (left = `window`, right = 0); `scale` and
    `window` are one number each, on the CPU.

    Returns the output (T, H, C) and the log-sum-exp (H, T) in fp32.
    """
    out, lse, *_ = _fa3_call(
        "fwd",
        q=q,
        k=k,
        v=v,
        cu_seqlens_q=cu_seqlens,
        cu_seqlens_k=cu_seqlens,
        max_seqlen_q=max_seqlen,
        max_seqlen_k=max_seqlen,
        softmax_scale=float(scale),
        window_size_left=int(window),
        window_size_right=0,
    )
    return out, lse


@fa3_forward.register_fake
def _(q, k, v, cu_seqlens, max_seqlen, scale, window):
    return torch.empty_like(q, memory_format=torch.contiguous_format), q.new_empty(
        (q.size(1), q.size(0)), dtype=torch.float32
    )


@torch.library.custom_op("speedrun_small::fa3_backward", mutates_args=("dq", "dk", "dv"))
def fa3_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    scale: Tensor,
    window: Tensor,
) -> None:
    """Fills dq, dk, dv. Returns nothing: a custom op may not return an alias of an argument."""
    _fa3_call(
        "bwd",
        dout=dout,
        q=q,
        k=k,
        v=v,
        out=out,
        softmax_lse=lse,
        dq=dq,
        dk=dk,
        dv=dv,
        cu_seqlens_q=cu_seqlens,
        cu_seqlens_k=cu_seqlens,
        max_seqlen_q=max_seqlen,
        max_seqlen_k=max_seqlen,
        softmax_scale=float(scale),
        window_size_left=int(window),
        window_size_right=0,
    )


@fa3_backward.register_fake
def _(dout, q, k, v, out, lse, dq, dk, dv, cu_seqlens, max_seqlen, scale, window):
    return None


def _fa3_save(ctx, inputs, output):
    q, k, v, cu_seqlens, ctx.max_seqlen, scale, window = inputs
    ctx.save_for_backward(q, k, v, *output, cu_seqlens, scale, window)


def _fa3_grad(ctx, dout, _):
    q, k, v, out, lse, cu_seqlens, scale, window = ctx.saved_tensors
    dq, dk, dv = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (q, k, v))
    fa3_backward(
        dout.contiguous(),
        q,
        k,
        v,
        out,
        lse,
        dq,
        dk,
        dv,
        cu_seqlens,
        ctx.max_seqlen,
        scale,
        window,
    )
    return dq, dk, dv, None, None, None, None


fa3_forward.register_autograd(_fa3_grad, setup_context=_fa3_save)


def fa3_attention(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen: int, scale: Number,
    window: Number,
) -> Tensor:  # fmt: skip
    if not isinstance(scale, Tensor):
        scale = torch.tensor(scale, dtype=torch.float64)
    if not isinstance(window, Tensor):
        window = torch.tensor(window)
    return fa3_forward(q, k, v, cu_seqlens, max_seqlen, scale, window)[0]


def fa3_binaries() -> list[Path]:
    """Folders with a FlashAttention-3 `_C.so`: $SPEEDRUN_FA3_PATH, then an installed xformers.

    xformers itself is never imported: it would load its other extensions, built for one torch.
    """
    folders = []
    if os.environ.get("SPEEDRUN_FA3_PATH"):
        folders.append(Path(os.environ["SPEEDRUN_FA3_PATH"]))
    folders += [Path(entry) / "xformers" / "flash_attn_3" for entry in sys.path if entry]
    return [f for f in folders if any(f.glob("_C*.so"))]


def load_fa3_binary(folder: Path) -> None:
    """Load the binary; it needs CUDA 12's runtime, which a CUDA 13 torch does not bring."""
    import ctypes

    beside = sorted(folder.glob("libcudart.so.12*"))
    for entry in sys.path:
        beside += sorted(Path(entry or ".").glob("nvidia/cuda_runtime/lib/libcudart.so.12*"))
    for library in [*map(str, beside), "libcudart.so.12"]:
        try:
            ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
            break
        except OSError:
            continue
    torch.ops.load_library(str(sorted(folder.glob("_C*.so"))[0]))


def find_attention(device: torch.device) -> Attention:
    """The best attention this machine has; README.md says how to install each."""
    if device.type != "cuda":
        return Attention("dense attention in fp32 (CPU)", dense_attention)
    if torch.cuda.get_device_capability(device) < (9, 0):
        return Attention("FlexAttention (FlashAttention-3 needs Hopper)", flex_attention_varlen)
    failures = []
    try:
        import flash_attn_interface  # noqa: F401  registers torch.ops.flash_attn_3

        _fa3_bind("fwd")
        _fa3_bind("bwd")
        return Attention("FlashAttention-3 (flash_attn_interface)", fa3_attention, True)
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        failures.append(f"flash_attn_interface: {error}")
    for folder in fa3_binaries():
        try:
            load_fa3_binary(folder)
            _fa3_bind("fwd")
            _fa3_bind("bwd")
            name = f"FlashAttention-3 (binary of {folder.parent.name})"
            return Attention(name, fa3_attention, True)
        except (AttributeError, OSError, RuntimeError) as error:
            failures.append(f"{folder}: {error}")
    try:
        from kernels import get_kernel

        varlen = get_kernel("kernels-community/flash-attn3", version=1).flash_attn_varlen_func

        def hub_attention(q, k, v, cu_seqlens, max_seqlen, scale, window):
            out = varlen(
                q,
                k,
                v,
                cu_seqlens_q=cu_seqlens,
                cu_seqlens_k=cu_seqlens,
                max_seqlen_q=max_seqlen,
                max_seqlen_k=max_seqlen,
                softmax_scale=scale,
                causal=True,
                window_size=(window, 0),
            )
            return out[0] if isinstance(out, tuple) else out

        return Attention("FlashAttention-3 (kernels-community/flash-attn3)", hub_attention)
    except Exception as error:  # the hub raises its own kinds: offline, no build, bad version
        failures.append(f"hub kernel: {error}")
    short = "; ".join(str(text).splitlines()[0][:160] for text in failures)
    return Attention(
        f"FlexAttention, because no FlashAttention-3 loads ({short})", flex_attention_varlen
    )


_attention = Attention("dense attention in fp32", dense_attention)


def use_attention(attention: Attention) -> None:
    global _attention
    _attention = attention


def host_number(value: float | int) -> Number:
    """What the attention in use wants in place of a scale or a window."""
    if not _attention.host_tensors:
        return value
    return torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else torch.int64)


def attention_varlen(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen: int, scale: Number,
    window: Number,
) -> Tensor:  # fmt: skip
    """Causal attention within documents: query t sees keys t - window .. t of its own sequence.

    q, k, v (T, heads, C); cu_seqlens int32, non-decreasing, 0 first and T last (repeats are empty
    sequences); max_seqlen bounds the longest. Returns (T, heads, C).
    """
    return _attention.run(q, k, v, cu_seqlens, max_seqlen, scale, window)


# ============================================================================================
# Triton kernels
# ============================================================================================
# Triton kernels and the operators around them. Every operator runs in three places:
#   * on a GPU, the Triton kernel;
#   * on a CPU, the same formula in plain torch (`*_reference` in fp32);
#   * on a CPU with TRITON_INTERPRET=1, the kernel itself in Triton's interpreter (tests).
# Operators are opaque to torch.compile (torch.library.custom_op with fakes), so a compiled model
# stays one graph. Sizes below: T tokens, D = 768 model width, V = 50304 padded vocabulary.
# BEGIN KERNELS
try:
    import triton
    import triton.language as tl
    from triton.tools.tensor_descriptor import TensorDescriptor
except ImportError:  # a machine without Triton still imports this file and runs on the CPU
    triton = None

INTERPRET = triton is not None and os.environ.get("TRITON_INTERPRET") == "1"
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
E4M3_MAX, E5M2_MAX = 448.0, 57344.0

# Soft cap of the logits: z = CAP * sigmoid((logit + CAP_SHIFT) / CAP_WIDTH), so 0 < z < CAP.
CAP, CAP_SHIFT, CAP_WIDTH = 23.0, 5.0, 7.5


def uses_kernel(x: Tensor) -> bool:
    """True where `x` is handled by a Triton kernel, False where by plain torch."""
    return x.is_cuda or INTERPRET


@functools.cache
def multiprocessors(index: int) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count


def programs_at_once(x: Tensor) -> int:
    """How many blocks of a persistent kernel run beside each other where `x` is."""
    return multiprocessors(x.device.index or 0) if x.is_cuda else 4


def cuda_capability() -> tuple[int, int]:
    """Compute capability of the current GPU; (0, 0) without one."""
    return torch.cuda.get_device_capability() if torch.cuda.is_available() else (0, 0)


@torch.compiler.assume_constant_result  # of a bool: torch 2.11 cannot compare a traced tuple
def has_tma() -> bool:
    """Tensor-memory-access descriptors (Hopper and later): the linear-ReLU^2 kernel needs them."""
    return INTERPRET or cuda_capability() >= (9, 0)


@torch.compiler.assume_constant_result
def has_fp8() -> bool:
    """FP8 matrix products: compute capability 8.9 and later."""
    return cuda_capability() >= (8, 9)


# -------------------------------------------------------------------------------------------------
# Transposes. Inductor's own take every SM with some 75,000 blocks and starve the communication
# kernels. Offsets are int64: 49152 x 50304 is more than 2^31.
# -------------------------------------------------------------------------------------------------

if triton is not None:

    @triton.jit
    def transpose_kernel(
        src_ptr, dst_ptr, rows, cols, stride_src, stride_dst,
        BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, ADD: tl.constexpr,
    ):  # fmt: skip
        """dst (cols, rows) = src (rows, cols)^T, or += with ADD."""
        r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
        c = tl.program_id(1).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
        mask = (r[:, None] < rows) & (c[None, :] < cols)
        tile = tl.load(src_ptr + r[:, None] * stride_src + c[None, :], mask=mask)
        tile = tl.trans(tile)
        mask_t = (c[:, None] < cols) & (r[None, :] < rows)
        dst_ptrs = dst_ptr + c[:, None] * stride_dst + r[None, :]
        if ADD:
            tile = (tile.to(tl.float32) + tl.load(dst_ptrs, mask=mask_t).to(tl.float32)).to(
                dst_ptr.dtype.element_ty
            )
        tl.store(dst_ptrs, tile, mask=mask_t)

    @triton.jit
    def quantize_layouts_kernel(
        src_ptr, dst_ptr, dst_t_ptr, scale_ptr, used_scale_ptr, amax_ptr, rows, cols,
        LIMIT: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
        ROW_MAJOR: tl.constexpr, AMAX: tl.constexpr,
    ):  # fmt: skip
        """e4m3(src / scale), saturating, of a batch of matrices: transposed, and row-major if
        ROW_MAJOR. With AMAX each tile stores its largest |src| and tile 0 the scale it used."""
        batch = tl.program_id(2).to(tl.int64)
        r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
        c = tl.program_id(1).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
        scale = tl.load(scale_ptr + batch)
        base = batch * rows * cols
        mask = (r[:, None] < rows) & (c[None, :] < cols)
        offsets = base + r[:, None] * cols + c[None, :]
        x = tl.load(src_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        q = tl.minimum(tl.maximum(x / scale, -LIMIT), LIMIT).to(dst_t_ptr.dtype.element_ty)
        if ROW_MAJOR:
            tl.store(dst_ptr + offsets, q, mask=mask)
        mask_t = (c[:, None] < cols) & (r[None, :] < rows)
        tl.store(dst_t_ptr + base + c[:, None] * rows + r[None, :], tl.trans(q), mask=mask_t)
        if AMAX:
            tile = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
            tiles = tl.num_programs(0) * tl.num_programs(1)
            tl.store(amax_ptr + batch * tiles + tile, tl.max(tl.max(tl.abs(x), 1), 0))
            if tile == 0:
                tl.store(used_scale_ptr + batch, scale)


# Rows and columns of the source that one program moves, and its warps. H200, of the memory's speed:
# bytes 90 %, bf16 83 %, summed 87 % (with tiles of 32 x 32 it was 47 %).
COPY_BLOCK, ADD_BLOCK = (64, 128, 8), (64, 64, 8)


def launch_transpose(src: Tensor, dst: Tensor, add: bool, block: tuple[int, int, int]) -> None:
    rows, cols = src.shape
    if dst.shape != (cols, rows) or dst.dtype != src.dtype:
        raise ValueError(f"dst {tuple(dst.shape)} is not the transpose of {tuple(src.shape)}")
    if src.stride(1) != 1 or dst.stride(1) != 1:
        raise ValueError("transposes need row-major matrices")
    if not add and src.element_size() < 4:  # bytes are moved, not numbers
        plain = {1: torch.uint8, 2: torch.int16}[src.element_size()]
        src, dst = src.view(plain), dst.view(plain)
    br, bc, warps = block
    transpose_kernel[(triton.cdiv(rows, br), triton.cdiv(cols, bc))](
        src, dst, rows, cols, src.stride(0), dst.stride(0),
        BLOCK_R=br, BLOCK_C=bc, ADD=add, num_warps=warps,
    )  # fmt: skip


@torch.library.custom_op("speedrun::transpose_copy", mutates_args=("dst",))
def transpose_copy(src: Tensor, dst: Tensor) -> None:
    """dst (N, M) = src (M, N)^T, both row-major; any dtype."""
    if uses_kernel(src):
        launch_transpose(src, dst, False, COPY_BLOCK)
    else:
        dst.copy_(src.t())


@torch.library.custom_op("speedrun::transpose_add", mutates_args=("dst",))
def transpose_add(src: Tensor, dst: Tensor) -> None:
    """dst (N, M) += src (M, N)^T, both row-major, summed in fp32 and rounded once."""
    if uses_kernel(src):
        launch_transpose(src, dst, True, ADD_BLOCK)
    else:
        dst.add_(src.t())


@torch.library.custom_op("speedrun::transposed", mutates_args=())
def transposed(src: Tensor) -> Tensor:
    """A fresh (N, M) row-major copy of the transpose of src (M, N)."""
    dst = torch.empty(src.size(1), src.size(0), dtype=src.dtype, device=src.device)
    transpose_copy(src, dst)
    return dst


transpose_copy.register_fake(lambda src, dst: None)
transpose_add.register_fake(lambda src, dst: None)
transposed.register_fake(lambda src: src.new_empty(src.size(1), src.size(0)))


# -------------------------------------------------------------------------------------------------
# Gradients of looked-up tables. The compiler's own fills an fp32 table with zeros, adds every token
# to it atomically and casts it, 5.9 GB a micro-batch of stage 3, and adds the next one to it whole.
# Here tokens are sorted, each row's are summed in fp32, in a fixed order, and added to a gradient
# that stays in place: of the dense tables (.75 GB in #84, 1.04 in #89) only the rows that occur.
# -------------------------------------------------------------------------------------------------
MOST_TABLES = 5  # that one launch fills: the value embeddings'

if triton is not None:

    @triton.jit
    def table_gradient_kernel(
        g0_ptr, g1_ptr, g2_ptr, g3_ptr, g4_ptr, keys_ptr, order_ptr, out_ptr, tokens, rows,
        D: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
    ):  # fmt: skip
        """out[table * rows + key] += sum of the gradient rows order[i] where keys[i] == key.

        keys ascend. A program sums, for BLOCK_D columns, the keys that begin among its BLOCK_T; the
        last of them may go on in the next ones' blocks. Rows without a key are left as they are."""
        chunk, table = tl.program_id(0), tl.program_id(2)
        grad_ptr = g0_ptr
        if table == 1:
            grad_ptr = g1_ptr
        if table == 2:
            grad_ptr = g2_ptr
        if table == 3:
            grad_ptr = g3_ptr
        if table == 4:
            grad_ptr = g4_ptr
        lane, slot = tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_T)
        at = chunk * BLOCK_T + lane
        key = tl.load(keys_ptr + at, mask=at < tokens, other=-1)
        before = tl.load(keys_ptr + at - 1, mask=(at > 0) & (at < tokens), other=-1)
        begins = ((at < tokens) & (key != before)).to(tl.int32)
        number = tl.cumsum(begins, 0) - 1  # of the keys that begin here; -1: one that began before
        last = tl.sum(begins, 0) - 1
        if last >= 0:
            column = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
            mine = (at < tokens) & (number >= 0)
            position = tl.load(order_ptr + at, mask=mine, other=0)
            grads = tl.load(
                grad_ptr + position[:, None] * D + column[None, :],
                mask=mine[:, None] & (column < D)[None, :], other=0.0,
            )  # fmt: skip
            pick = (slot[:, None] == number[None, :]) & mine[None, :]
            picked = tl.where(pick, 1.0, 0.0).to(grads.dtype)  # exact, in every type
            sums = tl.dot(picked, grads, input_precision="ieee")
            row = tl.sum(tl.where(pick & (begins > 0)[None, :], key[None, :], 0), 1)
            last_key = tl.max(key, 0)
            then = (chunk + 1) * BLOCK_T
            rest = tl.zeros((BLOCK_D,), tl.float32)
            goes_on = tl.load(keys_ptr + then, mask=then < tokens, other=-1) == last_key
            while goes_on:
                at = then + lane
                same = tl.load(keys_ptr + at, mask=at < tokens, other=-1) == last_key
                position = tl.load(order_ptr + at, mask=same, other=0)
                grads = tl.load(
                    grad_ptr + position[:, None] * D + column[None, :],
                    mask=same[:, None] & (column < D)[None, :], other=0.0,
                )  # fmt: skip
                rest += tl.sum(grads.to(tl.float32), 0)
                then += BLOCK_T
                goes_on = tl.load(keys_ptr + then, mask=then < tokens, other=-1) == last_key
            sums += tl.where((slot == last)[:, None], rest[None, :], 0.0)
            cells = out_ptr + (table * rows + row)[:, None] * D + column[None, :]
            there = (slot <= last)[:, None] & (column < D)[None, :]
            sums += tl.load(cells, mask=there, other=0.0).to(tl.float32)
            tl.store(cells, sums.to(out_ptr.dtype.element_ty), mask=there)


def add_rows_reference(into: Tensor, grads: Sequence[Tensor], keys: Tensor, order: Tensor) -> None:
    for table, grad in zip(into.chunk(len(grads)), grads, strict=True):
        sums = torch.zeros(table.shape, device=table.device)
        sums.index_add_(0, keys.long(), grad[order].float())
        table.copy_(table.float() + sums)


def add_rows(into: Tensor, grads: Sequence[Tensor], keys: Tensor, order: Tensor) -> None:
    """Add to `into` (len(grads) * rows, D), the gradient of so many tables one below the other,
    what look-ups of each at the same rows got: keys (T,) are these in ascending order, order (T,)
    where each stands in grads (T, D), as torch.sort returns them."""
    if not uses_kernel(into):
        return add_rows_reference(into, grads, keys, order)
    if len(grads) > MOST_TABLES:
        raise ValueError(f"{len(grads)} tables at once, {MOST_TABLES} at most")
    (tokens, dim), block = grads[0].shape, 64
    given = [grad.contiguous() for grad in grads]
    given += given[:1] * (MOST_TABLES - len(given))
    wide = min(128, triton.next_power_of_2(dim))
    grid = (triton.cdiv(tokens, block), triton.cdiv(dim, wide), len(grads))
    table_gradient_kernel[grid](
        *given, keys, order, into, tokens, into.size(0) // len(grads),
        D=dim, BLOCK_T=block, BLOCK_D=wide, num_warps=4,
    )  # fmt: skip


def look_up(
    table: Tensor, rows: Tensor, taps: Sequence[Tensor] | None, count: int = 1
) -> tuple[Tensor, ...]:
    """Rows (T, D) at `rows` (T,) of each of `count` tables that lie one below the other. With taps,
    zeros (T, D) that are added to them, the rows' gradient goes to these and not to the table."""
    at = rows
    if count > 1:
        tables = torch.arange(count, device=rows.device, dtype=rows.dtype)
        at = rows[None] + tables[:, None] * (table.size(0) // count)
    found = F.embedding(at, table if taps is None else table.detach())
    each = found.unbind(0) if count > 1 else (found,)
    if taps is None:
        return each
    return tuple(row + tap for row, tap in zip(each, taps, strict=True))


# -------------------------------------------------------------------------------------------------
# FP8 quantisation and products
# -------------------------------------------------------------------------------------------------


def quantize_e4m3(x: Tensor, scale: float | Tensor) -> Tensor:
    """e4m3(x / scale), saturating at 448 where a plain cast would give NaN."""
    return (x.float() / scale).clamp(-E4M3_MAX, E4M3_MAX).to(E4M3)


@functools.cache
def scale_tensor(value: float, device: torch.device) -> Tensor:
    """One fp32 number on `device` in its own storage. cuBLAS refuses scales that are slices of a
    longer tensor (CUBLAS_STATUS_NOT_SUPPORTED, H200, torch 2.11): it wants 16-byte alignment."""
    return torch.tensor([value], dtype=torch.float32, device=device)


def own_storage(scale: Tensor) -> Tensor:
    scale = scale.reshape(1)
    return scale if scale.data_ptr() % 16 == 0 and scale.storage_offset() == 0 else scale.clone()


def fp8_mm_reference(a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor) -> Tensor:
    return (a.float() * scale_a) @ (b.float() * scale_b)


@torch.library.custom_op("speedrun::fp8_mm", mutates_args=())
def fp8_mm(a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, fast: bool) -> Tensor:
    """bf16 (scale_a a) @ (scale_b b): a (M, K) row-major, b (K, N) column-major, both FP8 (not both
    e5m2); scales one fp32 number each. fast: accumulate within the tensor core (forward only: on
    gradients it gave NaN)."""
    if not a.is_cuda:
        return fp8_mm_reference(a, b, scale_a, scale_b).to(torch.bfloat16)
    return torch._scaled_mm(
        a, b, out_dtype=torch.bfloat16, use_fast_accum=fast,
        scale_a=own_storage(scale_a), scale_b=own_storage(scale_b),
    )  # fmt: skip


@torch.library.custom_op("speedrun::fp8_mm_static", mutates_args=())
def fp8_mm_static(a: Tensor, b: Tensor, scale_a: float, scale_b: float, fast: bool) -> Tensor:
    """`fp8_mm` with scales known in advance."""
    sa, sb = scale_tensor(scale_a, a.device), scale_tensor(scale_b, a.device)
    return fp8_mm(a, b, sa, sb, fast)


for _op in (fp8_mm, fp8_mm_static):
    _op.register_fake(lambda a, b, *args: a.new_empty(a.size(0), b.size(1), dtype=torch.bfloat16))


def launch_quantize(
    src: Tensor, dst: Tensor | None, dst_t: Tensor, scale: Tensor,
    used: Tensor | None, amax: Tensor | None, block: tuple[int, int, int],
) -> None:  # fmt: skip
    batch, rows, cols = src.shape
    br, bc, warps = block
    quantize_layouts_kernel[(triton.cdiv(rows, br), triton.cdiv(cols, bc), batch)](
        src, dst_t if dst is None else dst, dst_t, scale, scale if used is None else used,
        scale if amax is None else amax, rows, cols,
        LIMIT=E4M3_MAX, BLOCK_R=br, BLOCK_C=bc, ROW_MAJOR=dst is not None, AMAX=amax is not None,
        num_warps=warps,
    )  # fmt: skip


@torch.library.custom_op("speedrun::quantize_both_layouts", mutates_args=())
def quantize_both_layouts(w: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """w (M, N) bf16 -> e4m3(w / scale) as (M, N) and, physically transposed, as (N, M): the forward
    product wants one, the gradient the other. One read of w."""
    w8 = torch.empty(w.shape, dtype=E4M3, device=w.device)
    w8_t = torch.empty(w.size(1), w.size(0), dtype=E4M3, device=w.device)
    if uses_kernel(w):
        s = scale_tensor(scale, w.device)
        launch_quantize(w[None], w8[None], w8_t[None], s, None, None, (64, 128, 8))
    else:
        w8.copy_(quantize_e4m3(w, scale))
        w8_t.copy_(w8.t())
    return w8, w8_t


@quantize_both_layouts.register_fake
def _(w: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    return w.new_empty(w.shape, dtype=E4M3), w.new_empty(w.size(1), w.size(0), dtype=E4M3)


DOWN_TILE = 64  # side of the tiles of `quantize_down`; one maximum is kept for each


def quantize_down(
    down: Tensor, scale_next: Tensor, headroom: float,
    down_fp8_t: Tensor, scale_used: Tensor, amax: Tensor,
) -> None:  # fmt: skip
    """Delayed scaling of the down matrices (record #89), one pass over the weights a step.

    down (L, 3072, 768) bf16 is quantised with `scale_next` (L,) fp32, measured from the previous
    step's weights, into down_fp8_t (L, 768, 3072) e4m3, transposed; `scale_used` (L,) receives the
    scale; amax (L, tiles) the largest |w| of each 64 x 64 tile; then scale_next = max(amax) *
    headroom / 448 for the next step (the record: 1.12)."""
    if uses_kernel(down):
        launch_quantize(
            down, None, down_fp8_t, scale_next, scale_used, amax, (DOWN_TILE, DOWN_TILE, 4)
        )
    else:
        down_fp8_t.copy_(quantize_e4m3(down, scale_next[:, None, None]).mT)
        scale_used.copy_(scale_next)
        amax.copy_(down.abs().amax(dim=(1, 2))[:, None].float().expand_as(amax))
    scale_next.copy_(delayed_scale(amax, headroom))


def exact_scale(w: Tensor) -> Tensor:
    """Scales (L,) from current weights (L, M, N): used for the first steps, before delayed ones."""
    return w.abs().amax(dim=(1, 2)).float().clamp(min=1e-12) / E4M3_MAX


def delayed_scale(amax: Tensor, headroom: float) -> Tensor:
    """(L, n) partial maxima of one step -> (L,) e4m3 scales of the next."""
    return amax.amax(dim=1).clamp(min=1e-12) * (headroom / E4M3_MAX)


# -------------------------------------------------------------------------------------------------
# MLP: out = relu(x U^T)^2 D. The kernel walks 128 x 256 tiles of the hidden layer persistently, fed
# by TMA, and squares in the epilogue. 232 GFLOP at T = 49152: 0.29 ms in bf16, 0.15 ms in FP8.
# -------------------------------------------------------------------------------------------------

# What the kernel's epilogue does with a tile `acc` of the product: write relu(acc)^2; that and the
# same in e4m3; or 2 acc relu(pre), the gradient, from relu(pre) = sqrt(post). pre is never kept
# (record #87): H200, T = 49152, FP8: 0.207 ms against 0.261 with pre written as well.
POST, POST_AND_FP8, GRADIENT = range(3)

if triton is not None:
    M_POST, M_POST_AND_FP8 = tl.constexpr(POST), tl.constexpr(POST_AND_FP8)

    @triton.jit
    def relu2_epilogue(acc, row, col, out_desc, post_desc, fp8_desc, inv_scale, MODE: tl.constexpr):
        """Finish one half tile; returns the largest value written (POST_AND_FP8), else 0."""
        biggest = 0.0
        if MODE == M_POST:
            relu = tl.maximum(acc, 0.0)
            out_desc.store([row, col], (relu * relu).to(out_desc.dtype))
        elif MODE == M_POST_AND_FP8:
            relu = tl.maximum(acc, 0.0)
            post = relu * relu
            out_desc.store([row, col], post.to(out_desc.dtype))
            fp8_desc.store([row, col], tl.minimum(post * inv_scale, 448.0).to(fp8_desc.dtype))
            biggest = tl.max(tl.max(post, 1), 0)
        else:
            post = post_desc.load([row, col]).to(tl.float32)
            out_desc.store([row, col], (2.0 * acc * tl.sqrt(post)).to(out_desc.dtype))
        return biggest

    @triton.jit
    def linear_relu2_kernel(
        a_desc, b_desc, out_desc, post_desc, fp8_desc, dequant_ptr, fp8_scale_ptr, amax_ptr,
        M, N, K,
        BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
        PROGRAMS: tl.constexpr, MODE: tl.constexpr, DEQUANT: tl.constexpr,
    ):  # fmt: skip
        """acc = a (M, K) b (N, K)^T, times one fp32 number with DEQUANT, then `relu2_epilogue`."""
        tiles_n = tl.cdiv(N, BLOCK_N)
        tiles = tl.cdiv(M, BLOCK_M) * tiles_n
        steps = tl.cdiv(K, BLOCK_K)
        HALF: tl.constexpr = BLOCK_N // 2
        dequant = tl.load(dequant_ptr) if DEQUANT else 1.0
        inv_scale = 1.0 / tl.load(fp8_scale_ptr) if MODE == M_POST_AND_FP8 else 1.0
        biggest = 0.0
        for tile in tl.range(tl.program_id(0), tiles, PROGRAMS, flatten=True):
            row = (tile // tiles_n) * BLOCK_M
            col = (tile % tiles_n) * BLOCK_N
            acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
            for k in range(steps):
                a = a_desc.load([row, k * BLOCK_K])
                b = b_desc.load([col, k * BLOCK_K])
                acc = tl.dot(a, b.T, acc)
            if DEQUANT:
                acc = acc * dequant
            # Halves of 128 columns: half the registers for the conversion, and the first store
            # runs while the second half is still computed.
            halves = tl.permute(tl.reshape(acc, (BLOCK_M, 2, HALF)), (0, 2, 1))
            left, right = tl.split(halves)
            one = relu2_epilogue(left, row, col, out_desc, post_desc, fp8_desc, inv_scale, MODE)
            two = relu2_epilogue(
                right, row, col + HALF, out_desc, post_desc, fp8_desc, inv_scale, MODE
            )
            if MODE == M_POST_AND_FP8:
                biggest = tl.maximum(biggest, tl.maximum(one, two))
        if MODE == M_POST_AND_FP8:
            tl.store(amax_ptr + tl.program_id(0), biggest)


# (BLOCK_M, BLOCK_N, bytes of BLOCK_K, warps, stages, stages with a second matrix in the epilogue)
RELU2_TILES = (128, 256, 128, 8, 4, 3)


def launch_linear_relu2(
    a: Tensor, b: Tensor, out: Tensor, mode: int, *, post: Tensor | None = None,
    fp8: Tensor | None = None, dequant: Tensor | None = None, fp8_scale: Tensor | None = None,
    amax: Tensor | None = None,
) -> None:  # fmt: skip
    bm, bn, bk_bytes, warps, deep, shallow = RELU2_TILES
    bk = bk_bytes // a.element_size()
    if INTERPRET:
        bm, bn, bk = 32, 64, 32
    (m, k), n = a.shape, b.size(0)
    programs = min(programs_at_once(a), triton.cdiv(m, bm) * triton.cdiv(n, bn))
    if amax is not None and amax.numel() > programs:
        amax.zero_()
    # Unused descriptors point to a small buffer of their own: aliasing the output would make the
    # compiler assume dependences and shorten the pipeline.
    dummy = torch.empty(bm, bn // 2, dtype=out.dtype, device=a.device)
    half = [bm, bn // 2]
    linear_relu2_kernel[(programs,)](
        TensorDescriptor.from_tensor(a, [bm, bk]),
        TensorDescriptor.from_tensor(b, [bn, bk]),
        TensorDescriptor.from_tensor(out, half),
        TensorDescriptor.from_tensor(dummy if post is None else post, half),
        TensorDescriptor.from_tensor(dummy if fp8 is None else fp8, half),
        out if dequant is None else dequant,
        out if fp8_scale is None else fp8_scale,
        out if amax is None else amax,
        m, n, k,
        BLOCK_M=bm, BLOCK_N=bn, BLOCK_K=bk, PROGRAMS=programs, MODE=mode,
        DEQUANT=dequant is not None, num_stages=deep if mode == POST else shallow, num_warps=warps,
    )  # fmt: skip


def relu2_up(a: Tensor, b: Tensor, dequant: Tensor | None) -> Tensor:
    """relu(a b^T)^2 in bf16: a (T, K), b (N, K), both bf16 or both e4m3 (then the product is
    multiplied by `dequant`, one fp32 number)."""
    dtype = torch.bfloat16 if a.element_size() == 1 else a.dtype
    post = torch.empty(a.size(0), b.size(0), dtype=dtype, device=a.device)
    if uses_kernel(a):
        launch_linear_relu2(a, b, post, POST, dequant=dequant)
    else:
        acc = a.float() @ b.float().t() * (1.0 if dequant is None else dequant)
        post.copy_(F.relu(acc).square())
    return post


def partial_maxima(x: Tensor) -> int:
    """How many partial maxima `relu2_up_fp8` returns: one a multiprocessor."""
    return programs_at_once(x)


def relu2_up_fp8(
    a: Tensor, b: Tensor, dequant: Tensor | None, post_scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(post bf16, e4m3(min(post / post_scale, 448)), partial maxima of post): record #89's up
    projection, whose down projection runs in FP8 as well."""
    dtype = torch.bfloat16 if a.element_size() == 1 else a.dtype
    post = torch.empty(a.size(0), b.size(0), dtype=dtype, device=a.device)
    post8 = torch.empty(post.shape, dtype=E4M3, device=a.device)
    amax = torch.empty(partial_maxima(a), dtype=torch.float32, device=a.device)
    if uses_kernel(a):
        launch_linear_relu2(
            a, b, post, POST_AND_FP8, fp8=post8, dequant=dequant, fp8_scale=post_scale, amax=amax
        )
    else:
        acc = a.float() @ b.float().t() * (1.0 if dequant is None else dequant)
        acc = F.relu(acc).square()
        post.copy_(acc)
        post8.copy_((acc / post_scale).clamp(max=E4M3_MAX).to(E4M3))
        amax.fill_(acc.max())
    return post, post8, amax


@torch.library.custom_op("speedrun::relu2_grad", mutates_args=())
def relu2_grad(grad: Tensor, down: Tensor, post: Tensor) -> Tensor:
    """2 (g D^T) sqrt(post): grad (T, 768), down (3072, 768), post (T, 3072)."""
    out = torch.empty_like(post)
    if uses_kernel(grad):
        launch_linear_relu2(grad.contiguous(), down, out, GRADIENT, post=post)
    else:
        out.copy_(2.0 * (grad.float() @ down.float().t()) * post.float().sqrt())
    return out


relu2_grad.register_fake(lambda grad, down, post: torch.empty_like(post))


# The two MLPs are operators with a registered derivative, as every function with a hand-made one is
# here: a graph with a torch.autograd.Function in it is kept out of AOTAutograd's cache, and every
# start would trace and partition it anew. Straight through the quantisation: the backward pass uses
# the bf16 operands everywhere.


@torch.library.custom_op("speedrun::relu2_mlp", mutates_args=())
def relu2_mlp(
    x: Tensor, up: Tensor, down: Tensor, up_fp8: Tensor | None, x_fp8: Tensor | None,
    dequant: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(relu(x up^T)^2 @ down, relu(x up^T)^2): x (T, 768), up and down (3072, 768)."""
    post = relu2_up(x, up, None) if up_fp8 is None else relu2_up(x_fp8, up_fp8, dequant)
    return post @ down, post


@torch.library.custom_op("speedrun::relu2_mlp_fp8", mutates_args=())
def relu2_mlp_fp8(
    x: Tensor, up: Tensor, down: Tensor, up_fp8: Tensor, x_fp8: Tensor, dequant: Tensor,
    down_fp8_t: Tensor, down_scale: Tensor, post_scale: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`relu2_mlp` with the down projection in FP8 too; and the partial maxima of post."""
    post, post8, amax = relu2_up_fp8(x_fp8, up_fp8, dequant, post_scale)
    return fp8_mm(post8, down_fp8_t.t(), post_scale, down_scale, True), post, amax


@relu2_mlp.register_fake
def _(x, up, down, *rest):
    return torch.empty_like(x), x.new_empty(x.size(0), up.size(0))


@relu2_mlp_fp8.register_fake
def _(x, up, down, *rest):
    amax = x.new_empty(partial_maxima(x), dtype=torch.float32)
    return torch.empty_like(x), x.new_empty(x.size(0), up.size(0)), amax


def relu2_mlp_save(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:3], output[1])
    ctx.others = len(inputs) - 3


def relu2_mlp_backward(ctx, grad, *_):
    x, up, down, post = ctx.saved_tensors
    grad_down = post.t() @ grad
    grad_pre = relu2_grad(grad, down, post)
    return grad_pre @ up, grad_pre.t() @ x, grad_down, *([None] * ctx.others)


for _op in (relu2_mlp, relu2_mlp_fp8):
    _op.register_autograd(relu2_mlp_backward, setup_context=relu2_mlp_save)


def linear_relu2(
    x: Tensor, up: Tensor, down: Tensor, up_fp8: Tensor | None = None,
    x_fp8: Tensor | None = None, dequant: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """relu(x up^T)^2 @ down: x (..., 768), up and down (3072, 768) -> (..., 768), bf16.

    With up_fp8 and x_fp8 (e4m3, shapes of up and x) the up projection of the forward pass runs in
    FP8 and is multiplied by `dequant` (one fp32 number on the GPU, so no synchronisation). Without
    TMA (compute capability below 9.0) this is plain torch."""
    if not uses_kernel(x) or not has_tma():
        return F.relu(x @ up.t()).square() @ down
    flat = x.reshape(-1, x.size(-1))
    x8 = None if x_fp8 is None else x_fp8.reshape(flat.shape)
    return relu2_mlp(flat, up, down, up_fp8, x8, dequant)[0].view(x.shape)


def linear_relu2_fp8_down(
    x: Tensor, up: Tensor, down: Tensor, up_fp8: Tensor, x_fp8: Tensor, dequant: Tensor,
    down_fp8_t: Tensor, down_scale: Tensor, post_scale: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`linear_relu2` with both projections in FP8 (record #89): (out, partial maxima of post).

    down_fp8_t (768, 3072) e4m3 and down_scale come from `quantize_down`; post_scale is last step's
    delayed_scale(maxima, 1.80). Values of post above 448 post_scale saturate."""
    flat = x.reshape(-1, x.size(-1))
    out, _, amax = relu2_mlp_fp8(
        flat, up, down, up_fp8, x_fp8.reshape(flat.shape), dequant, down_fp8_t, down_scale,
        post_scale,
    )  # fmt: skip
    return out.view(x.shape), amax.detach()


# -------------------------------------------------------------------------------------------------
# Soft-capped multi-token cross entropy, loss and gradient in one pass over the logits.
#
# With h = tanh((logit + 5) / 15): z = 11.5 + 11.5 h, and because z < 23 the log-sum-exp needs no
# running maximum: LSE = 23 + log S, S = sum exp(z - 23). The gradient with respect to a logit is
#     grad_scale (W e / S - w[target]) (23 / 7.5) (1 - h^2) / 4,       e = exp(z - 23),
# so a single number per element, e (1 - h^2), has to survive until S is known. A row of those in
# bf16 is 100 KB: it stays in the registers of one block (two blocks share an SM), each logit is
# read once and costs two special-function instructions (tanh, ex2).
# Floor at T = 49152: 4.95 GB read + 2.47 GB written = 1.7 ms at 4.3 TB/s; 2 x 2.47e9 special
# functions at 16 a clock and SM = 1.2 ms at 1.98 GHz.
# -------------------------------------------------------------------------------------------------

LOG2E = 1.0 / math.log(2.0)

if triton is not None:
    H_GAIN = tl.constexpr(0.5 / CAP_WIDTH)
    H_SHIFT = tl.constexpr(0.5 * CAP_SHIFT / CAP_WIDTH)
    HALF_CAP = tl.constexpr(0.5 * CAP)
    HIGH_HALF = tl.constexpr(-0x10000)  # 0xFFFF0000 as int32
    HALF_CAP_LOG2E = tl.constexpr(0.5 * CAP * LOG2E)
    TWO_LOG2E = tl.constexpr(2.0 * LOG2E)
    GRAD_LIMIT = tl.constexpr(E5M2_MAX)

    def _ptx(x: float) -> str:
        """An fp32 literal of PTX."""
        return "0f" + struct.pack(">f", x).hex().upper()

    # Two bf16 logits in $2, gain $3 -> two bf16 e (1 - h^2) in $0, the sum of both e in $1.
    CAP_PAIR_ASM = tl.constexpr(
        f"""{{ .reg .b32 a, b; .reg .f32 ha, hb, ea, eb, na, nb;
        shl.b32 a, $2, 16;                    and.b32 b, $2, 0xffff0000;
        mov.b32 ha, a;                        mov.b32 hb, b;
        fma.rn.f32 ha, ha, $3, {_ptx(H_SHIFT.value)};
        fma.rn.f32 hb, hb, $3, {_ptx(H_SHIFT.value)};
        tanh.approx.f32 ha, ha;               tanh.approx.f32 hb, hb;
        fma.rn.f32 ea, ha, {_ptx(HALF_CAP_LOG2E.value)}, {_ptx(-HALF_CAP_LOG2E.value)};
        fma.rn.f32 eb, hb, {_ptx(HALF_CAP_LOG2E.value)}, {_ptx(-HALF_CAP_LOG2E.value)};
        ex2.approx.ftz.f32 ea, ea;            ex2.approx.ftz.f32 eb, eb;
        add.f32 $1, ea, eb;
        neg.f32 na, ha;                       neg.f32 nb, hb;
        fma.rn.f32 ha, na, ha, 0f3F800000;    fma.rn.f32 hb, nb, hb, 0f3F800000;
        mul.f32 ha, ha, ea;                   mul.f32 hb, hb, eb;
        cvt.rn.bf16x2.f32 $0, hb, ha; }}"""
    )
    # Two words of two bf16 numbers in $1, $2, each number times $3 -> four e5m2 in $0.
    GRAD_PAIR_ASM = tl.constexpr(
        """{ .reg .b32 a, b, c, d; .reg .f32 fa, fb, fc, fd; .reg .b16 p, q;
        shl.b32 a, $1, 16;    and.b32 b, $1, 0xffff0000;
        shl.b32 c, $2, 16;    and.b32 d, $2, 0xffff0000;
        mov.b32 fa, a;    mov.b32 fb, b;    mov.b32 fc, c;    mov.b32 fd, d;
        mul.f32 fa, fa, $3;   mul.f32 fb, fb, $3;
        mul.f32 fc, fc, $4;   mul.f32 fd, fd, $4;
        cvt.rn.satfinite.e5m2x2.f32 p, fb, fa;
        cvt.rn.satfinite.e5m2x2.f32 q, fd, fc;
        mov.b32 $0, {p, q}; }"""
    )

    @triton.jit
    def tanh(x, PTX: tl.constexpr):
        if PTX:  # one instruction, relative error below 2^-11 (0.006 nats of z at most)
            return tl.inline_asm_elementwise(
                "tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
            )
        return 1.0 - 2.0 / (tl.exp2(x * TWO_LOG2E) + 1.0)

    @triton.jit
    def cap(logit, gain, PTX: tl.constexpr):
        """fp32 logits -> (e, e (1 - h^2), z) with e = exp(z - 23); gain = 1 / 15."""
        h = tanh(logit * gain + H_SHIFT, PTX)
        e = tl.exp2(h * HALF_CAP_LOG2E - HALF_CAP_LOG2E)
        return e, e * (1.0 - h * h), h * HALF_CAP + HALF_CAP

    @triton.jit
    def cap_pair(word, gain, PTX: tl.constexpr):
        """int32 words of two bf16 logits -> words of two bf16 e (1 - h^2), sums of both e."""
        if PTX:
            return tl.inline_asm_elementwise(
                CAP_PAIR_ASM, "=r,=f,r,f", [word, gain],
                dtype=(tl.int32, tl.float32), is_pure=True, pack=1,
            )  # fmt: skip
        ea, ga, _ = cap((word << 16).to(tl.float32, bitcast=True), gain, PTX)
        eb, gb, _ = cap((word & HIGH_HALF).to(tl.float32, bitcast=True), gain, PTX)
        low = ga.to(tl.bfloat16).to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF
        high = gb.to(tl.bfloat16).to(tl.int16, bitcast=True).to(tl.int32) << 16
        return low | high, ea + eb

    @triton.jit
    def grad_pair(word, scale, PTX: tl.constexpr):
        """Words of two bf16 numbers, times `scale` -> int16 words of two e5m2, saturating."""
        if PTX:
            return tl.inline_asm_elementwise(
                GRAD_PAIR_ASM, "=r,r,r,f,f", [word, scale], dtype=tl.int16, is_pure=True, pack=2
            )
        a = tl.minimum((word << 16).to(tl.float32, bitcast=True) * scale, GRAD_LIMIT)
        b = tl.minimum((word & HIGH_HALF).to(tl.float32, bitcast=True) * scale, GRAD_LIMIT)
        a = a.to(tl.float8e5).to(tl.int8, bitcast=True).to(tl.int32) & 0xFF
        b = b.to(tl.float8e5).to(tl.int8, bitcast=True).to(tl.int32) << 8
        return (a | b).to(tl.int16)

    @triton.jit
    def row_targets(
        logits_row_ptr, targets_ptr, weights_ptr, prefix_ptr, prefix_weight_ptr, row, rows,
        N_MTP: tl.constexpr, HAS_PREFIX: tl.constexpr,
    ):  # fmt: skip
        """Lanes 0..N_MTP-1: the row's targets and weights, those past the last token dropped; lane
        N_MTP: the prefix token. Returns (target or -1, weight or 0, logit) of four lanes."""
        lane = tl.arange(0, 4)
        valid = (lane < N_MTP) & (row + lane < rows)
        where, how_much = targets_ptr + row + lane, weights_ptr + lane
        if HAS_PREFIX:  # addresses are chosen, not what is read: that spilled (Triton 3.6, sm_90)
            where = tl.where(lane == N_MTP, prefix_ptr + row, where)
            how_much = tl.where(lane == N_MTP, prefix_weight_ptr, how_much)
            valid = valid | (lane == N_MTP)
        target = tl.load(where, mask=valid, other=-1).to(tl.int32)
        weight = tl.load(how_much, mask=valid & (target >= 0), other=0.0)
        return target, weight, tl.load(logits_row_ptr + target, mask=target >= 0, other=0.0)

    @triton.jit
    def finish_targets(
        loss_ptr, grad_row_ptr, row, total, factor, target, weight, logit,
        PTX: tl.constexpr, E5M2_OUT: tl.constexpr,
    ):  # fmt: skip
        """Write the loss; correct the gradient at the targets' columns, written by other threads
        before: hence the barrier. Lanes that share a column write the same number."""
        e, g, z = cap(logit.to(tl.float32), H_GAIN, PTX)
        lse = 2.0 * HALF_CAP + tl.log(total)
        tl.store(loss_ptr + row, tl.sum(weight * (lse - z), axis=0))
        same = target[:, None] == target[None, :]
        column_weight = tl.sum(tl.where(same, weight[None, :], 0.0), axis=1)
        # g = e (1 - h^2), so (W e / S - w) (1 - h^2) = g (W / S - w / e).
        grad = factor * g * (tl.sum(weight, axis=0) / total - column_weight / e)
        if E5M2_OUT:
            grad = tl.minimum(tl.maximum(grad, -GRAD_LIMIT), GRAD_LIMIT)
        tl.debug_barrier()
        tl.store(grad_row_ptr + target, grad.to(grad_row_ptr.dtype.element_ty), mask=target >= 0)

    @triton.jit
    def cross_entropy_registers_kernel(
        logits_ptr, words_ptr, targets_ptr, weights_ptr, prefix_ptr, prefix_weight_ptr,
        loss_ptr, grad_ptr, grad_pairs_ptr, gain_ptr, rows, factor,
        WORDS: tl.constexpr, CHUNK: tl.constexpr, TAIL: tl.constexpr,
        N_MTP: tl.constexpr, HAS_PREFIX: tl.constexpr, PTX: tl.constexpr,
    ):  # fmt: skip
        """One row a block, e5m2 gradient. A word is two columns; the row stays in registers, in
        chunks of CHUNK words and a tail."""
        row = tl.program_id(0).to(tl.int64)
        chunks: tl.constexpr = WORDS // CHUNK
        rest: tl.constexpr = WORDS - chunks * CHUNK
        words_ptr += row * WORDS
        grad_pairs_ptr += row * WORDS
        lane = tl.arange(0, CHUNK)

        held = ()
        for c in tl.static_range(chunks):
            word = tl.load(words_ptr + c * CHUNK + lane, eviction_policy="evict_first")
            held = held + (word,)  # noqa: RUF005 (Triton knows no starred tuples)
        if rest:
            tail_lane = tl.arange(0, TAIL)
            tail_mask = tail_lane < rest
            tail = tl.load(
                words_ptr + chunks * CHUNK + tail_lane, mask=tail_mask, other=0,
                eviction_policy="evict_first",
            )  # fmt: skip
        target, weight, logit = row_targets(
            logits_ptr + row * (2 * WORDS), targets_ptr, weights_ptr, prefix_ptr,
            prefix_weight_ptr, row, rows, N_MTP, HAS_PREFIX,
        )  # fmt: skip
        # All arithmetic needs the gain, the gain is read behind a barrier, and no load may sink
        # below a barrier: so every load is issued first. Left alone, ptxas moves each load to
        # just before its use (1-2 of 25 in flight, read off the SASS).
        tl.debug_barrier()
        gain = tl.load(gain_ptr, volatile=True)

        sums = tl.zeros((CHUNK,), dtype=tl.float32)
        packed = ()
        for c in tl.static_range(chunks):
            word, pair = cap_pair(held[c], gain, PTX)
            packed = packed + (word,)  # noqa: RUF005
            sums += pair
        total = tl.sum(sums, axis=0)
        if rest:
            tail, pair = cap_pair(tail, gain, PTX)
            total += tl.sum(tl.where(tail_mask, pair, 0.0), axis=0)

        scale = factor * tl.sum(weight, axis=0) / total
        for c in tl.static_range(chunks):
            tl.store(grad_pairs_ptr + c * CHUNK + lane, grad_pair(packed[c], scale, PTX))
        if rest:
            tl.store(
                grad_pairs_ptr + chunks * CHUNK + tail_lane,
                grad_pair(tail, scale, PTX),
                mask=tail_mask,
            )
        finish_targets(
            loss_ptr, grad_ptr + row * (2 * WORDS), row, total, factor, target, weight, logit,
            PTX, True,
        )  # fmt: skip

    @triton.jit
    def cross_entropy_sweeps_kernel(
        logits_ptr, targets_ptr, weights_ptr, prefix_ptr, prefix_weight_ptr,
        loss_ptr, grad_ptr, rows, factor,
        V: tl.constexpr, BLOCK: tl.constexpr, N_MTP: tl.constexpr, HAS_PREFIX: tl.constexpr,
        PTX: tl.constexpr, E5M2_OUT: tl.constexpr,
    ):  # fmt: skip
        """The same for any V and any gradient dtype (GPUs without FP8): two sweeps, the second
        evaluates tanh and ex2 again. H200, T = 49152: 2.95 ms against 2.35."""
        row = tl.program_id(0).to(tl.int64)
        logits_ptr += row * V
        grad_ptr += row * V
        target, weight, logit = row_targets(
            logits_ptr, targets_ptr, weights_ptr, prefix_ptr, prefix_weight_ptr, row, rows,
            N_MTP, HAS_PREFIX,
        )  # fmt: skip
        lane = tl.arange(0, BLOCK)
        sums = tl.zeros((BLOCK,), dtype=tl.float32)
        for start in range(0, V, BLOCK):
            mask = start + lane < V
            x = tl.load(logits_ptr + start + lane, mask=mask, other=0.0).to(tl.float32)
            sums += tl.where(mask, cap(x, H_GAIN, PTX)[0], 0.0)
        total = tl.sum(sums, axis=0)
        scale = factor * tl.sum(weight, axis=0) / total
        for start in range(0, V, BLOCK):
            mask = start + lane < V
            x = tl.load(
                logits_ptr + start + lane, mask=mask, other=0.0, eviction_policy="evict_first"
            ).to(tl.float32)
            grad = cap(x, H_GAIN, PTX)[1] * scale
            if E5M2_OUT:
                grad = tl.minimum(grad, GRAD_LIMIT)
            tl.store(grad_ptr + start + lane, grad.to(grad_ptr.dtype.element_ty), mask=mask)
        finish_targets(
            loss_ptr, grad_ptr, row, total, factor, target, weight, logit, PTX, E5M2_OUT,
        )  # fmt: skip


def softcap_reference(logits: Tensor) -> Tensor:
    return CAP * torch.sigmoid((logits + CAP_SHIFT) / CAP_WIDTH)


def mtp_cross_entropy_reference(
    logits: Tensor, targets: Tensor, mtp_weights: Tensor,
    prefix_targets: Tensor | None = None, prefix_weight: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Losses (T,) in the precision of `logits`, differentiable: sum_k w_k (LSE(z_t) - z_t[y_t+k]),
    terms beyond T dropped; plus w_p (LSE - z_t[prefix_t]) where prefix_t >= 0."""
    z = softcap_reference(logits)
    lse = torch.logsumexp(z, dim=-1)
    rows = logits.size(0)
    loss = torch.zeros_like(lse)
    for k, w in enumerate(mtp_weights.to(lse.dtype).unbind()):
        term = lse[: rows - k] - z[: rows - k].gather(1, targets[k:, None].long()).squeeze(1)
        loss = loss + w * F.pad(term, (0, k))
    if prefix_targets is not None:
        term = lse - z.gather(1, prefix_targets.long().clamp(min=0)[:, None]).squeeze(1)
        loss = loss + prefix_weight.to(lse.dtype) * term * (prefix_targets >= 0)
    return loss


def softcapped_mtp_cross_entropy_reference(
    logits: Tensor, targets: Tensor, mtp_weights: Tensor, grad_s: float, grad_scale: float,
    prefix_targets: Tensor | None = None, prefix_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Losses (T,) and grad_scale / grad_s times their gradient (T, V), in fp32 or fp64:
    (W p - the weights of the terms whose target is the column) dz/dlogit."""
    x = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = mtp_cross_entropy_reference(x, targets, mtp_weights, prefix_targets, prefix_weight)
    z = softcap_reference(x)
    rows = torch.arange(len(x), device=x.device)
    aimed = torch.zeros_like(z)  # weight of each column as a target; its row sums are W
    for k, w in enumerate(mtp_weights.to(x.dtype).unbind()):
        there = rows[: len(x) - k]
        aimed.index_put_((there, targets[k:]), w.expand(there.shape), accumulate=True)
    if prefix_targets is not None:
        there = rows[prefix_targets >= 0]
        w = prefix_weight.to(x.dtype).expand(there.shape)
        aimed.index_put_((there, prefix_targets[there]), w, accumulate=True)
    grad = aimed.sum(1, keepdim=True) * torch.softmax(z, 1) - aimed
    return losses, grad * (z * (1 - z / CAP)) * (grad_scale / grad_s / CAP_WIDTH)


# Words a chunk, chunks at most, warps, registers a thread of the kernel that keeps its row: all 49
# chunks of V = 50304 take 197 registers of 255, and two blocks share a multiprocessor.
ROW_CHUNK, ROW_CHUNKS, ROW_WARPS, ROW_REGISTERS = 512, 49, 4, 255


def launch_cross_entropy(
    logits: Tensor, targets: Tensor, mtp_weights: Tensor, prefix: Tensor | None,
    prefix_weight: Tensor | None, losses: Tensor, grad: Tensor, factor: float,
) -> None:  # fmt: skip
    rows, vocab = logits.shape
    n_mtp = mtp_weights.numel()
    if n_mtp + (prefix is not None) > 4:
        raise ValueError(f"{n_mtp} multi-token weights: at most 3 with a prefix term, else 4")
    prefix_args = (targets, mtp_weights) if prefix is None else (prefix, prefix_weight)
    common = {"N_MTP": n_mtp, "HAS_PREFIX": prefix is not None, "PTX": not INTERPRET}
    words = vocab // 2
    chunk = min(ROW_CHUNK, triton.next_power_of_2(words + 1) // 2)
    packed = grad.dtype == E5M2 and logits.dtype == torch.bfloat16 and vocab % 8 == 0
    if not packed or words // chunk > ROW_CHUNKS:
        cross_entropy_sweeps_kernel[(rows,)](
            logits, targets, mtp_weights, *prefix_args, losses, grad, rows, factor,
            V=vocab, BLOCK=4096, E5M2_OUT=grad.dtype == E5M2, num_warps=8, **common,
        )  # fmt: skip
        return
    cross_entropy_registers_kernel[(rows,)](
        logits, logits.view(torch.int32), targets, mtp_weights, *prefix_args, losses, grad,
        grad.view(torch.int16), scale_tensor(0.5 / CAP_WIDTH, logits.device), rows, factor,
        WORDS=words, CHUNK=chunk, TAIL=triton.next_power_of_2(max(words % chunk, 1)),
        num_warps=ROW_WARPS, maxnreg=ROW_REGISTERS, **common,
    )  # fmt: skip


@torch.library.custom_op("speedrun::cross_entropy", mutates_args=())
def cross_entropy_op(
    logits: Tensor, targets: Tensor, mtp_weights: Tensor, prefix: Tensor | None,
    prefix_weight: Tensor | None, grad_s: float, grad_scale: float, fp8_grad: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Losses (T,) fp32 and the gradient of grad_scale * losses.sum() with respect to every logit,
    divided by grad_s and stored as saturating e5m2 (T, V) (or the dtype of the logits).

    logits (T, V) bf16; targets (T,) int64, the next tokens; mtp_weights (n <= 3,) fp32 on the GPU:
    weight k is for target t + k, dropped where t + k >= T (there the record keeps its weight in the
    gradient's sum; two rows a step). prefix (T,) int64 with -1 for none and prefix_weight (1,): the
    prefix-token term of record #88."""
    losses = torch.empty(logits.size(0), dtype=torch.float32, device=logits.device)
    dtype = E5M2 if fp8_grad else logits.dtype
    if not uses_kernel(logits):
        exact, grad = softcapped_mtp_cross_entropy_reference(
            logits, targets, mtp_weights, grad_s, grad_scale, prefix, prefix_weight
        )
        grad = grad.clamp(-E5M2_MAX, E5M2_MAX) if fp8_grad else grad
        return losses.copy_(exact), grad.to(dtype)
    grad = torch.empty(logits.shape, dtype=dtype, device=logits.device)
    factor = grad_scale / grad_s * (CAP / CAP_WIDTH) / 4
    launch_cross_entropy(logits, targets, mtp_weights, prefix, prefix_weight, losses, grad, factor)
    return losses, grad


@cross_entropy_op.register_fake
def _(logits, targets, mtp_weights, prefix, prefix_weight, grad_s, grad_scale, fp8_grad):
    dtype = E5M2 if fp8_grad else logits.dtype
    losses = logits.new_empty(logits.size(0), dtype=torch.float32)
    return losses, logits.new_empty(logits.shape, dtype=dtype)


# -------------------------------------------------------------------------------------------------
# Head and loss: FP8 logits, fused cross entropy, FP8 gradients
# -------------------------------------------------------------------------------------------------


def head_loss_and_gradients(
    x: Tensor, w: Tensor, targets: Tensor, mtp_weights: Tensor, prefix: Tensor | None,
    prefix_weight: Tensor | None, x_s: float, w_s: float, grad_s: float, grad_scale: Tensor,
    fp8: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Losses (T,), and the gradients of losses.sum() * grad_scale for x (T, D) and w (D, V)."""
    rest = (targets, mtp_weights, prefix, prefix_weight)
    if not fp8:
        losses, grad = cross_entropy_op(x @ w, *rest, 1.0, 1.0, False)
        scale = grad_scale.to(x.dtype)
        return losses, (grad @ w.t()) * scale, (x.t() @ grad) * scale
    one = torch.ones_like(grad_scale)
    x8 = quantize_e4m3(x, x_s)
    w8, w8_t = quantize_both_layouts(w, w_s)  # scaled_mm wants B column-major
    logits = fp8_mm_static(x8, w8_t.t(), x_s, w_s, True)
    losses, grad = cross_entropy_op(logits, *rest, grad_s, 1.0, True)
    grad_x = fp8_mm(grad, w8.t(), grad_scale * (grad_s * w_s), one, False)
    # dW = x^T G: both operands along T, so both are transposed; fp32 inside, bf16 out.
    grad_w = fp8_mm(transposed(x8), transposed(grad).t(), grad_scale * (grad_s * x_s), one, False)
    return losses, grad_x, grad_w


@torch.library.custom_op("speedrun::with_gradients", mutates_args=())
def with_gradients(losses: Tensor, x: Tensor, w: Tensor, grad_x: Tensor, grad_w: Tensor) -> Tensor:
    """`losses`, as a function of x and w with these gradients. The incoming gradient is not looked
    at: it must be the grad_scale they were made for, as `(losses.sum() * grad_scale).backward()`
    sends it."""
    return losses.clone()


with_gradients.register_fake(lambda losses, *_: torch.empty_like(losses))
with_gradients.register_autograd(
    lambda ctx, _: (None, *ctx.saved_tensors, None, None),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs[3:]),
)


def fused_head_loss(
    x: Tensor, lm_head: Tensor, targets: Tensor, mtp_weights: Tensor,
    x_s: float, w_s: float, grad_s: float, grad_scale: Tensor,
    prefix_targets: Tensor | None = None, prefix_weight: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Per-token losses (T,) fp32 of x (T, 768) bf16 through lm_head (768, V) bf16.

    FP8 on compute capability 8.9 and later (e4m3 activations and weights divided by x_s and w_s,
    e5m2 gradient divided by grad_s), bf16 on older GPUs, plain differentiable torch on a CPU. The
    gradients are those of losses.sum() * grad_scale, which is one fp32 number on the GPU: so the
    same graph serves every number of ranks. See with_gradients."""
    if not uses_kernel(x):
        return mtp_cross_entropy_reference(
            (x @ lm_head).float(), targets, mtp_weights, prefix_targets, prefix_weight
        )
    with torch.no_grad():
        losses, *gradients = head_loss_and_gradients(
            x, lm_head, targets, mtp_weights, prefix_targets, prefix_weight,
            x_s, w_s, grad_s, grad_scale, has_fp8() or INTERPRET,
        )  # fmt: skip
    return with_gradients(losses, x, lm_head, *gradients)


# -------------------------------------------------------------------------------------------------
# Heads: what stands between the projections and the attention. Before it, queries and keys are
# normed, rotated and (keys) shifted by a token, values take what is added to them; after it, what
# a token attends to along its own value is taken out (XSA) and the heads are gated. The compiler
# makes three to six kernels of each side, which read a tensor several times (the mate of a rotated
# channel is loaded anew, a norm is a kernel of its own): H200, T = 49152, .37 ms before a paired
# layer's attention where its bytes need .1. Here one kernel a side and direction.
#
# The values' gradient has two parts, one by the attention and one by XSA. So that the sum is not a
# pass of its own, XSA reads the values without a gradient and a tap besides: zeros that take no
# memory, through which its part reaches `prepare_heads_grad`.
# -------------------------------------------------------------------------------------------------
RMS_EPS = torch.finfo(torch.float32).eps  # also for bf16 inputs; a larger one changes the function
HEAD_ROWS = 32  # tokens a program, each of one head


def norm(x: Tensor) -> Tensor:
    """RMS norm over the last axis, without weights."""
    return F.rms_norm(x, (x.size(-1),), eps=RMS_EPS)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of adjacent channel pairs. x (T, n, c); cos, sin (T, c), sin's odd
    channels negated. Channels whose frequency is 0 pass unchanged."""
    swapped = x.unflatten(-1, (x.size(-1) // 2, 2)).flip(-1).flatten(-2)
    return cos[:, None] * x + sin[:, None] * swapped


def shift_in(first: Tensor, rest: Tensor) -> Tensor:
    return torch.cat((first, rest))


if triton is not None:

    @triton.jit
    def half_head(ptr, rows, stride, inside, HALF: tl.constexpr):
        """(rows, HALF) channels of a head in fp32; rows that are not inside are 0."""
        c = tl.arange(0, HALF)
        x = tl.load(ptr + rows[:, None] * stride + c[None, :], mask=inside[:, None], other=0.0)
        return x.to(tl.float32)

    @triton.jit
    def put_half(ptr, rows, stride, inside, x, HALF: tl.constexpr):
        c = tl.arange(0, HALF)
        at = ptr + rows[:, None] * stride + c[None, :]
        tl.store(at, x.to(ptr.dtype.element_ty), mask=inside[:, None])

    @triton.jit
    def inverse_rms(low, high, eps, HALF: tl.constexpr):
        return tl.rsqrt((tl.sum(low * low, 1) + tl.sum(high * high, 1)) / (2 * HALF) + eps)

    @triton.jit
    def evens(x, ROWS: tl.constexpr, HALF: tl.constexpr):
        """Every other channel: the tables hold a pair's angle twice, and loads of 16 bytes and a
        choice in registers are better than loads of 2."""
        even, _ = tl.split(tl.reshape(x, (ROWS, HALF // 2, 2)))
        return even

    @triton.jit
    def angles(cos_ptr, sin_ptr, rows, stride, inside, ROWS: tl.constexpr, HALF: tl.constexpr):
        """cos and sin (rows, HALF / 2) of the pairs of channels that rotate."""
        cos = evens(half_head(cos_ptr, rows, stride, inside, HALF), ROWS, HALF)
        return cos, evens(half_head(sin_ptr, rows, stride, inside, HALF), ROWS, HALF)

    @triton.jit
    def turned(x, cos, sin, ROWS: tl.constexpr, HALF: tl.constexpr):
        """Adjacent channels of x rotated by the angles."""
        even, odd = tl.split(tl.reshape(x, (ROWS, HALF // 2, 2)))
        both = tl.join(cos * even + sin * odd, cos * odd - sin * even)
        return tl.reshape(both, (ROWS, HALF))

    @triton.jit
    def prepare_heads_kernel(
        qkv_ptr, extra_ptr, cos_ptr, sin_ptr, q_ptr, k_ptr, v_ptr, tokens, eps, angle_stride,
        H: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr,
        PAIRED: tl.constexpr, OFFSET: tl.constexpr, EXTRA: tl.constexpr,
    ):  # fmt: skip
        HALF: tl.constexpr = C // 2
        h, wide, narrow = tl.program_id(0), 3 * H * C, H * C
        t = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
        inside = t < tokens
        side = (h % 2) * C if PAIRED else 0  # odd heads have the second half of the tables
        cos, sin = angles(cos_ptr + side, sin_ptr + side, t, angle_stride, inside, ROWS, HALF)
        for part in tl.static_range(2):
            x_ptr = qkv_ptr + part * narrow + h * C
            y_ptr = (k_ptr if part == 1 else q_ptr) + h * C
            low = half_head(x_ptr, t, wide, inside, HALF)
            high = half_head(x_ptr + HALF, t, wide, inside, HALF)
            r = inverse_rms(low, high, eps, HALF)[:, None]
            y = turned(low * r, cos, sin, ROWS, HALF)
            put_half(y_ptr, t, narrow, inside, y, HALF)
            if OFFSET and part == 1:  # the half that does not rotate is of the token before
                before = tl.maximum(t - 1, 0)
                low = half_head(x_ptr, before, wide, inside, HALF)
                high = half_head(x_ptr + HALF, before, wide, inside, HALF)
                r = inverse_rms(low, high, eps, HALF)[:, None]
            put_half(y_ptr + HALF, t, narrow, inside, high * r, HALF)
        for half in tl.static_range(2):
            at = h * C + half * HALF
            v = half_head(qkv_ptr + 2 * narrow + at, t, wide, inside, HALF)
            if EXTRA:
                v += half_head(extra_ptr + at, t, narrow, inside, HALF)
            put_half(v_ptr + at, t, narrow, inside, v, HALF)

    @triton.jit
    def prepare_heads_grad_kernel(
        dq_ptr, dk_ptr, dv_ptr, tap_ptr, qkv_ptr, cos_ptr, sin_ptr, dqkv_ptr, dextra_ptr,
        tokens, eps, angle_stride,
        H: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr,
        PAIRED: tl.constexpr, OFFSET: tl.constexpr, EXTRA: tl.constexpr, TAP: tl.constexpr,
    ):  # fmt: skip
        HALF: tl.constexpr = C // 2
        h, wide, narrow = tl.program_id(0), 3 * H * C, H * C
        t = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
        inside = t < tokens
        side = (h % 2) * C if PAIRED else 0
        cos, sin = angles(cos_ptr + side, sin_ptr + side, t, angle_stride, inside, ROWS, HALF)
        for part in tl.static_range(2):
            x_ptr = qkv_ptr + part * narrow + h * C
            dy_ptr = (dk_ptr if part == 1 else dq_ptr) + h * C
            out_ptr = dqkv_ptr + part * narrow + h * C
            low = half_head(x_ptr, t, wide, inside, HALF)
            high = half_head(x_ptr + HALF, t, wide, inside, HALF)
            # of the normed halves: rotated back, and (keys) from the token after
            d_low = turned(half_head(dy_ptr, t, narrow, inside, HALF), cos, -sin, ROWS, HALF)
            if OFFSET and part == 1:
                d_high = half_head(dy_ptr + HALF, t + 1, narrow, t + 1 < tokens, HALF)
                d_high += half_head(dy_ptr + HALF, t, narrow, t == 0, HALF)
            else:
                d_high = half_head(dy_ptr + HALF, t, narrow, inside, HALF)
            r = inverse_rms(low, high, eps, HALF)
            along = (tl.sum(low * d_low, 1) + tl.sum(high * d_high, 1)) * r * r / C
            r, along = r[:, None], along[:, None]
            put_half(out_ptr, t, wide, inside, r * (d_low - low * along), HALF)
            put_half(out_ptr + HALF, t, wide, inside, r * (d_high - high * along), HALF)
        for half in tl.static_range(2):
            at = h * C + half * HALF
            dv = half_head(dv_ptr + at, t, narrow, inside, HALF)
            if TAP:
                dv += half_head(tap_ptr + at, t, narrow, inside, HALF)
            put_half(dqkv_ptr + 2 * narrow + at, t, wide, inside, dv, HALF)
            if EXTRA:
                put_half(dextra_ptr + at, t, narrow, inside, dv, HALF)

    @triton.jit
    def per_head(ptr, t, h, row_stride, column_stride, inside):
        """One number a token of this head, (rows, 1) in fp32."""
        x = tl.load(ptr + t * row_stride + h * column_stride, mask=inside, other=0.0)
        return x.to(tl.float32)[:, None]

    @triton.jit
    def finish_heads_kernel(
        o_ptr, v_ptr, xsa_ptr, gate_ptr, y_ptr, tokens, xsa_row, xsa_column, gate_row, gate_column,
        H: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr, XSA: tl.constexpr, GATE: tl.constexpr,
    ):  # fmt: skip
        h, width = tl.program_id(0), H * C
        t = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
        inside = t < tokens
        y = half_head(o_ptr + h * C, t, width, inside, C)
        if XSA:
            v = half_head(v_ptr + h * C, t, width, inside, C)
            length = tl.maximum(tl.sum(v * v, 1), 1e-8)
            share = (tl.sum(y * v, 1) / length)[:, None]
            y -= per_head(xsa_ptr, t, h, xsa_row, xsa_column, inside) * share * v
        if GATE:
            y *= per_head(gate_ptr, t, h, gate_row, gate_column, inside)
        put_half(y_ptr + h * C, t, width, inside, y, C)

    @triton.jit
    def finish_heads_grad_kernel(
        grad_ptr, o_ptr, v_ptr, xsa_ptr, gate_ptr, do_ptr, dv_ptr, dxsa_ptr, dgate_ptr, tokens,
        grad_row, xsa_row, xsa_column, gate_row, gate_column,
        H: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr, XSA: tl.constexpr, GATE: tl.constexpr,
    ):  # fmt: skip
        h, width = tl.program_id(0), H * C
        t = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
        inside = t < tokens
        dy = half_head(grad_ptr + h * C, t, grad_row, inside, C)
        o = half_head(o_ptr + h * C, t, width, inside, C)
        along = tl.sum(dy * o, 1)  # then <dy, y>, the gate's gradient
        if GATE:
            gate = per_head(gate_ptr, t, h, gate_row, gate_column, inside)
        else:
            gate = tl.full((ROWS, 1), 1.0, tl.float32)
        if XSA:
            v = half_head(v_ptr + h * C, t, width, inside, C)
            strength = per_head(xsa_ptr, t, h, xsa_row, xsa_column, inside)
            square = tl.sum(v * v, 1)
            length = tl.maximum(square, 1e-8)
            share = tl.sum(o * v, 1) / length
            towards = tl.sum(dy * v, 1)  # of the gated output; times the gate: of y
            along -= tl.sum(strength, 1) * share * towards
            tl.store(dxsa_ptr + t * H + h, -share * towards * tl.sum(gate, 1), mask=inside)
            pull = strength * gate * (towards / length)[:, None]
            moves = tl.where(square > 1e-8, 2.0, 0.0)[:, None]  # a clamped length does not move
            dv = share[:, None] * (moves * pull * v - strength * gate * dy) - pull * o
            put_half(dv_ptr + h * C, t, width, inside, dv, C)
            dy = gate * dy - pull * v
        else:
            dy = gate * dy
        if GATE:
            tl.store(dgate_ptr + t * H + h, along, mask=inside)
        put_half(do_ptr + h * C, t, width, inside, dy, C)


def head_grid(tokens: int, heads: int) -> tuple[int, int]:
    """Heads first: the programs beside each other read the same tokens."""
    return heads, triton.cdiv(tokens, HEAD_ROWS)


def table_is_paired(cos: Tensor, width: int) -> bool:
    """Tables for paired heads have both positions of a token side by side."""
    return cos.size(1) == 2 * width


@torch.library.custom_op("speedrun::prepare_heads", mutates_args=())
def prepare_heads_op(
    qkv: Tensor, extra: Tensor | None, cos: Tensor, sin: Tensor, heads: int, offset: bool, tap: bool
) -> list[Tensor]:
    """[q, k, v] and with `tap` the tap, each (T, H, C): see prepare_heads."""
    tokens, width = qkv.size(0), qkv.size(1) // 3
    C = width // heads
    qkv = qkv.contiguous()
    q, k, v = (torch.empty(tokens, heads, C, dtype=qkv.dtype, device=qkv.device) for _ in range(3))
    prepare_heads_kernel[head_grid(tokens, heads)](
        qkv, qkv if extra is None else extra.contiguous(), cos, sin, q, k, v,
        tokens, RMS_EPS, cos.stride(0), H=heads, C=C, ROWS=HEAD_ROWS,
        PAIRED=table_is_paired(cos, C), OFFSET=offset, EXTRA=extra is not None, num_warps=4,
    )  # fmt: skip
    return [q, k, v, *([qkv.new_zeros(()).expand(q.shape)] if tap else [])]


@torch.library.custom_op("speedrun::prepare_heads_grad", mutates_args=())
def prepare_heads_grad(
    dq: Tensor, dk: Tensor, dv: Tensor, dtap: Tensor | None, qkv: Tensor, cos: Tensor, sin: Tensor,
    offset: bool, extra: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of qkv (T, 3 H C), and of what was added to the values, empty without that."""
    tokens, heads, C = dq.shape
    dq, dk, dv, qkv = (t.contiguous() for t in (dq, dk, dv, qkv))
    dqkv = torch.empty_like(qkv)
    dextra = torch.empty(tokens if extra else 0, heads, C, dtype=qkv.dtype, device=qkv.device)
    prepare_heads_grad_kernel[head_grid(tokens, heads)](
        dq, dk, dv, dv if dtap is None else dtap.contiguous(), qkv, cos, sin, dqkv, dextra,
        tokens, RMS_EPS, cos.stride(0), H=heads, C=C, ROWS=HEAD_ROWS,
        PAIRED=table_is_paired(cos, C), OFFSET=offset, EXTRA=extra, TAP=dtap is not None,
        num_warps=4,
    )  # fmt: skip
    return dqkv, dextra


@prepare_heads_op.register_fake
def _(qkv, extra, cos, sin, heads, offset, tap):
    shape = qkv.size(0), heads, qkv.size(1) // 3 // heads
    taps = [qkv.new_zeros(()).expand(shape)] if tap else []
    return [*(qkv.new_empty(shape) for _ in range(3)), *taps]


@prepare_heads_grad.register_fake
def _(dq, dk, dv, dtap, qkv, cos, sin, offset, extra):
    dqkv = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    return dqkv, qkv.new_empty(dq.size(0) if extra else 0, dq.size(1), dq.size(2))


def prepare_heads_save(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    qkv, extra, cos, sin, _, ctx.offset, _ = inputs
    ctx.extra = extra is not None
    ctx.save_for_backward(qkv, cos, sin)


def prepare_heads_back(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
    dq, dk, dv, *dtap = grads
    dqkv, dextra = prepare_heads_grad(
        dq, dk, dv, dtap[0] if dtap else None, *ctx.saved_tensors, ctx.offset, ctx.extra
    )
    return dqkv, dextra if ctx.extra else None, None, None, None, None, None


prepare_heads_op.register_autograd(prepare_heads_back, setup_context=prepare_heads_save)


def prepare_heads(
    qkv: Tensor, extra: Tensor | None, cos: Tensor, sin: Tensor, heads: int, offset: bool, tap: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """(q, k, v, tap), each (T, H, C) and contiguous, from a projection qkv (T, 3 H C).

    q and k are normed a head, then rotated by cos and sin, (T, C), or (T, 2 C) where heads are
    paired: even ones take the first C columns, odd ones the rest. offset: the half of k that does
    not rotate is of the token before. extra (T, H, C) joins v. tap: for finish_heads, if wanted."""
    if not uses_kernel(qkv):
        return prepare_heads_reference(qkv, extra, cos, sin, heads, offset)
    q, k, v, *taps = prepare_heads_op(qkv, extra, cos, sin, heads, offset, tap)
    return q, k, v, taps[0] if taps else None


def prepare_heads_reference(
    qkv: Tensor, extra: Tensor | None, cos: Tensor, sin: Tensor, heads: int, offset: bool,
    tap: bool = False,
) -> tuple[Tensor, Tensor, Tensor, None]:  # fmt: skip
    """`prepare_heads` in plain torch; v may be a view of qkv, and there is no tap."""
    tokens = qkv.size(0)
    q, k, v = qkv.unflatten(1, (3, heads, -1)).unbind(1)
    shape = q.shape
    q, k = norm(q), norm(k)
    if table_is_paired(cos, shape[2]):  # adjacent heads side by side
        q, k = (t.reshape(tokens, heads // 2, 2 * shape[2]) for t in (q, k))
    q, k = (rotate(t, cos, sin).reshape(shape) for t in (q, k))
    if offset:
        turning, still = k.chunk(2, -1)
        k = torch.cat((turning, shift_in(still[:1], still[:-1])), -1)
    return q, k, v if extra is None else v + extra, None


def two_strides(x: Tensor | None) -> tuple[int, int]:
    """Strides by token and head of (H,) or (T, H) numbers."""
    if x is None:
        return 0, 0
    return (0, x.stride(0)) if x.dim() == 1 else (x.stride(0), x.stride(1))


@torch.library.custom_op("speedrun::finish_heads", mutates_args=())
def finish_heads_op(
    o: Tensor, v: Tensor, tap: Tensor | None, xsa: Tensor | None, gate: Tensor | None
) -> Tensor:
    """(T, H C) for the output projection: see finish_heads."""
    tokens, heads, C = o.shape
    o, v = o.contiguous(), v.contiguous()
    y = torch.empty(tokens, heads * C, dtype=o.dtype, device=o.device)
    finish_heads_kernel[head_grid(tokens, heads)](
        o, v, o if xsa is None else xsa, o if gate is None else gate, y,
        tokens, *two_strides(xsa), *two_strides(gate), H=heads, C=C, ROWS=HEAD_ROWS,
        XSA=xsa is not None, GATE=gate is not None, num_warps=4,
    )  # fmt: skip
    return y


@torch.library.custom_op("speedrun::finish_heads_grad", mutates_args=())
def finish_heads_grad(
    grad: Tensor, o: Tensor, v: Tensor, xsa: Tensor | None, gate: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of o and v (T, H, C), and of both factors, (T, H) fp32; empty what there is none
    of."""
    tokens, heads, C = o.shape
    o, v, grad = o.contiguous(), v.contiguous(), row_major(grad)

    def rows(x: Tensor | None) -> int:
        return 0 if x is None else tokens

    do = torch.empty(tokens, heads, C, dtype=o.dtype, device=o.device)
    dv = torch.empty(rows(xsa), heads, C, dtype=o.dtype, device=o.device)
    dxsa, dgate = (
        torch.empty(rows(x), heads, dtype=torch.float32, device=o.device) for x in (xsa, gate)
    )
    finish_heads_grad_kernel[head_grid(tokens, heads)](
        grad, o, v, o if xsa is None else xsa, o if gate is None else gate, do, dv, dxsa, dgate,
        tokens, grad.stride(0), *two_strides(xsa), *two_strides(gate), H=heads, C=C,
        ROWS=HEAD_ROWS, XSA=xsa is not None, GATE=gate is not None, num_warps=4,
    )  # fmt: skip
    return do, dv, dxsa, dgate


@finish_heads_op.register_fake
def _(o, v, tap, xsa, gate):
    return o.new_empty(o.size(0), o.size(1) * o.size(2))


@finish_heads_grad.register_fake
def _(grad, o, v, xsa, gate):
    tokens, heads, C = o.shape
    with_xsa, with_gate = (0 if x is None else tokens for x in (xsa, gate))
    small = [o.new_empty(n, heads, dtype=torch.float32) for n in (with_xsa, with_gate)]
    return o.new_empty(o.shape), o.new_empty(with_xsa, heads, C), *small


def finish_heads_save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    o, v, tap, xsa, gate = inputs
    ctx.tapped = tap is not None
    ctx.save_for_backward(o, v, xsa, gate)


def finish_heads_back(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    o, v, xsa, gate = ctx.saved_tensors
    do, dv, dxsa, dgate = finish_heads_grad(grad, o, v, xsa, gate)
    if xsa is None:
        return do, None, None, None, dgate.to(gate.dtype)
    dxsa = (dxsa if xsa.dim() == 2 else dxsa.sum(0)).to(xsa.dtype)
    to_v, to_tap = (None, dv) if ctx.tapped else (dv, None)
    return do, to_v, to_tap, dxsa, None if gate is None else dgate.to(gate.dtype)


finish_heads_op.register_autograd(finish_heads_back, setup_context=finish_heads_save)


def finish_heads(
    o: Tensor, v: Tensor, tap: Tensor | None, xsa: Tensor | None, gate: Tensor | None
) -> Tensor:
    """(T, H C): gate_h (o_h - xsa_h (<o_h, v_h> / <v_h, v_h>) v_h), o and v (T, H, C).

    xsa (H,) or (T, H), gate (T, H): None leaves that out. With the tap of prepare_heads the values'
    gradient goes there, not to v."""
    if xsa is None and gate is None:
        return o.flatten(1)
    if not uses_kernel(o):
        return finish_heads_reference(o, v, None, xsa, gate)
    return finish_heads_op(o, v if tap is None else v.detach(), tap, xsa, gate)


def finish_heads_reference(
    o: Tensor, v: Tensor, tap: Tensor | None, xsa: Tensor | None, gate: Tensor | None
) -> Tensor:
    """`finish_heads` in plain torch."""
    if xsa is not None:  # without the unit vector (#86)
        length = (v * v).sum(-1, keepdim=True).clamp(min=1e-8)
        o = o - xsa[..., None] * ((o * v).sum(-1, keepdim=True) / length) * v
    if gate is not None:
        o = o * gate[..., None]
    return o.flatten(1)


# -------------------------------------------------------------------------------------------------
# Composed heads (record #85). For query t and the keys s in [first(t), t], the last 112 tokens of
# its document:
#     P_h = softmax of scale <q_h(t), k_h(s)>,  A = sum_h w1_h P_h,  out_h = base_h + w2_h (A v_h).
# With g = d loss / d out, M_h(t, s) = <g_h(t), v_h(s)> and D = sum_h w2_h M_h:
#     d w2_h = sum_s A M_h,  d w1_h = sum_s D P_h =: R_h,  d S_h = w1_h P_h (D - R_h),
#     d q_h = scale dS_h k_h,  d k_h = scale dS_h^T q_h,  d v_h = (w2_h A)^T g_h.
# D and R_h matter only by their difference, so a centre, D's mean over s, is taken out of both
# before D is rounded to bf16: with a v of large mean the error of d q and d k is 3e-3, not 6e-3.
#
# A program takes a block of 64 tokens, its keys in three tiles of 64: `near`, the block itself, and
# the two blocks before it, `middle` and `far`: 192 keys for 112 wanted, k and v are read 2.7 times
# from L2 (blocks of 16 with the one tile of 128 they need: 8 times). Nothing atomic, so a run
# repeats to the bit. The kernels share no products, because Triton lays a product that feeds
# another one out over rows alone, and eight warps on 64 rows would do everything twice:
#     mix        A from q and k, all heads: (T, 192) bf16; in training also the LSE (H, T) fp32
#     out        base + w2 (A v)
#     mix_grad   D from g and v, all heads, as A; d w2; D's centre (T,)
#     dq         d q, R (H, T) and d w1 from q, k and D
#     dk, dv     by blocks of keys, against the queries of the block and of the two after it
# Each (T, 768) tensor named in a line is read or written once: 15 of 75.5 MB at T = 49152, with A
# and D 1.26 GB, 0.29 ms at 4.3 TB/s. 48 products a block, 116 GFLOP, 0.23 ms at 500 TFLOP/s.
# -------------------------------------------------------------------------------------------------

COMPOSE_BLOCK = 64  # tokens a program; windows up to 129 tokens

if triton is not None:

    @triton.jit
    def head_rows(ptr, rows, stride, mask, C: tl.constexpr):
        """Tile (rows, C) of one head; rows outside `mask` are 0."""
        c = tl.arange(0, C)
        return tl.load(ptr + rows[:, None] * stride + c[None, :], mask=mask[:, None], other=0.0)

    @triton.jit
    def first_seen(first_ptr, start, near, inside):
        """First key each query of a block sees, counted from the block's first token."""
        return tl.load(first_ptr + start + near, mask=inside, other=0) - start.to(tl.int32)

    @triton.jit
    def key_tile(
        ptr, near, stride, lowest, BACK: tl.constexpr, BLOCK: tl.constexpr, C: tl.constexpr
    ):
        """The keys or values of the tile BACK blocks before this one; not those nobody sees. The
        pointer moves, not the rows: the tiles share their offsets' registers."""
        return head_rows(
            ptr - BACK * BLOCK * stride, near, stride, near >= lowest + BACK * BLOCK, C
        )

    @triton.jit
    def seen_tile(first, near, BACK: tl.constexpr, BLOCK: tl.constexpr):
        """(queries, keys) of the tile BACK blocks before: whether the query sees the key."""
        seen = near[None, :] >= (first + BACK * BLOCK)[:, None]
        if BACK == 0:
            seen = seen & (near[None, :] <= near[:, None])
        return seen

    @triton.jit
    def seen_scores(q, k, factor, first, near, BACK: tl.constexpr, BLOCK: tl.constexpr):
        """factor q k^T, -inf where query t does not see the key."""
        return tl.where(seen_tile(first, near, BACK, BLOCK), tl.dot(q, k.T) * factor, float("-inf"))

    @triton.jit
    def band_rows(ptr, start, near, BACK: tl.constexpr, BLOCK: tl.constexpr):
        """Pointers to one tile of A or D (T, 3 BLOCK): row t begins 2 BLOCK before t's block."""
        tile = ptr + start * (3 * BLOCK) + (2 - BACK) * BLOCK
        return tile + near[:, None] * (3 * BLOCK) + near[None, :]

    @triton.jit
    def compose_mix_kernel(
        q_ptr, k_ptr, w1_ptr, first_ptr, mix_ptr, lse_ptr,
        T, q_t, q_h, k_t, k_h, w1_t, w1_h, scale,
        H: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
        KEEP: tl.constexpr, STAGES: tl.constexpr,
    ):  # fmt: skip
        """A = `mix` (T, 3 BLOCK) of one block of queries; with KEEP also the LSE."""
        start = tl.program_id(0).to(tl.int64) * BLOCK
        left = (T - start).to(tl.int32)  # tokens from this block to the end
        near = tl.arange(0, BLOCK)
        inside = near < left
        lowest = tl.load(first_ptr + start) - start.to(tl.int32)
        q_ptr += start * q_t
        k_ptr += start * k_t
        w1_ptr += start * w1_t
        factor = scale * 1.4426950408889634
        a_far = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)
        a_middle = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)
        a_near = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)
        for h in tl.range(0, H, num_stages=STAGES):
            q = head_rows(q_ptr + h * q_h, near, q_t, inside, C)
            k_far = key_tile(k_ptr + h * k_h, near, k_t, lowest, 2, BLOCK, C)
            k_middle = key_tile(k_ptr + h * k_h, near, k_t, lowest, 1, BLOCK, C)
            k_near = head_rows(k_ptr + h * k_h, near, k_t, inside, C)
            first = first_seen(first_ptr, start, near, inside)
            s_far = seen_scores(q, k_far, factor, first, near, 2, BLOCK)
            s_middle = seen_scores(q, k_middle, factor, first, near, 1, BLOCK)
            s_near = seen_scores(q, k_near, factor, first, near, 0, BLOCK)
            top = tl.max(tl.maximum(tl.maximum(s_far, s_middle), s_near), 1)
            s_far = tl.exp2(s_far - top[:, None])
            s_middle = tl.exp2(s_middle - top[:, None])
            s_near = tl.exp2(s_near - top[:, None])
            total = tl.sum(s_far + s_middle + s_near, 1)
            w1 = tl.load(w1_ptr + near * w1_t + h * w1_h, mask=inside, other=0.0).to(tl.float32)
            weight = w1 / total
            a_far += weight[:, None] * s_far
            a_middle += weight[:, None] * s_middle
            a_near += weight[:, None] * s_near
            if KEEP:
                tl.store(lse_ptr + h * T + start + near, top + tl.log2(total), mask=inside)
        kept = mix_ptr.dtype.element_ty
        rows = inside[:, None]
        tl.store(band_rows(mix_ptr, start, near, 2, BLOCK), a_far.to(kept), mask=rows)
        tl.store(band_rows(mix_ptr, start, near, 1, BLOCK), a_middle.to(kept), mask=rows)
        tl.store(band_rows(mix_ptr, start, near, 0, BLOCK), a_near.to(kept), mask=rows)

    @triton.jit
    def compose_out_kernel(
        base_ptr, v_ptr, w2_ptr, first_ptr, mix_ptr, out_ptr,
        T, base_t, base_h, v_t, v_h, w2_t, w2_h,
        H: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
        HEADS: tl.constexpr, STAGES: tl.constexpr,
    ):  # fmt: skip
        """base + w2 (A v) of one block of queries and HEADS heads."""
        start = tl.program_id(1).to(tl.int64) * BLOCK
        left = (T - start).to(tl.int32)
        near = tl.arange(0, BLOCK)
        c = tl.arange(0, C)
        inside = near < left
        rows = inside[:, None]
        lowest = tl.load(first_ptr + start) - start.to(tl.int32)
        base_ptr += start * base_t
        v_ptr += start * v_t
        w2_ptr += start * w2_t
        a_far = tl.load(band_rows(mix_ptr, start, near, 2, BLOCK), mask=rows, other=0.0)
        a_middle = tl.load(band_rows(mix_ptr, start, near, 1, BLOCK), mask=rows, other=0.0)
        a_near = tl.load(band_rows(mix_ptr, start, near, 0, BLOCK), mask=rows, other=0.0)
        for i in tl.range(0, HEADS, num_stages=STAGES):
            h = tl.program_id(0) * HEADS + i
            v_far = key_tile(v_ptr + h * v_h, near, v_t, lowest, 2, BLOCK, C)
            v_middle = key_tile(v_ptr + h * v_h, near, v_t, lowest, 1, BLOCK, C)
            v_near = head_rows(v_ptr + h * v_h, near, v_t, inside, C)
            mixed = tl.dot(a_far, v_far)
            mixed = tl.dot(a_middle, v_middle, mixed)
            mixed = tl.dot(a_near, v_near, mixed)
            base = head_rows(base_ptr + h * base_h, near, base_t, inside, C).to(tl.float32)
            w2 = tl.load(w2_ptr + near * w2_t + h * w2_h, mask=inside, other=0.0).to(tl.float32)
            where = (start + near)[:, None] * (H * C) + h * C + c[None, :]
            out = (base + w2[:, None] * mixed).to(out_ptr.dtype.element_ty)
            tl.store(out_ptr + where, out, mask=rows)

    @triton.jit
    def compose_mix_grad_kernel(
        grad_ptr, v_ptr, w2_ptr, first_ptr, mix_ptr, dmix_ptr, centre_ptr, dw2_ptr,
        T, grad_t, grad_h, v_t, v_h, w2_t, w2_h,
        H: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
    ):  # fmt: skip
        """D = `dmix` (T, 3 BLOCK) of one block of queries less its `centre` (T,); d w2."""
        start = tl.program_id(0).to(tl.int64) * BLOCK
        left = (T - start).to(tl.int32)
        near = tl.arange(0, BLOCK)
        inside = near < left
        rows = inside[:, None]
        lowest = tl.load(first_ptr + start) - start.to(tl.int32)
        grad_ptr += start * grad_t
        v_ptr += start * v_t
        w2_ptr += start * w2_t
        a_far = tl.load(band_rows(mix_ptr, start, near, 2, BLOCK), mask=rows, other=0.0)
        a_middle = tl.load(band_rows(mix_ptr, start, near, 1, BLOCK), mask=rows, other=0.0)
        a_near = tl.load(band_rows(mix_ptr, start, near, 0, BLOCK), mask=rows, other=0.0)
        d_far = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)
        d_middle = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)
        d_near = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)
        for h in tl.range(0, H, num_stages=STAGES):
            grad = head_rows(grad_ptr + h * grad_h, near, grad_t, inside, C)
            v_far = key_tile(v_ptr + h * v_h, near, v_t, lowest, 2, BLOCK, C)
            v_middle = key_tile(v_ptr + h * v_h, near, v_t, lowest, 1, BLOCK, C)
            v_near = head_rows(v_ptr + h * v_h, near, v_t, inside, C)
            w2 = tl.load(w2_ptr + near * w2_t + h * w2_h, mask=inside, other=0.0).to(tl.float32)
            m = tl.dot(grad, v_far.T)
            dw2 = a_far.to(tl.float32) * m
            d_far += w2[:, None] * m
            m = tl.dot(grad, v_middle.T)
            dw2 += a_middle.to(tl.float32) * m
            d_middle += w2[:, None] * m
            m = tl.dot(grad, v_near.T)
            dw2 += a_near.to(tl.float32) * m
            d_near += w2[:, None] * m
            tl.store(dw2_ptr + (start + near) * H + h, tl.sum(dw2, 1), mask=inside)
        first = first_seen(first_ptr, start, near, inside)
        far_seen = seen_tile(first, near, 2, BLOCK)
        middle_seen = seen_tile(first, near, 1, BLOCK)
        near_seen = seen_tile(first, near, 0, BLOCK)
        d_far = tl.where(far_seen, d_far, 0.0)
        d_middle = tl.where(middle_seen, d_middle, 0.0)
        d_near = tl.where(near_seen, d_near, 0.0)
        centre = tl.sum(d_far + d_middle + d_near, 1) / (near - first + 1).to(tl.float32)
        tl.store(centre_ptr + start + near, centre, mask=inside)
        kept = dmix_ptr.dtype.element_ty
        d_far = tl.where(far_seen, d_far - centre[:, None], 0.0).to(kept)
        d_middle = tl.where(middle_seen, d_middle - centre[:, None], 0.0).to(kept)
        d_near = tl.where(near_seen, d_near - centre[:, None], 0.0).to(kept)
        tl.store(band_rows(dmix_ptr, start, near, 2, BLOCK), d_far, mask=rows)
        tl.store(band_rows(dmix_ptr, start, near, 1, BLOCK), d_middle, mask=rows)
        tl.store(band_rows(dmix_ptr, start, near, 0, BLOCK), d_near, mask=rows)

    @triton.jit
    def compose_dq_kernel(
        q_ptr, k_ptr, w1_ptr, first_ptr, lse_ptr, dmix_ptr, centre_ptr,
        dq_ptr, dw1_ptr, centred_ptr,
        T, q_t, q_h, k_t, k_h, w1_t, w1_h, scale,
        H: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
        HEADS: tl.constexpr, STAGES: tl.constexpr,
    ):  # fmt: skip
        """d q and d w1 of one block of queries and HEADS heads; R = `centred` (H, T), less D's
        centre as D is."""
        start = tl.program_id(1).to(tl.int64) * BLOCK
        left = (T - start).to(tl.int32)
        near = tl.arange(0, BLOCK)
        c = tl.arange(0, C)
        inside = near < left
        rows = inside[:, None]
        lowest = tl.load(first_ptr + start) - start.to(tl.int32)
        q_ptr += start * q_t
        k_ptr += start * k_t
        w1_ptr += start * w1_t
        factor = scale * 1.4426950408889634
        for i in tl.range(0, HEADS, num_stages=STAGES):
            h = tl.program_id(0) * HEADS + i
            q = head_rows(q_ptr + h * q_h, near, q_t, inside, C)
            k_far = key_tile(k_ptr + h * k_h, near, k_t, lowest, 2, BLOCK, C)
            k_middle = key_tile(k_ptr + h * k_h, near, k_t, lowest, 1, BLOCK, C)
            k_near = head_rows(k_ptr + h * k_h, near, k_t, inside, C)
            w1 = tl.load(w1_ptr + near * w1_t + h * w1_h, mask=inside, other=0.0).to(tl.float32)
            lse = tl.load(lse_ptr + h * T + start + near, mask=inside, other=0.0)[:, None]
            first = first_seen(first_ptr, start, near, inside)
            # exp2 after the mask: a key out of sight may have a score far above the LSE.
            p_far = tl.exp2(seen_scores(q, k_far, factor, first, near, 2, BLOCK) - lse)
            p_middle = tl.exp2(seen_scores(q, k_middle, factor, first, near, 1, BLOCK) - lse)
            p_near = tl.exp2(seen_scores(q, k_near, factor, first, near, 0, BLOCK) - lse)
            d_far = band_rows(dmix_ptr, start, near, 2, BLOCK)
            d_middle = band_rows(dmix_ptr, start, near, 1, BLOCK)
            d_near = band_rows(dmix_ptr, start, near, 0, BLOCK)
            r = p_far * tl.load(d_far, mask=rows, other=0.0).to(tl.float32)
            r += p_middle * tl.load(d_middle, mask=rows, other=0.0).to(tl.float32)
            r += p_near * tl.load(d_near, mask=rows, other=0.0).to(tl.float32)
            r = tl.sum(r, 1)
            tl.store(centred_ptr + h * T + start + near, r, mask=inside)
            centre = tl.load(centre_ptr + start + near, mask=inside, other=0.0)
            tl.store(dw1_ptr + (start + near) * H + h, r + centre, mask=inside)
            # D is loaded again rather than kept in 48 registers.
            p_far *= tl.load(d_far, mask=rows, other=0.0).to(tl.float32) - r[:, None]
            dq = tl.dot(p_far.to(k_far.dtype), k_far)
            p_middle *= tl.load(d_middle, mask=rows, other=0.0).to(tl.float32) - r[:, None]
            dq = tl.dot(p_middle.to(k_far.dtype), k_middle, dq)
            p_near *= tl.load(d_near, mask=rows, other=0.0).to(tl.float32) - r[:, None]
            dq = tl.dot(p_near.to(k_near.dtype), k_near, dq) * (w1 * scale)[:, None]
            where = (start + near)[:, None] * (H * C) + h * C + c[None, :]
            tl.store(dq_ptr + where, dq.to(dq_ptr.dtype.element_ty), mask=rows)

    @triton.jit
    def compose_dv_tile(
        acc, grad_ptr, grad_t, w2_ptr, w2_t, mix_ptr, start, near, reach,
        BACK: tl.constexpr, BLOCK: tl.constexpr, C: tl.constexpr,
    ):  # fmt: skip
        """acc + (w2 A)^T g over one tile of queries, the keys being BACK blocks before them."""
        inside = near < reach - BACK * BLOCK
        mix = band_rows(mix_ptr, start + BACK * BLOCK, near, BACK, BLOCK)
        a = tl.load(mix, mask=inside[:, None], other=0.0).to(tl.float32)
        w2 = tl.load(w2_ptr + (near + BACK * BLOCK) * w2_t, mask=inside, other=0.0).to(tl.float32)
        grad = head_rows(grad_ptr + BACK * BLOCK * grad_t, near, grad_t, inside, C)
        return tl.dot((a * w2[:, None]).to(grad.dtype).T, grad, acc)

    @triton.jit
    def compose_dv_kernel(
        grad_ptr, w2_ptr, mix_ptr, dv_ptr, T, window, grad_t, grad_h, w2_t, w2_h,
        H: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
        HEADS: tl.constexpr, STAGES: tl.constexpr,
    ):  # fmt: skip
        """d v of one block of keys and HEADS heads."""
        start = tl.program_id(1).to(tl.int64) * BLOCK
        near = tl.arange(0, BLOCK)
        c = tl.arange(0, C)
        left = (T - start).to(tl.int32)
        reach = tl.minimum(left, BLOCK + window - 1)  # queries that may see a key of the block
        grad_ptr += start * grad_t
        w2_ptr += start * w2_t
        for i in tl.range(0, HEADS, num_stages=STAGES):
            h = tl.program_id(0) * HEADS + i
            grad, w2 = grad_ptr + h * grad_h, w2_ptr + h * w2_h
            dv = tl.zeros((BLOCK, C), dtype=tl.float32)
            for back in tl.static_range(3):
                dv = compose_dv_tile(
                    dv, grad, grad_t, w2, w2_t, mix_ptr, start, near, reach, back, BLOCK, C
                )
            where = (start + near)[:, None] * (H * C) + h * C + c[None, :]
            tl.store(dv_ptr + where, dv.to(dv_ptr.dtype.element_ty), mask=(near < left)[:, None])

    @triton.jit
    def compose_dk_tile(
        acc, k, q_ptr, q_t, w1_ptr, w1_t, first_ptr, lse_ptr, centred_ptr, dmix_ptr,
        start, near, reach, factor, BACK: tl.constexpr, BLOCK: tl.constexpr, C: tl.constexpr,
    ):  # fmt: skip
        """acc + dS^T q over one tile of queries, the keys being BACK blocks before them; P is
        computed again from the LSE."""
        inside = near < reach - BACK * BLOCK
        begin = start + BACK * BLOCK
        q = head_rows(q_ptr + BACK * BLOCK * q_t, near, q_t, inside, C)
        first = first_seen(first_ptr, begin, near, inside)
        lse = tl.load(lse_ptr + begin + near, mask=inside, other=0.0)
        r = tl.load(centred_ptr + begin + near, mask=inside, other=0.0)
        w1 = tl.load(w1_ptr + (near + BACK * BLOCK) * w1_t, mask=inside, other=0.0).to(tl.float32)
        d = band_rows(dmix_ptr, begin, near, BACK, BLOCK)
        d = tl.load(d, mask=inside[:, None], other=0.0).to(tl.float32)
        p = tl.exp2(seen_scores(q, k, factor, first, near, BACK, BLOCK) - lse[:, None])
        ds = p * (w1[:, None] * (d - r[:, None]))
        return tl.dot(ds.to(q.dtype).T, q, acc)

    @triton.jit
    def compose_dk_kernel(
        q_ptr, k_ptr, w1_ptr, first_ptr, lse_ptr, dmix_ptr, centred_ptr, dk_ptr,
        T, window, q_t, q_h, k_t, k_h, w1_t, w1_h, scale,
        H: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
        HEADS: tl.constexpr, STAGES: tl.constexpr,
    ):  # fmt: skip
        """d k of one block of keys and HEADS heads."""
        start = tl.program_id(1).to(tl.int64) * BLOCK
        near = tl.arange(0, BLOCK)
        c = tl.arange(0, C)
        left = (T - start).to(tl.int32)
        reach = tl.minimum(left, BLOCK + window - 1)
        q_ptr += start * q_t
        k_ptr += start * k_t
        w1_ptr += start * w1_t
        factor = scale * 1.4426950408889634
        for i in tl.range(0, HEADS, num_stages=STAGES):
            h = tl.program_id(0) * HEADS + i
            q, w1 = q_ptr + h * q_h, w1_ptr + h * w1_h
            lse, centred = lse_ptr + h * T, centred_ptr + h * T
            k = head_rows(k_ptr + h * k_h, near, k_t, near < left, C)
            dk = tl.zeros((BLOCK, C), dtype=tl.float32)
            for back in tl.static_range(3):
                dk = compose_dk_tile(
                    dk, k, q, q_t, w1, w1_t, first_ptr, lse, centred, dmix_ptr,
                    start, near, reach, factor, back, BLOCK, C,
                )  # fmt: skip
            where = (start + near)[:, None] * (H * C) + h * C + c[None, :]
            dk = (dk * scale).to(dk_ptr.dtype.element_ty)
            tl.store(dk_ptr + where, dk, mask=(near < left)[:, None])


# Heads a program, warps, stages of the loop over heads, registers a thread at most (None: 255).
# None of these spills on sm_90; of 4 warps, three programs of up to 168 registers share a
# multiprocessor; dq keeps three tiles of P, takes 229 and runs two.
COMPOSE_LAUNCH = {
    "mix": (6, 16, 2, None), "out": (1, 4, 1, None), "mix_grad": (6, 16, 2, None),
    "dq": (1, 4, 1, None), "dk": (1, 4, 1, 168), "dv": (1, 4, 1, 168),
}  # fmt: skip


def launch_compose(name: str, kernel: Any, q: Tensor, *args: Any, **more: Any) -> None:
    """Start the kernel that COMPOSE_LAUNCH calls `name` on the tokens and heads of q (T, H, C)."""
    tokens, heads, width = q.shape
    together, warps, stages, registers = COMPOSE_LAUNCH[name]
    blocks = triton.cdiv(tokens, COMPOSE_BLOCK)
    if name in ("mix", "mix_grad"):
        grid = (blocks,)
    else:
        together = math.gcd(together, heads)
        grid, more = (heads // together, blocks), {"HEADS": together, **more}
    if registers is not None:
        more["maxnreg"] = registers
    kernel[grid](
        *args, H=heads, C=width, BLOCK=COMPOSE_BLOCK, STAGES=stages, num_warps=warps, **more
    )


def row_major(x: Tensor) -> Tensor:
    """x with its last axis contiguous; the others may be strided (views of a projection)."""
    return x if x.stride(-1) == 1 else x.contiguous()


@torch.library.custom_op("speedrun::compose_forward", mutates_args=())
def compose_forward(
    base: Tensor, q: Tensor, k: Tensor, v: Tensor, w1: Tensor, w2: Tensor, first: Tensor,
    scale: Tensor, window: int, keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(out (T, H, C), A (T, 192) bf16, base-2 LSE (H, T) fp32); the last two are empty without
    `keep`. base, q, k, v (T, H, C) bf16, of any strides; w1, w2 (T, H), w1 after its norm; first
    (T,) int32: the first key each query sees, less than `window` tokens before it; scale: one
    number on the CPU."""
    base, q, k, v = (row_major(t) for t in (base, q, k, v))
    tokens, heads, _ = q.shape
    out = torch.empty(q.shape, dtype=base.dtype, device=q.device)
    mix = torch.empty(tokens, 3 * COMPOSE_BLOCK, dtype=q.dtype, device=q.device)
    lse = torch.empty(heads, tokens if keep else 0, dtype=torch.float32, device=q.device)
    launch_compose(
        "mix", compose_mix_kernel, q, q, k, w1, first, mix, lse,
        tokens, *q.stride()[:2], *k.stride()[:2], *w1.stride(), float(scale), KEEP=keep,
    )  # fmt: skip
    launch_compose(
        "out", compose_out_kernel, q, base, v, w2, first, mix, out,
        tokens, *base.stride()[:2], *v.stride()[:2], *w2.stride(),
    )  # fmt: skip
    if not keep:
        mix = torch.empty(0, 3 * COMPOSE_BLOCK, dtype=q.dtype, device=q.device)
    return out, mix, lse


@compose_forward.register_fake
def _(base, q, k, v, w1, w2, first, scale, window, keep):
    tokens, heads, _ = q.shape
    rows = tokens if keep else 0
    return (
        base.new_empty(q.shape),
        q.new_empty(rows, 3 * COMPOSE_BLOCK),
        q.new_empty(heads, rows, dtype=torch.float32),
    )


@torch.library.custom_op("speedrun::compose_backward", mutates_args=())
def compose_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, w1: Tensor, w2: Tensor, first: Tensor,
    mix: Tensor, lse: Tensor, scale: Tensor, window: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k, v (T, H, C) in their dtype and of w1, w2 (T, H) in fp32."""
    factor = float(scale)
    grad, q, k, v = (row_major(t) for t in (grad, q, k, v))
    tokens = q.size(0)
    dq, dk, dv = (torch.empty(q.shape, dtype=q.dtype, device=q.device) for _ in range(3))
    dw1, dw2 = (torch.empty(w1.shape, dtype=torch.float32, device=q.device) for _ in range(2))
    dmix, centred = torch.empty_like(mix), torch.empty_like(lse)
    centre = torch.empty(tokens, dtype=torch.float32, device=q.device)
    launch_compose(
        "mix_grad", compose_mix_grad_kernel, q, grad, v, w2, first, mix, dmix, centre, dw2,
        tokens, *grad.stride()[:2], *v.stride()[:2], *w2.stride(),
    )  # fmt: skip
    launch_compose(
        "dq", compose_dq_kernel, q, q, k, w1, first, lse, dmix, centre, dq, dw1, centred,
        tokens, *q.stride()[:2], *k.stride()[:2], *w1.stride(), factor,
    )  # fmt: skip
    launch_compose(
        "dk", compose_dk_kernel, q, q, k, w1, first, lse, dmix, centred, dk,
        tokens, window, *q.stride()[:2], *k.stride()[:2], *w1.stride(), factor,
    )  # fmt: skip
    launch_compose(
        "dv", compose_dv_kernel, q, grad, w2, mix, dv,
        tokens, window, *grad.stride()[:2], *w2.stride(),
    )  # fmt: skip
    return dq, dk, dv, dw1, dw2


@compose_backward.register_fake
def _(grad, q, k, v, w1, w2, first, mix, lse, scale, window):
    small = q.new_empty(w1.shape, dtype=torch.float32)
    return (*(q.new_empty(q.shape) for _ in range(3)), small, torch.empty_like(small))


def compose_save(ctx, inputs, output):
    _, *tensors, scale, ctx.window, _ = inputs
    ctx.save_for_backward(*tensors, *output[1:], scale)


def compose_grad(ctx, grad, *_):
    q, k, v, w1, w2, first, mix, lse, scale = ctx.saved_tensors
    dq, dk, dv, dw1, dw2 = compose_backward(
        grad, q, k, v, w1, w2, first, mix, lse, scale, ctx.window
    )
    return grad, dq, dk, dv, dw1.to(w1.dtype), dw2.to(w2.dtype), None, None, None, None


compose_forward.register_autograd(compose_grad, setup_context=compose_save)


def first_keys(cu_seqlens: Tensor, total: int, window: int) -> Tensor:
    """(T,) int32: the first of the last `window` tokens of each token's document. cu_seqlens
    (n + 1,) int32 begins with 0; entries equal to T at its end are padding."""
    position = torch.arange(total, device=cu_seqlens.device, dtype=torch.int32)
    document = torch.searchsorted(cu_seqlens, position, right=True, out_int32=True) - 1
    return torch.maximum(cu_seqlens[document], position - (window - 1)).to(torch.int32)


def compose_heads_reference(
    base: Tensor, q: Tensor, k: Tensor, v: Tensor, w1: Tensor, w2: Tensor, first: Tensor,
    scale: Number,
) -> Tensor:  # fmt: skip
    """`compose_heads` in the precision of its inputs (softmax in fp32), w1 after its norm: queries
    in blocks of 128, each against its own and the preceding block of keys."""
    total, block = q.size(0), 2 * COMPOSE_BLOCK
    padding = -total % block

    def blocks(t: Tensor) -> Tensor:
        if padding:
            t = F.pad(t, (0, 0, 0, 0, 0, padding))
        return t.unflatten(0, (-1, block))

    def with_previous(t: Tensor) -> Tensor:
        t = blocks(t)
        return torch.cat((F.pad(t[:-1], (0, 0, 0, 0, 0, 0, 1, 0)), t), dim=1)

    position = torch.arange(total + padding, device=q.device, dtype=torch.int32).view(-1, block, 1)
    key = position[:, :1] + torch.arange(-block, block, device=q.device, dtype=torch.int32)
    seen = (key >= F.pad(first, (0, padding)).view(-1, block, 1)) & (key <= position)
    scores = torch.einsum("bqhc,bkhc->bhqk", blocks(q), with_previous(k)).float() * scale
    P = scores.masked_fill(~seen[:, None], float("-inf")).softmax(-1)
    mix = blocks(w1[..., None])[..., 0].transpose(1, 2)[..., None]  # (blocks, H, block, 1)
    A = (mix * P).sum(1).to(v.dtype)
    mixed = torch.einsum("bqk,bkhc->bqhc", A, with_previous(v)).flatten(0, 1)[:total]
    return base + w2[..., None] * mixed


def compose_heads(
    base: Tensor, q: Tensor, k: Tensor, v: Tensor, w1: Tensor, w2: Tensor, cu_seqlens: Tensor,
    scale: Number, window: int,
) -> Tensor:  # fmt: skip
    """Dynamically composed attention (#85): a rank-one mix of attention weights across heads.

    base, q, k, v (T, H, C); w1, w2 (T, H). P_h(t, .) is head h's softmax over the last `window`
    tokens (at most 129) of t's document, A = sum_h rms(w1)_h P_h, and head h gets
    base_h + w2_h sum_s A v_h(s)."""
    if window > 2 * COMPOSE_BLOCK + 1:
        raise ValueError(f"composed heads look back at most {2 * COMPOSE_BLOCK + 1}, not {window}")
    w1 = F.rms_norm(w1.float(), (w1.size(-1),), eps=1e-6).to(q.dtype)
    first = first_keys(cu_seqlens, q.size(0), window)
    width = q.size(-1)
    if not uses_kernel(q) or q.dtype != torch.bfloat16 or width not in (16, 32, 64, 128):
        return compose_heads_reference(base, q, k, v, w1, w2, first, scale)
    if not isinstance(scale, Tensor):
        scale = torch.tensor(scale, dtype=torch.float64)
    keep = torch.is_grad_enabled()
    return compose_forward(base, q, k, v, w1, w2, first, scale, window, keep)[0]


# END KERNELS


# ============================================================================================
# Head in evaluation
# ============================================================================================
def eval_loss(x: Tensor, lm_head: Tensor, targets: Tensor, chunk: int = 65_536) -> Tensor:
    """Nats of each next token, (T,) fp32. In chunks: all logits of a batch would be 26 GB.

    The soft cap is in fp32 (compiled, that costs nothing): in bf16 a logit of 16 to 23 is rounded
    to 0.125, which alone adds some 5e-4 nats to the loss.
    """
    out = []
    for start in range(0, x.size(0), chunk):
        z = softcap_reference((x[start : start + chunk] @ lm_head).float())
        out.append(F.cross_entropy(z, targets[start : start + chunk], reduction="none"))
    return torch.cat(out)


# ============================================================================================
# Model
# ============================================================================================
FP8_MAX = 448.0  # largest e4m3
DOWN_HEADROOM, POST_HEADROOM = 1.12, 1.80  # growth a delayed FP8 scale leaves room for (#89)
DELAYED_FROM = 16  # steps after which the down matrices' scales are delayed
BANK_MULTIPLE = 8  # banks are padded with unused zero matrices so that 8 ranks share them evenly


def normed_factor(width: int) -> float:
    """What a normed row of so many channels is multiplied by before it becomes e4m3: the largest
    power of two that keeps it in range, as no channel is above sqrt(width)."""
    return 2.0 ** math.floor(math.log2(FP8_MAX / 1.01 / math.sqrt(width)))


def sign_rows(tokens: Tensor, rows: int) -> Tensor:
    """Row of the bigram sign table for each position: (x_{t-1} ^ x_t) mod rows, 0 at first."""
    return F.pad((tokens[:-1] ^ tokens[1:]) % rows, (1, 0))


def add_bigram(x: Tensor, coefficient: Tensor, bigram: Tensor) -> Tensor:
    """x with coefficient * bigram added to its first channels."""
    width = bigram.size(-1)
    if width == x.size(-1):
        return x + coefficient * bigram
    return torch.cat((x[:, :width] + coefficient * bigram, x[:, width:]), dim=-1)


def uniform(shape: tuple[int, ...], std: float, device: torch.device) -> Tensor:
    bound = math.sqrt(3) * std
    return torch.empty(shape, device=device).uniform_(-bound, bound)


# MUDD coefficients of layer 10 (block 0) and of the final mix (block 1): effective initial values.
MUDD_INIT = (
    [0.0] * 6 + [2.0, 2.0, math.sqrt(1.1), 1.0, 0.0, 0.05, math.sqrt(1.1), 1.0],
    [0.0, -0.5, 0.0, 0.0, 0.0] + [0.0] * 9,
)
MUDD_SCALE = 0.1


# Layers whose x0 and bigram coefficients come from the first and from the second gate block (#85).
FIRST_GATED, SECOND_GATED = (0, 1, 2, 3), (4, 5, 7, 8, 9)


def gate_init(heads: int) -> tuple[list[float], list[float]]:
    """Effective initial values of the two gate blocks, 26 and 41 columns with six heads.

    First, from x0: XSA of layers 1 and 3, output gate of layer 3, pairs (x0, bigram) of layers
    0-3. Second, from the output of layer 3: XSA of layers 4 and 7, output gate of layer 10, pairs
    of layers 4, 5, 7, 8, 9, the skip, and both sides of layer 10's head composition.
    """
    pair = [0.0, 0.05]
    first = [0.0] * (2 * heads) + [0.25] * heads + pair * len(FIRST_GATED)
    second = [0.0] * (2 * heads) + [0.25] * heads + pair * len(SECOND_GATED)
    return first, second + [0.5] + [1.0] * heads + [0.0] * heads


Taps = dict[str, list[Tensor]]  # by table: one for each of those that lie one below the other


class GPT(nn.Module):
    """Eleven layers, held as a few banks of matrices and read flat in one forward.

    A bank is one leaf: autograd then gives one contiguous gradient per bank in the very layout
    the reduce-scatter wants, and the all-gather writes straight into the parameter.
    """

    def __init__(self, cfg: Config, device: torch.device, world: int = 1) -> None:
        super().__init__()
        self.cfg = cfg
        self.device = device
        dt = cfg.torch_dtype
        D, V, H, C = cfg.model_dim, cfg.vocab_size, cfg.num_heads, cfg.head_dim
        L, A = cfg.num_layers, len(cfg.attention_layers)
        std = 0.5 * D**-0.5

        def parameter(t: Tensor, dtype: torch.dtype = dt) -> nn.Parameter:
            return nn.Parameter(t.to(device=device, dtype=dtype))

        def small(t: Tensor) -> nn.Parameter:
            return parameter(t, torch.float32)

        # embeddings and head; the head is stored (in, out), which is its gradient's own layout
        self.lm_head = parameter(torch.empty(D, V, dtype=dt, device=device).normal_(0, 0.005))
        self.embed = parameter(self.lm_head.detach().T.contiguous())
        if cfg.value_embeds:
            tables = len(cfg.value_layers)
            self.value_embeds = parameter(
                torch.empty(tables * V, D, dtype=dt, device=device).normal_(0, 0.01)
            )
        if cfg.bigram:
            self.bigram_embed = parameter(
                torch.zeros(cfg.bigram_rows, cfg.bigram_dim, dtype=dt, device=device)
            )
        if cfg.bigram and cfg.bigram_sign:
            negative = torch.randn(cfg.sign_rows, cfg.bigram_dim, device=device) < 0
            signs = torch.where(negative, -1.0, 1.0)
            self.register_buffer("bigram_sign_table", signs.to(dt))

        # matrices: per attention layer H groups of two heads (queries, then keys), V and O; MLPs
        qk = torch.zeros(round_up(A * H, BANK_MULTIPLE), 2 * C, D, device=device)
        qk[: A * H] = uniform((A * H, 2 * C, D), std, device)
        vo = torch.zeros(round_up(2 * A, BANK_MULTIPLE), D, D, device=device)
        vo[: 2 * A] = uniform((2 * A, D, D), std, device)
        mlp = torch.zeros(round_up(L, BANK_MULTIPLE // 2), 2, cfg.mlp_dim, D, device=device)
        mlp[:, 0] = uniform((mlp.size(0), cfg.mlp_dim, D), std, device)
        self.qk_bank, self.vo_bank, self.mlp_bank = parameter(qk), parameter(vo), parameter(mlp)

        # gates
        G = cfg.gate_channels
        static = not cfg.gated_mudd
        if cfg.gates and static:
            self.attn_gate_bank = parameter(torch.zeros(A, H, G))
        if cfg.gates and cfg.value_embeds:
            self.ve_gate_bank = parameter(torch.zeros(len(cfg.value_layers), H, G))
        if cfg.smear:
            self.smear_gate = parameter(torch.zeros(1, G))
        if cfg.gates and cfg.skip and static:
            self.skip_gate = parameter(torch.zeros(1, G))

        # scalars: two SA lambdas a layer, then smear, skip, and (without MUDD) backout
        values = [0.5, 1.0] * L + [0.0, -1.5] + ([] if cfg.mudd else [0.5])
        values += [1.0] * (-len(values) % world)
        self.scalars = small(torch.tensor(values))
        self.resid_lambdas = small(torch.full((L, 2), math.sqrt(1.1)))
        self.post_lambdas = small(torch.ones(L, 2))
        if static:
            self.x0_lambdas = small(torch.zeros(L))
        if cfg.bigram and static:
            self.bigram_lambdas = small(torch.full((L,), 0.05))
        if cfg.xsa and static:
            self.xsa_alphas = small(torch.zeros(L, H))
        if cfg.mudd:
            bound = D**-0.5
            self.mudd_w1 = parameter(torch.empty(2, cfg.mudd_dim, D).uniform_(-bound, bound))
            self.mudd_w2 = parameter(torch.zeros(2, 14, cfg.mudd_dim))
            self.mudd_b2 = parameter(torch.tensor(MUDD_INIT) / MUDD_SCALE)
        if cfg.gated_mudd:
            first, second = gate_init(H)
            bound, most = D**-0.5, max(len(first), len(second))
            init = torch.tensor([g + [0.0] * (most - len(g)) for g in (first, second)])
            self.mudd_gate_w1 = parameter(torch.empty(2, cfg.mudd_dim, D).uniform_(-bound, bound))
            self.mudd_gate_w2 = parameter(torch.zeros(2, most, cfg.mudd_dim))
            self.mudd_gate_b2 = parameter(init / MUDD_SCALE)
            self.gate_scale = small(torch.tensor(MUDD_SCALE))

        # what the head's gradient is multiplied by; a tensor, as the fused loss makes it in advance
        one = torch.ones(1, device=device)
        self.register_buffer("head_grad_scale", one, persistent=False)
        self.grad_scale = 1.0

        # the token that begins each token, -1 until set_prefixes is called
        if cfg.prefix:
            none = torch.full((V,), -1, dtype=torch.int64, device=device)
            self.register_buffer("prefix_of", none, persistent=False)

        # FP8 copies of the up matrices, written by quantize_mlp after every update
        if cfg.fp8_mlp:
            self._up_scales = maybe_compiled(up_scales, cfg)
            self._cast_up = maybe_compiled(cast_up, cfg)
            shape = (mlp.size(0), cfg.mlp_dim, D)
            fp8 = torch.zeros(shape, dtype=torch.float8_e4m3fn, device=device)
            self.register_buffer("up_fp8", fp8, persistent=False)
            self.register_buffer(
                "up_scale", torch.ones(mlp.size(0), device=device), persistent=False
            )

        # FP8 copies of the down matrices, transposed, and the scales of both operands (#89). Each
        # scale has storage of its own: scaled_mm refuses slices of a longer tensor.
        if cfg.fp8_down:
            assert cfg.fp8_mlp, "fp8_down needs fp8_mlp"
            n = mlp.size(0)
            fp8 = torch.zeros(n, D, cfg.mlp_dim, dtype=torch.float8_e4m3fn, device=device)
            tiles = math.ceil(cfg.mlp_dim / DOWN_TILE) * math.ceil(D / DOWN_TILE)
            for name, value in (
                ("down_fp8_t", fp8),
                ("down_scale_next", torch.ones(n, device=device)),
                ("down_scale", torch.ones(n, device=device)),
                ("down_amax", torch.zeros(n, tiles, device=device)),
                ("post_scale", torch.ones(L, device=device)),
            ):
                self.register_buffer(name, value, persistent=False)

        # rotary tables, for one position a token and for the two interleaved ones of paired heads
        rows = max(cfg.val_tokens_per_rank, max(s.batch_tokens for s in cfg.stages) // SLOTS)
        for name, width in (("rotary", C), ("paired", 2 * C)):
            for part in ("cos", "sin"):
                table = torch.empty(rows, width, dtype=dt, device=device)
                self.register_buffer(f"{name}_{part}", table, persistent=False)
        self.set_rotary(Yarn(cfg).frequencies)

    @torch.no_grad()
    def set_rotary(self, frequencies: np.ndarray) -> None:
        """Rebuild the rotary tables in place. Angles in fp32; the upper half does not rotate."""
        rows, width = self.rotary_cos.shape
        per_channel = torch.zeros(width, device=self.device)
        w = torch.tensor(frequencies, dtype=torch.float32, device=self.device)
        per_channel[: width // 2] = w.repeat_interleave(2)
        flip = torch.ones(width, device=self.device)
        flip[1::2] = -1
        t = torch.arange(rows, dtype=torch.float32, device=self.device)
        angle = t[:, None] * per_channel
        self.rotary_cos.copy_(angle.cos())
        self.rotary_sin.copy_(angle.sin() * flip)
        for offset in (0, 1):  # even heads sit at position 2t, odd heads at 2t + 1
            angle = (2 * t + offset)[:, None] * per_channel
            self.paired_cos[:, offset * width : (offset + 1) * width] = angle.cos()
            self.paired_sin[:, offset * width : (offset + 1) * width] = angle.sin() * flip

    @torch.no_grad()
    def quantize_mlp(self, exact: bool = True) -> None:
        """FP8 copies of the MLP matrices, after every update.

        Up: scale max|U| / 448, rounded to bf16 in both its uses. Down (#89): the scale measured on
        the previous step's weights, or on these if `exact` (they start at zero and grow quickly).
        """
        if self.cfg.fp8_mlp:
            scale = self._up_scales(self.mlp_bank)
            self._cast_up(self.mlp_bank, scale, self.up_fp8, self.up_scale)
        if self.cfg.fp8_down:
            down = self.mlp_bank[:, 1].contiguous()
            if exact:
                self.down_scale_next.copy_(exact_scale(down))
            quantize_down(
                down, self.down_scale_next, DOWN_HEADROOM, self.down_fp8_t, self.down_scale,
                self.down_amax,
            )  # fmt: skip

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor,
        cu_seqlens: Tensor,
        bigram_rows: Tensor,
        mtp_weights: Tensor | None,
        window_short: Number,
        window_long: Number,
        max_seqlen: int,
        softmax_scale: Number,
        prefix_weight: Tensor | None = None,
        taps: Taps | None = None,
    ) -> Tensor:
        """Loss of every token, (T,) fp32, not reduced; training when mtp_weights is given. taps: to
        these goes the gradient of the tables' rows (TableGradients).

        Written flat: splitting it into modules was measured slower, and the weights of all
        layers are unbound once, not indexed one by one.
        """
        x, _ = self.trunk(
            tokens, cu_seqlens, bigram_rows, mtp_weights is not None,
            window_short, window_long, max_seqlen, softmax_scale, taps,
        )  # fmt: skip
        if mtp_weights is None:
            return eval_loss(x, self.lm_head, targets)
        prefixes = None if prefix_weight is None else self.prefix_of[targets]
        if not self.cfg.fp8_head:
            logits = (x @ self.lm_head).float()
            return mtp_cross_entropy_reference(
                logits, targets, mtp_weights, prefixes, prefix_weight
            )
        return fused_head_loss(
            x,
            self.lm_head,
            targets,
            mtp_weights,
            100 / FP8_MAX,
            1.6 / FP8_MAX,
            0.75 / FP8_MAX,
            self.head_grad_scale,
            prefixes,
            prefix_weight,
        )

    def set_grad_scale(self, scale: float) -> None:
        """Upstream factor of the summed loss, 1 / (gradient accumulation steps)."""
        self.grad_scale = scale
        self.head_grad_scale.fill_(scale)

    def trunk(
        self,
        tokens: Tensor,
        cu_seqlens: Tensor,
        bigram_rows: Tensor,
        training: bool,
        window_short: Number,
        window_long: Number,
        max_seqlen: int,
        softmax_scale: Number,
        taps: Taps | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Normalised final stream (T, D), and x0."""
        cfg = self.cfg
        dt = cfg.torch_dtype
        T, D, H, C = tokens.size(0), cfg.model_dim, cfg.num_heads, cfg.head_dim
        A, G = len(cfg.attention_layers), cfg.gate_channels

        # All attention weights in one concatenation: rows of a layer are Q, K, V, O.
        attn_weights = torch.cat(
            (self.qk_bank[: A * H].view(A, 2 * D, D), self.vo_bank[: 2 * A].view(A, 2 * D, D)), 1
        ).unbind(0)
        mlp_weights = self.mlp_bank.flatten(0, 1).unbind(0)
        scalars = self.scalars.to(dt).unbind(0)
        resid = self.resid_lambdas.to(dt).flatten().unbind(0)
        post = self.post_lambdas.to(dt).flatten().unbind(0)
        # Coefficients by layer: parameters, or (#85) columns of the gates computed on the way.
        x0_coef: dict[int, Tensor] = {}
        bigram_coef: dict[int, Tensor] = {}
        xsa_coef: dict[int, Tensor] = {}  # (H,) or (T, H)
        compose: tuple[Tensor, Tensor] | None = None  # both sides of layer 10's composition
        out_gate: dict[int, Tensor] = {}  # (T, H), in place of the sigmoid gates
        attn_gate: tuple[Tensor, ...] = ()
        if not cfg.gated_mudd:
            x0_coef = dict(enumerate(self.x0_lambdas.to(dt).unbind(0)))
            if cfg.bigram:
                bigram_coef = dict(enumerate(self.bigram_lambdas.to(dt).unbind(0)))
            if cfg.xsa:
                alphas = self.xsa_alphas.to(dt).unbind(0)
                xsa_coef = {i: alphas[i] for i in cfg.xsa_layers}
            if cfg.gates:
                attn_gate = self.attn_gate_bank.unbind(0)
        value_gate = self.ve_gate_bank.unbind(0) if cfg.gates and cfg.value_embeds else ()
        smear_lambda, skip_lambda = scalars[22], scalars[23]

        cos, sin = self.rotary_cos[:T], self.rotary_sin[:T]
        paired_cos, paired_sin = self.paired_cos[:T], self.paired_sin[:T]
        prepare = prepare_heads if cfg.fused_heads else prepare_heads_reference
        finish = finish_heads if cfg.fused_heads else finish_heads_reference

        # ---- embeddings
        taps = taps or {}
        (e,) = look_up(self.embed, tokens, taps.get("embed"))
        g = None
        if cfg.bigram:
            (g,) = look_up(self.bigram_embed, bigram_rows, taps.get("bigram_embed"))
            if cfg.bigram_sign:  # lets bigrams that share a row be told apart in part
                g = g * F.embedding(sign_rows(tokens, cfg.sign_rows), self.bigram_sign_table)
        values: tuple[Tensor, ...] = ()
        if cfg.value_embeds:
            values = look_up(
                self.value_embeds, tokens, taps.get("value_embeds"), len(cfg.value_layers)
            )
        if cfg.smear:
            strength = smear_lambda * torch.sigmoid(F.linear(e[1:, :G], self.smear_gate))
            e = shift_in(e[:1], e[1:] + strength * e[:-1])
        x = norm(e)
        x0 = x
        if cfg.gated_mudd:
            gate = self.gate_block(0, x0, 3 * H + 2 * len(FIRST_GATED))
            if cfg.xsa:
                xsa_coef = {1: gate[:, :H], 3: gate[:, H : 2 * H]}
            if cfg.gates:
                out_gate[3] = gate[:, 2 * H : 3 * H]
            for n, i in enumerate(FIRST_GATED):
                x0_coef[i], bigram_coef[i] = gate[:, 3 * H + 2 * n :][:, :2].split(1, -1)
        if g is not None:
            x = add_bigram(x, bigram_coef[0], g)
        first = x  # the stream that enters layer 0
        if not cfg.gated_mudd:
            x0 = first  # there x0 has the bigram injection in it
        skip_strength = torch.sigmoid(skip_lambda)
        if cfg.gates and cfg.skip and not cfg.gated_mudd:
            skip_strength = skip_strength * 2 * torch.sigmoid(F.linear(x0[:, :G], self.skip_gate))

        def attend(i: int, a_in: Tensor, extra_value: Tensor | None) -> Tensor:
            """Attention of layer i on its normalised input; extra_value (T, H, C) joins v."""
            bank = cfg.attention_layers.index(i)
            weight = attn_weights[bank]
            # the lambdas scale 768-wide matrices rather than activations
            qkv = F.linear(a_in, scalars[2 * i] * weight[: 3 * D])
            paired = cfg.paired_heads and i in cfg.paired_layers
            tables = (paired_cos, paired_sin) if paired else (cos, sin)
            offset = cfg.key_offset and i in cfg.long_layers and not paired
            strength = torch.tanh(xsa_coef[i]) if i in xsa_coef and not paired else None
            q, k, v, tap = prepare(qkv, extra_value, *tables, H, offset, strength is not None)
            window = window_long if i in cfg.long_layers else window_short
            if paired:
                # Two heads share one softmax over an interleaved sequence of 2T. The rotation
                # saw adjacent heads side by side; these views then pair h with h + H/2.
                o = attention_varlen(
                    *(t.reshape(2 * T, H // 2, C) for t in (q, k, v)),
                    2 * cu_seqlens, 2 * max_seqlen, softmax_scale, window,
                ).reshape(T, H, C)  # fmt: skip
            else:
                o = attention_varlen(q, k, v, cu_seqlens, max_seqlen, softmax_scale, window)
                if compose is not None and i == 10:
                    o = compose_heads(
                        o, q, k, v, *compose, cu_seqlens, softmax_scale, cfg.compose_window
                    )
            gate = out_gate.get(i)
            if gate is None and attn_gate:
                gate = torch.sigmoid(F.linear(a_in[:, :G], attn_gate[bank]))
            o = finish(o, v, tap, strength, gate)
            return F.linear(o, scalars[2 * i + 1] * weight[3 * D :])

        def mlp(i: int, stream: Tensor) -> Tensor:
            inside = norm(stream)
            up, down = mlp_weights[2 * i], mlp_weights[2 * i + 1]
            if training and cfg.fp8_mlp:
                if cfg.fixed_x_scale:
                    factor: float | Tensor = normed_factor(D)
                else:
                    amax = inside.detach().abs().amax().clamp(min=1e-12)
                    factor = FP8_MAX / amax.float()
                inside_fp8 = (inside.detach() * factor).to(torch.float8_e4m3fn)
                dequant = (self.up_scale[i] / factor).reshape(1)
                if cfg.fp8_down:
                    out, maxima[i] = linear_relu2_fp8_down(
                        inside, up, down, self.up_fp8[i], inside_fp8, dequant, self.down_fp8_t[i],
                        self.down_scale[i : i + 1], self.post_scale[i : i + 1],
                    )  # fmt: skip
                    return out
                return linear_relu2(inside, up, down, self.up_fp8[i], inside_fp8, dequant)
            if cfg.relu2_kernel:
                return linear_relu2(inside, up, down)
            return F.relu(inside @ up.mT).square() @ down

        def gated_value(i: int, a_in: Tensor) -> Tensor | None:
            """Value embedding of layer i, gated per token and head, (T, H, C)."""
            if not cfg.value_embeds or i not in cfg.value_layers:
                return None
            table = cfg.value_layers.index(i)
            value = values[table].view(T, H, C)
            if not cfg.gates:
                return value
            seen = torch.cat((a_in[:, : G // 2], values[table][:, : G // 2]), -1)
            return 2 * torch.sigmoid(F.linear(seen, value_gate[table]))[..., None] * value

        # ---- layers
        maxima: dict[int, Tensor] = {}  # of each layer's hidden activations (#89)
        cache: dict[int, Tensor] = {}
        for i in range(cfg.num_layers):
            if i == 4 and cfg.gated_mudd:
                gate = self.gate_block(1, x, 5 * H + 2 * len(SECOND_GATED) + 1)
                if cfg.xsa:
                    xsa_coef |= {4: gate[:, :H], 7: gate[:, H : 2 * H]}
                if cfg.gates:
                    out_gate[10] = gate[:, 2 * H : 3 * H]
                for n, j in enumerate(SECOND_GATED):
                    x0_coef[j], bigram_coef[j] = gate[:, 3 * H + 2 * n :][:, :2].split(1, -1)
                rest = gate[:, 3 * H + 2 * len(SECOND_GATED) :]
                skip_strength = skip_strength * rest[:, :1]
                if cfg.composed_heads:
                    compose = rest[:, 1 : 1 + H], rest[:, 1 + H :]
            if i == 10 and cfg.mudd:
                cache[9] = x
                mu = self.mudd(0, x, 14)
                v_extra = (mu[0] * first + mu[1] * cache[7] + mu[2] * x).view(T, H, C)
                if cfg.value_embeds:
                    half = H // 2
                    gate = torch.cat((mu[6].expand(T, half), mu[7].expand(T, H - half)), -1)
                    v_extra = v_extra + gate[..., None] * values[4].view(T, H, C)
                x = (1 + mu[5]) * x + mu[3] * first + mu[4] * cache[7]
                y = attend(i, norm(cache[7]), v_extra)
                x = mu[8] * x + mu[9] * y + mu[10] * first
                if g is not None:
                    x = add_bigram(x, mu[11], g)
                x = mu[12] * x + mu[13] * mlp(i, x)
                continue
            if i in cfg.attention_layers:
                # the attention of the last three layers reads the output of layer 7
                a_in = norm(x if i <= 7 else cache[7])
                y = attend(i, a_in, gated_value(i, a_in))
                x = resid[2 * i] * x + post[2 * i] * y
                if i in x0_coef:
                    x = x + x0_coef[i] * x0
                if g is not None and i >= 1 and i in bigram_coef:
                    x = add_bigram(x, bigram_coef[i], g)
            elif cfg.skip:
                x = x + skip_strength * cache[3]
            x = resid[2 * i + 1] * x + post[2 * i + 1] * mlp(i, x)
            if i in (3, 7):
                cache[i] = x

        if cfg.mudd:
            mu = self.mudd(1, x, 5)
            x = x + mu[0] * first + mu[1] * cache[7] + mu[2] * cache[9] + mu[4] * cache[3]
            if cfg.value_embeds:
                x = x + mu[3] * values[0]
        else:
            x = x - scalars[24] * cache[7]
        if maxima:
            latest = torch.stack([maxima[i] for i in range(cfg.num_layers)])
            self.post_scale.copy_(delayed_scale(latest, POST_HEADROOM))
        return norm(x), x0

    def mudd(self, block: int, x: Tensor, count: int) -> tuple[Tensor, ...]:
        """`count` coefficients per token, each (T, 1), from the raw stream."""
        hidden = F.gelu(F.linear(x, self.mudd_w1[block]))
        mu = F.linear(hidden, self.mudd_w2[block, :count], self.mudd_b2[block, :count])
        return (MUDD_SCALE * mu).split(1, dim=-1)

    def gate_block(self, block: int, x: Tensor, count: int) -> Tensor:
        """`count` gates per token, (T, count), from the raw stream; the scale is learned (#85)."""
        hidden = F.gelu(F.linear(x, self.mudd_gate_w1[block]))
        gates = F.linear(hidden, self.mudd_gate_w2[block, :count], self.mudd_gate_b2[block, :count])
        return self.gate_scale.to(gates.dtype) * gates


def up_scales(mlp_bank: Tensor) -> Tensor:
    """max|U| / 448 of each up matrix, in the weights' own type (a bf16 number for bf16 weights)."""
    amax = mlp_bank[:, 0].abs().amax((1, 2)).float()
    return (amax.clamp(min=1e-12) / FP8_MAX).to(mlp_bank.dtype)


def cast_up(mlp_bank: Tensor, scale: Tensor, up_fp8: Tensor, up_scale: Tensor) -> None:
    """Kept apart from up_scales: fused, the compiler would use the scale before it is rounded."""
    up_fp8.copy_((mlp_bank[:, 0] / scale[:, None, None]).to(torch.float8_e4m3fn))
    up_scale.copy_(scale)


# ============================================================================================
# Gradients of the tables
# ============================================================================================
class TableGradients:
    """Gradients of the looked-up tables: dense, always in the same memory, and every pass adds the
    rows that it touched.

    A pass looks rows up without a gradient and adds a tap to each: zeros that take no memory. The
    taps' gradients are the rows', and are added to the tables' outside of the compiled pass.
    """

    def __init__(self, model: GPT) -> None:
        counts = {"embed": 1, "bigram_embed": 1, "value_embeds": len(model.cfg.value_layers)}
        named = dict(model.named_parameters())
        self.counts = {name: count for name, count in counts.items() if name in named}
        self.params = [named[name] for name in self.counts]
        self.grads = [torch.zeros_like(p, requires_grad=False) for p in self.params]

    def taps(self, tokens: int) -> Taps:
        """Fresh ones for a pass over so many tokens."""
        out: Taps = {}
        for (name, count), p in zip(self.counts.items(), self.params, strict=True):
            zeros = [p.new_zeros(()).expand(tokens, p.size(1)) for _ in range(count)]
            out[name] = [zero.detach().requires_grad_() for zero in zeros]
        return out

    def begun(self) -> bool:
        """Whether an earlier pass has left something to be added to."""
        return self.params[0].grad is not None

    def clear(self) -> None:
        for grad in self.grads:
            grad.zero_()

    def attach(self) -> None:
        for p, grad in zip(self.params, self.grads, strict=True):
            p.grad = grad

    @torch.no_grad()
    def add(self, rows_grads: Iterable[Tensor], tokens: Tensor, bigram_rows: Tensor) -> None:
        """rows_grads: the taps' gradients, in the order of flat(taps); the rows they stand for."""
        each, by_token = iter(rows_grads), torch.sort(tokens, stable=True)
        for (name, count), grad in zip(self.counts.items(), self.grads, strict=True):
            by = torch.sort(bigram_rows, stable=True) if name == "bigram_embed" else by_token
            add_rows(grad, [next(each) for _ in range(count)], *by)


def flat(taps: Taps) -> list[Tensor]:
    return [tap for each in taps.values() for tap in each]


# ============================================================================================
# Recorded launches
# ============================================================================================
class Recorder:
    """CUDA graphs: what a function launches on the GPU, recorded once and launched as one.

    Stage 1 needs 24 ms of kernels a step, some 800 of them; on 8 x H200 with a slow host a step
    took 36 to 47 ms, the GPUs waiting (candidates/NOTES.md). All recordings of one Recorder share a
    pool of memory: what one of them needs for itself only is the others' to overwrite, and may lie
    where a later recording returns its results. So the passes have a Recorder of their own: results
    of a pass are read by the updates, and by the next pass after them (with one pool for both, the
    loss was not a number soon after stage 2 began).
    """

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()

    @staticmethod
    def usable(device: torch.device) -> bool:
        """Recording needs a stream other than the default one: leave_default_stream."""
        if device.type != "cuda":
            return False
        return torch.cuda.current_stream(device) != torch.cuda.default_stream(device)

    def record(self, fn: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        """(what fn returned, replay): nothing runs before replay(), which fills that anew.

        Other threads go on meanwhile, NCCL's watchdog among them: hence thread_local. Not by `with
        torch.cuda.graph`, which first gives all free memory back, for the next pass to ask anew.
        """
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        graph.capture_begin(self.pool, capture_error_mode="thread_local")
        try:
            kept = fn()
        except BaseException:
            with contextlib.suppress(RuntimeError):  # which would tell of an invalid graph, not why
                graph.capture_end()
            raise
        graph.capture_end()
        return kept, graph.replay

    @torch.no_grad()
    def checked(self, fn: Callable[[], Any], state: Sequence[Tensor]) -> Callable[[], None]:
        """Replay of fn(), which changes `state` in place; run once here, with that effect.

        Raises RuntimeError if a replay does not leave the bits that a plain call leaves."""
        before = [t.clone() for t in state]
        fn()  # also compiles and loads what must not be compiled or loaded in a recording
        after = [t.clone() for t in state]
        _, replay = self.record(fn)
        for t, old in zip(state, before, strict=True):
            t.copy_(old)
        replay()

        def bits(t: Tensor) -> Tensor:
            return t.reshape(-1).view(torch.uint8)

        pairs = list(zip(state, after, strict=True))
        if not all(torch.equal(bits(t), bits(new)) for t, new in pairs):
            for t, new in pairs:
                t.copy_(new)
            raise RuntimeError("a replay gives other numbers than a plain call")
        return replay


class Pass(NamedTuple):
    """Forward and backward of one kind of micro-batch, recorded."""

    inputs: list[Tensor]  # to be filled before a replay
    before: list[Tensor | None]  # the gradients it adds to; None: it writes that one anew
    grads: list[Tensor]  # the gradients after it
    replay: Callable[[], None]


def plain_pass(
    losses_of: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    scale: float,
    tables: TableGradients | None,
    before_backward: Callable[[], None] = lambda: None,
) -> None:
    """Add the gradients of scale * losses_of(*inputs).sum() to the parameters'. inputs: tokens
    first, their bigrams' rows fourth."""
    taps = None if tables is None else tables.taps(inputs[0].size(0))
    losses = losses_of(*inputs, taps=taps)
    before_backward()
    (losses.sum() * scale).backward()
    if tables is not None and taps is not None:
        if not tables.begun():
            tables.clear()
            tables.attach()
        tables.add([tap.grad for tap in flat(taps)], inputs[0], inputs[3])


class Passes:
    """The recorded passes, by kind: shapes, windows, scales, and which gradients are there already
    (Adam's of an even step are added to by the odd one)."""

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        state: Sequence[Tensor],
        recorder: Recorder,
        tables: TableGradients | None = None,
    ) -> None:
        """params without the tables'; state: what else a pass changes in place."""
        self.params, self.state, self.recorder = list(params), state, recorder
        self.tables = tables
        self.known: dict[tuple[Any, ...], Pass] = {}
        self.refused: dict[tuple[Any, ...], str] = {}

    def kind(self, inputs: Sequence[Tensor], constants: tuple[Any, ...]) -> tuple[Any, ...]:
        there = tuple(p.grad is not None for p in self.params)
        begun = self.tables is not None and self.tables.begun()
        return *(tuple(t.shape) for t in inputs), *constants, there, begun

    def run(
        self,
        losses_of: Callable[..., Tensor],
        inputs: Sequence[Tensor],
        constants: tuple[Any, ...],
        scale: float,
        may_record: bool,
    ) -> None:
        """Add the gradients of scale * losses_of(*inputs).sum() to the parameters'.

        constants: all else that losses_of depends on and that is no tensor."""
        kind = self.kind(inputs, constants)
        if may_record and kind not in self.known and kind not in self.refused:
            try:
                self.known[kind] = self.record(losses_of, inputs, scale)
            except RuntimeError as error:
                self.refused[kind] = str(error).splitlines()[0]
        found = self.known.get(kind)
        if found is None:
            return plain_pass(losses_of, inputs, scale, self.tables)
        for kept, new in zip(found.inputs, inputs, strict=True):
            kept.copy_(new)
        for p, old, grad in zip(self.params, found.before, found.grads, strict=True):
            if old is not None and p.grad is not old:
                old.copy_(p.grad)
            p.grad = grad
        found.replay()
        if self.tables is not None:
            self.tables.attach()

    def record(
        self, losses_of: Callable[..., Tensor], given: Sequence[Tensor], scale: float
    ) -> Pass:
        """Record the pass that would run now. Raises RuntimeError where that cannot be done, or its
        replay strays from a plain pass by more than the order of atomic sums explains."""
        inputs = [t.clone() for t in given]
        before = [p.grad for p in self.params]
        tables = self.tables
        taps = None if tables is None else tables.taps(inputs[0].size(0))
        leaves = [*self.params, *flat(taps or {})]

        def run(add_to: Sequence[Tensor | None], anew: bool) -> tuple[Tensor, list[Tensor]]:
            losses = losses_of(*inputs, taps=taps)
            grads = torch.autograd.grad(losses.sum() * scale, leaves)
            if tables is not None:
                if anew:
                    tables.clear()
                tables.add(grads[len(self.params) :], inputs[0], inputs[3])
            own = zip(self.params, add_to, grads[: len(self.params)], strict=True)
            return losses.detach(), [self._sum(*three) for three in own]

        anew = tables is not None and not tables.begun()
        dense = [] if tables is None else tables.grads
        saved_dense = [t.clone() for t in dense]
        state = [t.clone() for t in self.state]
        try:
            # A plain pass first: compiles and loads what must not be in a recording.
            right, right_grads = run([None] * len(before), True)
            right_dense = [t.clone() for t in dense]
            for old, new in zip(before, right_grads, strict=True):
                if old is not None:
                    torch.zeros_like(old).add_(new)
            saved = [None if old is None else old.clone() for old in before]
            (losses, grads), replay = self.recorder.record(lambda: run(before, anew))
            for t in (*before, *dense):
                if t is not None:
                    t.zero_()
            for t, old in zip(self.state, state, strict=True):
                t.copy_(old)
            replay()
            near = float((losses - right).abs().max()) <= 1e-3
            for got, want in zip((*grads, *dense), (*right_grads, *right_dense), strict=True):
                # Atomic sums come in another order: a gradient that all but cancels moves by per
                # cents.
                most = 0.1 * float(want.float().norm()) + 1e-12
                near &= float((got - want).float().norm()) <= most
            for old, kept in zip(before, saved, strict=True):
                if old is not None and kept is not None:
                    old.copy_(kept)
        finally:
            for t, old in zip(dense, saved_dense, strict=True):
                t.copy_(old)
        if not near:
            raise RuntimeError("a replay gives other numbers than a plain pass")
        return Pass(inputs, before, grads, replay)

    @staticmethod
    @torch.no_grad()
    def _sum(p: nn.Parameter, old: Tensor | None, grad: Tensor) -> Tensor:
        """The parameter's gradient after this pass, in the parameter's own layout."""
        if old is not None:
            return old.add_(grad)
        return grad if grad.stride() == p.stride() else torch.empty_like(p).copy_(grad)


# ============================================================================================
# Communication
# ============================================================================================
class Comms:
    """The collectives the optimizer needs, asynchronous; with one rank they do nothing.

    Averages are formed by the collective itself (NCCL's AVG), in the tensors' own type.
    """

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world
        if world > 1:  # torch 2.13 renamed them
            self._scatter = getattr(dist, "reduce_scatter_single", None) or (
                dist.reduce_scatter_tensor
            )
            self._gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor

    def all_reduce_mean(self, t: Tensor) -> Any:
        if self.world > 1:
            return dist.all_reduce(t, op=dist.ReduceOp.AVG, async_op=True)
        return None

    def reduce_scatter_mean(self, full: Tensor, out: Tensor | None = None) -> tuple[Tensor, Any]:
        """This rank's slice of axis 0 of the mean, in `out` if given; the handle to wait for."""
        if self.world == 1:
            return full, None
        if out is None:
            out = full.new_empty((full.size(0) // self.world, *full.shape[1:]))
        return out, self._scatter(out, full, op=dist.ReduceOp.AVG, async_op=True)

    def all_gather(self, full: Tensor, own: Tensor) -> Any:
        """Fill `full` from every rank's slice of axis 0; `own` may be this rank's view of it."""
        if self.world > 1:
            return self._gather(full, own, async_op=True)
        return None

    def own(self, full: Tensor) -> Tensor:
        """This rank's slice of axis 0, a view."""
        rows = full.size(0) // self.world
        return full[self.rank * rows : (self.rank + 1) * rows]


def wait(handle: Any) -> None:
    if handle is not None:
        handle.wait()


class SparseRows:
    """Mean of a table's gradient where each rank touched few rows: only those travel.

    Rows are owned in equal blocks by the ranks. Before the forward of an Adam step the CPU knows
    which rows it touched since the last one; counts go through gloo, row numbers and rows through
    NCCL, all while the GPU computes something else.
    """

    def __init__(self, rows: int, comms: Comms, device: torch.device) -> None:
        self.comms, self.device = comms, device
        self.touched = np.zeros(rows, dtype=np.uint8)
        self.bounds = np.arange(comms.world + 1) * (rows // comms.world)
        self.handle: Any = None
        self.mean: Tensor | None = None

    def clear(self) -> None:
        self.touched.fill(0)

    def mark(self, rows: np.ndarray) -> None:
        self.touched[rows] = 1

    def announce(self) -> None:
        """Before the forward: list the foreign rows, start exchanging how many go where."""
        rows = np.flatnonzero(self.touched)
        cuts = np.searchsorted(rows, self.bounds)
        first, last = cuts[self.comms.rank], cuts[self.comms.rank + 1]
        counts = np.diff(cuts)
        counts[self.comms.rank] = 0
        count = len(rows) - int(last - first)
        pinned = torch.empty(count, dtype=torch.int32, pin_memory=self.device.type == "cuda")
        pinned.numpy()[:first] = rows[:first]
        pinned.numpy()[first:] = rows[last:]
        self.send_rows = pinned.to(self.device, non_blocking=True)
        self.send_counts = torch.from_numpy(counts.astype(np.int64))
        self.recv_counts = torch.empty_like(self.send_counts)
        self.handle = dist.all_to_all_single(self.recv_counts, self.send_counts, async_op=True)

    def send_row_numbers(self) -> None:
        """After the forward is queued, before the backward."""
        wait(self.handle)
        self.sends, self.recvs = self.send_counts.tolist(), self.recv_counts.tolist()
        self.recv_rows = torch.empty(sum(self.recvs), dtype=torch.int32, device=self.device)
        self.handle = dist.all_to_all_single(
            self.recv_rows, self.send_rows, self.recvs, self.sends, async_op=True
        )
        self.clear()

    def send_gradients(self, grad: Tensor) -> None:
        """After the backward: start exchanging the gradient rows themselves."""
        wait(self.handle)
        sent = grad.index_select(0, self.send_rows)
        self.received = grad.new_empty((sum(self.recvs), grad.size(1)))
        self.handle = dist.all_to_all_single(
            self.received, sent, self.recvs, self.sends, async_op=True
        )
        self.sent = sent  # kept alive while it travels

    def mean_of_own(self, grad: Tensor) -> Tensor:
        """This rank's rows of the mean gradient; adds what others sent into `grad`."""
        wait(self.handle)
        grad.index_add_(0, self.recv_rows, self.received)
        own = self.comms.own(grad)
        if self.mean is None:  # always the same tensor: a recorded update reads it
            self.mean = torch.empty_like(own)
        return torch.mul(own, 1 / self.comms.world, out=self.mean)


# ============================================================================================
# Optimizer
# ============================================================================================
class Rule(NamedTuple):
    """How a parameter is trained; NorMuon banks carry no betas."""

    kind: str  # "normuon" | "adam"
    comms: str  # "sharded" | "replicated" | "sparse"
    betas: tuple[float, float] = (0.0, 0.0)
    lr_mul: float = 1.0
    wd_mul: float = 1.0


RULES = {
    "qk_bank": Rule("normuon", "sharded"),
    "vo_bank": Rule("normuon", "sharded"),
    "mlp_bank": Rule("normuon", "sharded"),
    "scalars": Rule("adam", "replicated", (0.9, 0.99), 5.0, 0.0),
    "smear_gate": Rule("adam", "replicated", (0.9, 0.99), 0.01, 0.0),
    "skip_gate": Rule("adam", "replicated", (0.9, 0.99), 0.05, 0.0),
    "attn_gate_bank": Rule("adam", "replicated", (0.9, 0.99)),
    "ve_gate_bank": Rule("adam", "replicated", (0.9, 0.99)),
    "lm_head": Rule("adam", "sharded", (0.5, 0.95), 1.0, 150.0),
    "bigram_embed": Rule("adam", "sparse", (0.75, 0.95), 75.0, 5.0),
    "post_lambdas": Rule("adam", "replicated", (0.9, 0.95), 1.0, 0.0),
    "x0_lambdas": Rule("adam", "replicated", (0.9, 0.95), 1.0, 0.0),
    "bigram_lambdas": Rule("adam", "replicated", (0.9, 0.95), 1.0, 0.0),
    "resid_lambdas": Rule("adam", "replicated", (0.9, 0.95), 5.0, 0.0),
    "xsa_alphas": Rule("adam", "replicated", (0.9, 0.95), 1.0, 0.0),
    "value_embeds": Rule("adam", "sharded", (0.75, 0.95), 75.0, 5.0),
    "embed": Rule("adam", "sharded", (0.5, 0.95), 1.0, 150.0),
    "mudd_w1": Rule("adam", "replicated", (0.9, 0.99), 0.25, 1.0),
    "mudd_w2": Rule("adam", "replicated", (0.9, 0.99), 0.25, 1.0),
    "mudd_b2": Rule("adam", "replicated", (0.9, 0.99), 0.25, 0.0),
    "mudd_gate_w1": Rule("adam", "replicated", (0.9, 0.99), 0.1, 1.0),
    "mudd_gate_w2": Rule("adam", "replicated", (0.9, 0.99), 0.1, 1.0),
    "mudd_gate_b2": Rule("adam", "replicated", (0.9, 0.99), 0.1, 0.0),
    "gate_scale": Rule("adam", "replicated", (0.9, 0.99), 0.1, 0.0),
}
# The replicated parameters are small and travel as one flat fp32 vector ("small"): one all-reduce
# and one update instead of fifteen. Large reductions start first; the small update and the
# embeddings are worked on while they are in flight; the orthogonalisation comes last, so that the
# embeddings' gathers hide behind it. The head must be done before it is copied to the embedding.
SCATTER_ORDER = (
    "qk_bank", "vo_bank", "mlp_bank", "small", "lm_head", "bigram_embed", "value_embeds", "embed",
)  # fmt: skip
WORK_ORDER = (
    "small", "value_embeds", "bigram_embed", "lm_head", "embed", "qk_bank", "vo_bank", "mlp_bank",
)  # fmt: skip

# Polar Express (Amsel et al. 2025), five iterations X <- aX + (bA + cA^2)X with A = X X^T.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def polar_express(X: Tensor) -> Tensor:
    """Nearest (semi-)orthogonal matrix to each of X (b, rows, cols), in X's own type."""
    tall = X.size(-2) > X.size(-1)
    X = X / (1.02 * X.norm(dim=(-2, -1), keepdim=True) + 1e-6)
    for a, b, c in POLAR_EXPRESS:
        A = torch.bmm(X.mT, X) if tall else torch.bmm(X, X.mT)
        B = torch.baddbmm(A, A, A, beta=b, alpha=c)
        left, right = (X, B) if tall else (B, X)
        if X.size(-2) > 1024:  # baddbmm with X twice would first copy X
            X = torch.add(torch.bmm(left, right), X, alpha=a)
        else:
            X = torch.baddbmm(X, left, right, beta=a)
    return X


def equalise_variance(X: Tensor, second: Tensor, beta2: float) -> Tensor:
    """NorMuon (Li et al. 2025): divide rows (or columns) by their running RMS, keep the norm.

    second (b, rows, 1) for rows >= cols, else (b, 1, cols): running mean square, updated in place.
    """
    axis = -1 if X.size(-2) >= X.size(-1) else -2
    n = X.size(axis)
    mean_square = X.float().square().mean(axis, keepdim=True)
    before = (n * mean_square.sum((-2, -1), keepdim=True)).sqrt()
    second.add_((mean_square - second) * (1 - beta2))
    r = second.clamp(min=1e-10).rsqrt()
    after = (n * (mean_square * r.square()).sum((-2, -1), keepdim=True)).sqrt()
    return (X * (r * before / after.clamp(min=1e-10))).to(X.dtype)


def join_bits(high: Tensor, low: Tensor) -> Tensor:
    """fp32 whose upper 16 bits are the bf16 `high` and whose lower 16 are `low` (int16 storage)."""
    upper = high.view(torch.int16).to(torch.int32) << 16
    return (upper | (low.to(torch.int32) & 0xFFFF)).view(torch.float32)


def split_bits(value: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse of join_bits; the bf16 part is truncated, not rounded, so nothing is lost."""
    bits = value.view(torch.int32)
    return (bits >> 16).to(torch.int16).view(torch.bfloat16), (bits & 0xFFFF).to(torch.int16)


def normuon_update(
    param: Tensor,
    low: Tensor | None,
    grad: Tensor,
    momentum: Tensor,
    second: Tensor,
    factor: Tensor,
    mu: Tensor,
    lr: Tensor,
    wd: Tensor,
    beta2: float,
    variance: bool,
    cautious: bool,
) -> None:
    """One NorMuon step on whole matrices (b, rows, cols), in place.

    factor (b,) scales lr per matrix; mu, lr, wd are 0-D CPU tensors, so that changing them
    recompiles nothing. Decay is p * wd * lr_eff where the step and p agree in sign.
    """
    g = grad.float()
    momentum.copy_(g + mu * (momentum - g))
    step = polar_express((g + mu * (momentum - g)).to(param.dtype))  # Nesterov
    if variance:
        step = equalise_variance(step, second, beta2)
    step = step.float()
    rate = lr * factor[:, None, None]
    p = join_bits(param, low) if low is not None else param.float()
    decay = p * (wd * rate)
    if cautious:
        decay = torch.where(step * p >= 0, decay, 0.0)
    p = p - decay - rate * step
    if low is None:
        param.copy_(p)
    else:
        high, rest = split_bits(p)
        param.copy_(high)
        low.copy_(rest)


def adam_update(
    param: Tensor,
    grad: Tensor,
    m: Tensor,
    v: Tensor,
    step_size: Tensor,
    decay: Tensor,
    beta1: float,
    beta2: float,
    eps: float,
    cautious: bool,
) -> None:
    """One Adam step in place; moments fp32, step_size and decay 0-D CPU tensors.

    step_size has the bias correction in it; decay is lr^2 * wd * wd_mul, applied where the
    update and the parameter agree in sign.
    """
    g, p = grad.float(), param.float()
    m.copy_(beta1 * m + (1 - beta1) * g)
    v.copy_(beta2 * v + (1 - beta2) * g * g)
    u = step_size * (m / (v.sqrt() + eps))
    extra = p * decay
    u = u + (torch.where(u * p > 0, extra, 0.0) if cautious else extra)
    param.copy_(p - u)


def small_update(
    params: list[Tensor],
    grad: Tensor,
    m: Tensor,
    v: Tensor,
    beta1: Tensor,
    beta2: Tensor,
    lr_mul: Tensor,
    decay_mul: Tensor,
    groups: list[Tensor],
    step_sizes: list[Tensor],
    decay: Tensor,
    eps: float,
    cautious: bool,
) -> None:
    """adam_update for all replicated parameters at once; vectors hold what differs among them.

    groups are 0/1 vectors, one for each pair of betas, step_sizes the matching 0-D CPU tensors.
    """
    p = torch.cat([t.flatten().float() for t in params])
    m.copy_(beta1 * m + (1 - beta1) * grad)
    v.copy_(beta2 * v + (1 - beta2) * grad * grad)
    rate = sum(size * group for size, group in zip(step_sizes, groups, strict=True)) * lr_mul
    u = rate * (m / (v.sqrt() + eps))
    extra = p * (decay * decay_mul)
    u = u + (torch.where(u * p > 0, extra, 0.0) if cautious else extra)
    for t, new in zip(params, (p - u).split([t.numel() for t in params]), strict=True):
        t.copy_(new.view_as(t))


class Scalars:
    """The rates of a step, 0-D tensors that change from step to step.

    On the CPU they are arguments of the compiled kernels. A recording would keep their values, so
    for recorded updates they lie on the GPU and all of them travel in one copy.
    """

    def __init__(self, device: torch.device) -> None:
        self.values = torch.zeros(64, 4)  # one every 16 bytes
        self.there = self.values if device.type == "cpu" else self.values.to(device)
        self.used = 0

    def new(self) -> Tensor:
        self.used += 1
        return self.there[self.used - 1, 0]

    def fill(self, scalar: Tensor, value: float) -> None:
        self.values[scalar.storage_offset() // 4, 0] = value

    def send(self) -> None:
        if self.there is not self.values:
            self.there.copy_(self.values.pin_memory(), non_blocking=True)


class Optimizer:
    """NorMuon for the banks on every step, Adam for the rest on odd steps; one object, no hooks."""

    def __init__(
        self,
        model: GPT,
        cfg: Config,
        schedule: Schedule,
        comms: Comms,
        accumulation: int,
        recorder: Recorder | None = None,
    ) -> None:
        self.model, self.cfg, self.schedule, self.comms = model, cfg, schedule, comms
        device = model.device
        self.recorder = recorder
        self.recording = False  # set during the warm-up
        self.recorded: dict[str, tuple[Tensor, Callable[[], None]]] = {}  # by name, for a gradient
        self.refused: dict[str, str] = {}
        self.scalars = Scalars(device if recorder is not None else torch.device("cpu"))
        scalar = self.scalars.new

        def scattered(own: Tensor) -> Tensor | None:
            """Where the reduced gradient arrives, always the same for a recorded update."""
            return torch.empty_like(own) if recorder is not None and comms.world > 1 else None

        named = dict(model.named_parameters())
        missing = named.keys() - RULES.keys()
        assert not missing, f"no optimizer rule for {missing}"

        self._normuon = maybe_compiled(normuon_update, cfg)
        self._adam = maybe_compiled(adam_update, cfg)
        self._small = maybe_compiled(small_update, cfg)

        # NorMuon banks as (matrices, rows, cols), a chunk of whole matrices per rank
        self.banks: dict[str, dict[str, Any]] = {}
        for name in ("qk_bank", "vo_bank", "mlp_bank"):
            full = named[name].detach().flatten(0, -3)
            own = comms.own(full)
            rows, cols = own.shape[1:]
            factor = torch.full((full.size(0),), math.sqrt(max(1.0, rows / cols)))
            if name == "mlp_bank":
                factor[1::2] *= 2  # down matrices
            reduced = (len(own), rows, 1) if rows >= cols else (len(own), 1, cols)
            self.banks[name] = {
                "param": named[name],
                "full": full,
                "own": own,
                "momentum": torch.zeros(own.shape, device=device),
                "second": torch.zeros(reduced, device=device),
                "low": (
                    torch.zeros(own.shape, dtype=torch.int16, device=device)
                    if cfg.mantissa and own.dtype == torch.bfloat16
                    else None
                ),
                "factor": comms.own(factor).to(device),
                "scattered": scattered(own),
            }

        self.bank_params = [bank["param"] for bank in self.banks.values()]

        # Adam on slices of axis 0
        self.tables: dict[str, dict[str, Any]] = {}
        for name in ("lm_head", "bigram_embed", "value_embeds", "embed"):
            if name in named:
                if named[name].size(0) % comms.world:
                    raise SetupError(f"{comms.world} ranks do not divide {name}'s rows")
                own = comms.own(named[name].detach())
                self.tables[name] = {
                    "param": named[name],
                    "full": named[name].detach(),
                    "own": own,
                    "m": torch.zeros(own.shape, device=device),
                    "v": torch.zeros(own.shape, device=device),
                    "steps": 0,
                    "step_size": scalar(),
                    "decay": scalar(),
                    "scattered": scattered(own),
                }

        # replicated parameters, flat
        small = [n for n, rule in RULES.items() if rule.comms == "replicated" and n in named]
        self.small_params = [named[n] for n in small]
        sizes = torch.tensor([p.numel() for p in self.small_params])
        total = int(sizes.sum())
        self.small_pairs = sorted({RULES[n].betas for n in small})

        def spread(value: Callable[[Rule], float]) -> Tensor:
            each = torch.tensor([float(value(RULES[n])) for n in small])
            return each.repeat_interleave(sizes).to(device)

        flat = torch.zeros(total, device=device)
        self.small: dict[str, Any] = {
            "grad": flat,
            "views": [
                t.view_as(p)
                for t, p in zip(flat.split(sizes.tolist()), self.small_params, strict=True)
            ],
            "data": [p.detach() for p in self.small_params],
            "m": torch.zeros(total, device=device),
            "v": torch.zeros(total, device=device),
            "beta1": spread(lambda r: r.betas[0]),
            "beta2": spread(lambda r: r.betas[1]),
            "lr_mul": spread(lambda r: r.lr_mul),
            "decay_mul": spread(lambda r: r.lr_mul**2 * r.wd_mul),
            "groups": [spread(lambda r, b=betas: r.betas == b) for betas in self.small_pairs],
            "step_sizes": [scalar() for _ in self.small_pairs],
            "decay": scalar(),
            "steps": 0,
        }
        self.muon_scalars = {"mu": scalar(), "lr": scalar(), "wd": scalar()}
        self.sparse: SparseRows | None = None
        if cfg.bigram and cfg.sparse_bigram and comms.world > 1 and accumulation == 1:
            self.sparse = SparseRows(cfg.bigram_rows, comms, device)
        self.tied = True

    def reset(self) -> None:
        """State as before the first step."""
        for state in (*self.banks.values(), *self.tables.values(), self.small):
            for key in ("momentum", "second", "low", "m", "v"):
                if state.get(key) is not None:
                    state[key].zero_()
            state["steps"] = 0
        self.tied = True
        if self.sparse is not None:
            self.sparse.clear()
        for p in self.model.parameters():
            p.grad = None

    # ---- hooks of the training loop around the forward
    def before_forward(self, batch: Batch, step: int) -> None:
        if self.sparse is not None:
            self.sparse.mark(batch.bigram_rows_cpu)
            if self.schedule.is_adam_step(step):
                self.sparse.announce()

    def before_backward(self, step: int) -> None:
        if self.sparse is not None and self.schedule.is_adam_step(step):
            self.sparse.send_row_numbers()

    # ---- the step
    @torch.no_grad()
    def step(self, step: int) -> None:
        adam = self.schedule.is_adam_step(step)
        skipped = {"embed"} if self.tied else set()
        if not adam:
            skipped |= self.tables.keys() | {"small"}
        self._set_scalars(step, adam, skipped)

        pending = {
            name: self._scatter(name)
            for name in SCATTER_ORDER
            if name not in skipped and self._known(name)
        }
        gathers: dict[str, Any] = {}
        for name in WORK_ORDER:
            if name in pending:
                gathers[name] = self._work(name, *pending.pop(name))

        if adam and self.tied:
            wait(gathers.pop("lm_head"))
            transpose_copy(self.model.lm_head.detach(), self.model.embed.detach())
        for handle in gathers.values():
            wait(handle)
        if self.tied and step >= self.schedule.split_step:
            self._untie()

        for p in self.model.parameters() if adam else self.bank_params:
            p.grad = None  # Adam's gradients of an even step stay: the next backward adds to them

    def _known(self, name: str) -> bool:
        return name == "small" or name in self.banks or name in self.tables

    def _state(self, name: str) -> dict[str, Any]:
        return self.small if name == "small" else self.banks.get(name) or self.tables[name]

    def _set_scalars(self, step: int, adam: bool, skipped: set[str]) -> None:
        cfg, factor, fill = self.cfg, self.schedule.lr_factor(step), self.scalars.fill
        fill(self.muon_scalars["mu"], self.schedule.muon_momentum(step))
        fill(self.muon_scalars["lr"], cfg.muon_lr * factor)
        fill(self.muon_scalars["wd"], cfg.muon_wd * cfg.muon_lr * factor)
        if adam:
            self._set_adam_scalars(cfg.adam_lr * factor, skipped)
        self.scalars.send()

    def _set_adam_scalars(self, lr: float, skipped: set[str]) -> None:
        cfg, fill = self.cfg, self.scalars.fill

        def correction(betas: tuple[float, float], t: int) -> float:
            return math.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t)

        for name, state in self.tables.items():
            if name in skipped:
                continue
            rule = RULES[name]
            state["steps"] += 1
            fill(state["step_size"], lr * rule.lr_mul * correction(rule.betas, state["steps"]))
            fill(state["decay"], (lr * rule.lr_mul) ** 2 * cfg.adam_wd * rule.wd_mul)
        self.small["steps"] += 1
        for betas, size in zip(self.small_pairs, self.small["step_sizes"], strict=True):
            fill(size, lr * correction(betas, self.small["steps"]))
        fill(self.small["decay"], lr**2 * cfg.adam_wd)

    def _scatter(self, name: str) -> tuple[Tensor, Any]:
        """Start reducing one gradient: (where the result will be, handle)."""
        if name == "small":
            torch._foreach_copy_(self.small["views"], [p.grad for p in self.small_params])
            return self.small["grad"], self.comms.all_reduce_mean(self.small["grad"])
        if name in self.banks:
            bank = self.banks[name]
            grad = bank["param"].grad.view(bank["full"].shape)
            return self.comms.reduce_scatter_mean(grad, bank["scattered"])
        grad = self.tables[name]["param"].grad
        if name == "lm_head" and self.tied:
            transpose_add(self.model.embed.grad, grad)
        if name == "bigram_embed" and self.sparse is not None:
            self.sparse.send_gradients(grad)
            return grad, None
        return self.comms.reduce_scatter_mean(grad, self.tables[name]["scattered"])

    def _work(self, name: str, grad: Tensor, handle: Any) -> Any:
        """Wait for the reduction, update, start the gather and return its handle."""
        wait(handle)
        if name == "bigram_embed" and self.sparse is not None:
            grad = self.sparse.mean_of_own(grad)
        if self.recording and name not in self.recorded and name not in self.refused:
            self._record(name, grad)
        elif name in self.recorded and self.recorded[name][0] is grad:
            self.recorded[name][1]()
        else:
            self._update(name, grad)
        if name == "small":
            return None
        state = self._state(name)
        return self.comms.all_gather(state["full"], state["own"])

    def _record(self, name: str, grad: Tensor) -> None:
        """Update, and record it where the gradient always comes in this tensor."""
        state = self._state(name)
        assert self.recorder is not None
        if name != "small" and self.comms.world == 1:  # the gradient itself, of the pass before
            return self._update(name, grad)
        changed = [state[key] for key in ("own", "low", "momentum", "second", "m", "v")
                   if state.get(key) is not None]  # fmt: skip
        try:
            replay = self.recorder.checked(
                lambda: self._update(name, grad), [*changed, *state.get("data", ())]
            )
        except RuntimeError as error:
            self.refused[name] = str(error).splitlines()[0]
        else:
            self.recorded[name] = grad, replay

    def _update(self, name: str, grad: Tensor) -> None:
        """One step of one bank, table or of all that is small, in place."""
        cfg = self.cfg
        if name == "small":
            s = self.small
            self._small(
                s["data"], grad, s["m"], s["v"], s["beta1"], s["beta2"], s["lr_mul"],
                s["decay_mul"], s["groups"], s["step_sizes"], s["decay"],
                cfg.adam_eps, cfg.cautious_decay,
            )  # fmt: skip
        elif name in self.banks:
            b = self.banks[name]
            self._normuon(
                b["own"], b["low"], grad, b["momentum"], b["second"], b["factor"],
                *self.muon_scalars.values(), cfg.muon_beta2, cfg.normuon, cfg.cautious_decay,
            )  # fmt: skip
        else:
            t = self.tables[name]
            self._adam(
                t["own"], grad, t["m"], t["v"], t["step_size"], t["decay"],
                *RULES[name].betas, cfg.adam_eps, cfg.cautious_decay,
            )  # fmt: skip

    def _untie(self) -> None:
        """Give the embedding a copy of the head's Adam state; from now on both train."""
        head, embed = self.tables["lm_head"], self.tables["embed"]
        for key in ("m", "v"):
            full = torch.empty(head["full"].shape, device=self.model.device)
            if self.comms.world == 1:
                full = head[key]
            wait(self.comms.all_gather(full, head[key]))
            embed[key].copy_(self.comms.own(full.T))
        embed["steps"] = head["steps"]
        self.tied = False

    @torch.no_grad()
    def compile_updates(self) -> None:
        """Compile every update on zero gradients with zero rates: nothing changes or is sent."""
        self.scalars.values.zero_()
        self.scalars.send()
        for name in WORK_ORDER:
            if self._known(name):
                state = self._state(name)
                grad = state["grad"] if name == "small" else torch.zeros_like(state["own"])
                self._update(name, grad)


# ============================================================================================
# Machine
# ============================================================================================
class Log:
    """Rank 0's lines, on stdout and in logs/<id>.txt; the other ranks say nothing."""

    def __init__(self, rank: int) -> None:
        self.file = None
        self.last_phase = PROCESS_START
        if rank == 0:
            Path("logs").mkdir(exist_ok=True)
            self.path = Path("logs") / f"{uuid.uuid4()}.txt"
            self.file = self.path.open("w", encoding="utf-8", buffering=1)

    def write(self, text: str, console: bool = True) -> None:
        if self.file is None:
            return
        self.file.write(text + "\n")
        if console:
            print(text, flush=True)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()

    def phase(self, name: str) -> None:
        """How long the part of start-up that just ended took."""
        now = time.perf_counter()
        self.write(f"startup: {name} {now - self.last_phase:.1f} s")
        self.last_phase = now

    def header(self, device: torch.device) -> None:
        """Source, versions and GPUs, as the field's logs begin."""
        if self.file is None:
            return
        self.write(Path(__file__).read_text(encoding="utf-8"), console=False)
        self.write("=" * 100, console=False)
        triton_version = "none"
        with contextlib.suppress(ImportError):
            import triton

            triton_version = triton.__version__
        self.write(
            f"Python {sys.version.split()[0]}, PyTorch {torch.__version__} "
            f"(CUDA {torch.version.cuda}), Triton {triton_version}",
            console=False,
        )
        if device.type == "cuda":
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                smi = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=20)
                self.write(smi.stdout, console=False)
        self.write("=" * 100, console=False)


def fit_to_device(cfg: Config, device: torch.device) -> tuple[Config, list[str]]:
    """The configuration this device can run, and a line for everything it has to do without."""
    lines = []
    capability = (0, 0)
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
    if (cfg.fp8_mlp or cfg.fp8_head) and capability < (8, 9):
        cfg = replace(cfg, fp8_mlp=False, fp8_head=False)
        lines.append("no FP8 here (compute capability 8.9 needed): all matrix products in bf16")
    if cfg.fp8_mlp and os.environ.get("DISABLE_FP8"):
        cfg = replace(cfg, fp8_mlp=False)
        lines.append("DISABLE_FP8 is set: the MLP up-projection runs in bf16")
    if capability < (9, 0):  # the kernel that takes FP8 operands needs Hopper's TMA
        if cfg.fp8_mlp:
            lines.append("the MLP runs in bf16 here (its FP8 kernel needs compute capability 9.0)")
        cfg = replace(cfg, relu2_kernel=False, fp8_mlp=False)
    if not cfg.fp8_mlp:
        cfg = replace(cfg, fp8_down=False)
    if device.type != "cuda":
        cfg = replace(cfg, compile=False)
    return cfg, lines


# Allocated at most by each of 8 ranks, H200, program of #84, recorded (#89: 33,346 MiB); one rank
# alone (with one pool for all recordings) allocated 34,780 MiB, 30 less than what is computed here.
# Kernel by kernel it was 26,238. All of that before the tables' gradients stayed in one place:
# recorded passes keep none of their own since, some 5 GB, and these figures are bounds. Besides:
# what the allocator holds unused, the CUDA context, NCCL's and cuBLAS's buffers.
MEASURED_PEAK_BYTES, MEASURED_WORLD = 31_620 << 20, 8
BESIDES_BYTES = 3 << 30


def memory_estimate(cfg: Config, world: int) -> int:
    """What grows with the configuration: bytes of weights and gradients, the fp32 scratch of the
    largest table's gradient, optimizer state, and the larger of a training micro-batch's
    activations and a validation chunk."""
    sizes = {n: p.numel() for n, p in GPT(cfg, torch.device("meta"), world).named_parameters()}
    total, banks = sum(sizes.values()), sum(n for m, n in sizes.items() if m.endswith("_bank"))
    fixed = 4 * total + 4 * max(sizes.values()) + (8 * (total - banks) + 6 * banks) // world
    if cfg.graphs:  # gradients of each recorded pass: all of an even step, the banks' of an odd one
        fixed += 2 * len(cfg.stages) * (total + banks)
    tokens = max(s.batch_tokens for s in cfg.stages) // SLOTS
    layer = 2 * cfg.mlp_dim + 28 * cfg.model_dim
    head = (4 if cfg.fp8_head else 12) * cfg.vocab_size
    train = tokens * (cfg.num_layers * layer + head)
    validate = min(cfg.val_tokens_per_rank, 65_536) * 8 * cfg.vocab_size
    return fixed + max(train, validate)


def required_bytes(cfg: Config, world: int) -> int:
    """GPU memory each of `world` ranks must find free: the measured peak, and what this
    configuration is estimated to need beyond the measured one."""
    more = memory_estimate(cfg, world) - memory_estimate(Config(), MEASURED_WORLD)
    return MEASURED_PEAK_BYTES + more + BESIDES_BYTES


def check_memory(cfg: Config, world: int, device: torch.device) -> None:
    """Raises SetupError, before anything is built, where the run would end out of memory."""
    if device.type != "cuda":
        return
    need, (free, total) = required_bytes(cfg, world), torch.cuda.mem_get_info(device)
    if free < need:
        raise SetupError(
            f"{torch.cuda.get_device_name(device)} has {free / 2**30:.1f} of {total / 2**30:.1f} "
            f"GiB free, training with {world} rank(s) needs {need / 2**30:.1f} on each: use GPUs "
            f"with more memory, or end the other processes that nvidia-smi lists"
        )


# ============================================================================================
# Training
# ============================================================================================
def warmup_plan(schedule: Schedule, last: int) -> tuple[list[int], list[int]]:
    """Steps to run untimed before training so that the clock sees no compilation.

    Training: each stage's first step (one graph a stage), an Adam step, the step on which head
    and embedding part, and an Adam step after it; where passes are recorded, in each stage a step
    without Adam and the next. Validation: one step for each graph that occurs, that is each stage
    in which a validation falls, and the end with its own window.
    """
    train = {s for s in (*schedule.starts, 1, schedule.split_step) if s < last}
    if schedule.cfg.graphs:
        for start in schedule.starts:
            train |= {s for s in range(start, start + 2 + start % 2) if s < last}
    untied = [s for s in range(schedule.split_step + 1, last) if schedule.is_adam_step(s)]
    if untied:
        in_last_stage = [s for s in untied if s >= schedule.starts[3]]
        train.add((in_last_stage or untied)[0])
    validate: dict[tuple[int, bool], int] = {}
    for step in range(last + 1):
        if schedule.is_validation_step(step, last):
            final = step == schedule.cfg.total_steps
            validate.setdefault((schedule.stage_index(step), final), step)
    return sorted(train), sorted(validate.values())


def gpt2_vocabulary() -> list[bytes]:
    """Byte strings of GPT-2's tokens by id: from the file $SPEEDRUN_GPT2_RANKS, or tiktoken."""
    path = os.environ.get("SPEEDRUN_GPT2_RANKS")
    if path:
        try:
            pairs = (line.split() for line in Path(path).read_bytes().splitlines() if line)
            ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
        except (OSError, ValueError) as error:
            raise SetupError(
                f"$SPEEDRUN_GPT2_RANKS is {path}, no .tiktoken file that can be read: a token in "
                f"base64 and its rank in each line ({error})"
            ) from error
    else:
        try:
            import tiktoken

            ranks = tiktoken.get_encoding("gpt2")._mergeable_ranks
        except Exception as error:  # not installed, or its ranks cannot be downloaded
            raise SetupError(
                f"the prefix term needs GPT-2's vocabulary: install tiktoken, or set "
                f"SPEEDRUN_GPT2_RANKS to a .tiktoken file ({error})"
            ) from error
    return sorted(ranks, key=ranks.__getitem__)


def prefixes_of(vocabulary: Sequence[bytes], size: int) -> list[int]:
    """For each of `size` ids the token of its longest proper prefix in the vocabulary, else -1.

    In sorted order the prefixes of a string are on a stack of the strings before it.
    """
    prefixes, stack = [-1] * size, []
    for token in sorted(range(len(vocabulary)), key=vocabulary.__getitem__):
        while stack and not vocabulary[token].startswith(vocabulary[stack[-1]]):
            stack.pop()
        if stack:
            prefixes[token] = stack[-1]
        stack.append(token)
    return prefixes


class Trainer:
    """The loop's state: model, optimizer, schedules and the windows of the current step."""

    def __init__(self, cfg: Config, rank: int, world: int, device: torch.device, log: Log) -> None:
        self.cfg, self.rank, self.world, self.device, self.log = cfg, rank, world, device, log
        self.accumulation = SLOTS // world
        self.warming_up = False
        self.vocabulary: list[bytes] = []  # for the prefix term, whose table the clock sees made
        self.schedule, self.yarn = Schedule(cfg), Yarn(cfg)
        self.model = GPT(cfg, device, world)
        self.model.set_grad_scale(1 / self.accumulation)
        recorder = Recorder() if cfg.graphs and Recorder.usable(device) else None
        if world > 1 and dist.is_initialized():
            for t in self.model.state_dict().values():  # parameters and the sign table
                dist.broadcast(t, 0)
        self.optimizer = Optimizer(
            self.model, cfg, self.schedule, Comms(rank, world), self.accumulation, recorder
        )
        self.tables = TableGradients(self.model) if cfg.sorted_tables else None
        self.recorder, self.recording = recorder, False
        self.passes: Passes | None = None
        if recorder is not None:
            state = [self.model.post_scale] if cfg.fp8_down else []
            apart = {id(p) for p in self.tables.params} if self.tables is not None else set()
            params = [p for p in self.model.parameters() if id(p) not in apart]
            self.passes = Passes(params, state, Recorder(), self.tables)
        self.casts: dict[bool, Callable[[], None]] = {}  # recorded quantize_mlp, by `exact`
        self.forward = maybe_compiled(self.model, cfg)
        if cfg.compile:
            torch._dynamo.config.recompile_limit = 64
        self.model.quantize_mlp()
        # one tensor a step, so that nothing is sent or sliced on the clock
        self.mtp_weights = [
            torch.tensor(self.schedule.mtp_weights(step), device=device)
            for step in range(cfg.total_steps)
        ]
        self.prefix_weights = [
            None if weight is None else torch.tensor([weight], device=device)
            for weight in map(self.schedule.prefix_weight, range(cfg.total_steps))
        ]
        self.set_stage(0)

    def set_stage(self, step: int) -> None:
        """Windows, lengths and YaRN of the stage `step` lies in."""
        stage = self.schedule.stage(step)
        block = self.cfg.window_block
        self.window_short, self.window_long = stage.window_short * block, stage.window_long * block
        self.max_seq_len = stage.max_seq_len
        self.tokens = stage.batch_tokens // SLOTS
        if self.yarn.widen(self.window_long):
            self.model.set_rotary(self.yarn.frequencies)
        self.windows = host_number(self.window_short), host_number(self.window_long)
        self.softmax_scale = host_number(self.yarn.scale)

    def reset(self) -> None:
        self.yarn.reset()
        self.model.set_rotary(self.yarn.frequencies)
        self.set_stage(0)
        self.optimizer.reset()
        self.model.quantize_mlp()
        if self.cfg.fp8_down:
            self.model.post_scale.fill_(1.0)

    def forward_backward(self, loader: TrainLoader, step: int) -> None:
        for _ in range(self.accumulation):
            batch = loader.next(self.tokens, self.max_seq_len)
            self.optimizer.before_forward(batch, step)
            if self.passes is not None:
                self.recorded_pass(self.passes, batch, step)
                self.optimizer.before_backward(step)
                continue
            plain_pass(
                self.losses, self.pass_inputs(batch, step), self.model.grad_scale, self.tables,
                lambda: self.optimizer.before_backward(step),
            )  # fmt: skip

    def pass_inputs(self, batch: Batch, step: int) -> list[Tensor]:
        """What a training pass reads anew each time; the rest stays over a stage."""
        prefix = self.prefix_weights[step]
        return [*batch[:4], self.mtp_weights[step], *([] if prefix is None else [prefix])]

    def losses(
        self, tokens: Tensor, targets: Tensor, cu_seqlens: Tensor, rows: Tensor, mtp: Tensor,
        prefix: Tensor | None = None, taps: Taps | None = None,
    ) -> Tensor:  # fmt: skip
        """Loss of every token under the windows, the length and the scale of this stage."""
        return self.forward(
            tokens, targets, cu_seqlens, rows, mtp,
            *self.windows, self.max_seq_len, self.softmax_scale, prefix, taps,
        )  # fmt: skip

    def recorded_pass(self, passes: Passes, batch: Batch, step: int) -> None:
        constants = self.window_short, self.window_long, self.max_seq_len, self.yarn.scale
        inputs, scale = self.pass_inputs(batch, step), self.model.grad_scale
        passes.run(self.losses, inputs, constants, scale, may_record=self.recording)

    def quantize(self, exact: bool) -> None:
        """The model's FP8 copies, by a recording where there is one."""
        exact = exact and self.cfg.fp8_down  # nothing else knows the difference
        if exact in self.casts:
            self.casts[exact]()
        else:
            self.model.quantize_mlp(exact)

    def record_casts(self) -> None:
        """Record quantize_mlp in both its forms."""
        if self.recorder is None or not self.cfg.fp8_mlp:
            return
        names = ("up_fp8", "up_scale", "down_fp8_t", "down_scale_next", "down_scale", "down_amax")
        model = self.model
        state = [t for name in names if (t := getattr(model, name, None)) is not None]
        for exact in {False, self.cfg.fp8_down}:
            try:
                self.casts[exact] = self.recorder.checked(
                    lambda exact=exact: model.quantize_mlp(exact), state
                )
            except RuntimeError as error:
                self.optimizer.refused["FP8 casts"] = str(error).splitlines()[0]

    def train_step(self, loader: TrainLoader, step: int) -> None:
        self.set_stage(step)
        self.forward_backward(loader, step)
        self.optimizer.step(step)
        self.quantize(exact=self.warming_up or step < DELAYED_FROM)
        for notice in loader.notices and loader.take_notices():
            self.log.write(notice)

    def validation_windows(self, step: int) -> tuple[int, int]:
        """Short and long window; the very end widens the long one, without YaRN."""
        if step == self.cfg.total_steps:
            return self.window_short, self.cfg.final_window_long * self.cfg.window_block
        return self.window_short, self.window_long

    @torch.no_grad()
    def validation_losses(self, batch: Batch, step: int) -> Tensor:
        return self.forward(
            batch.tokens,
            batch.targets,
            batch.cu_seqlens,
            batch.bigram_rows,
            None,
            *map(host_number, self.validation_windows(step)),
            self.cfg.val_tokens_per_rank,
            self.softmax_scale,
        )

    def validate(self, validation: Validation, step: int) -> float:
        """Mean nats a token over all validation tokens, on every rank."""
        means = [self.validation_losses(b, step).mean() for b in validation.batches()]
        mean = torch.stack(means).mean()
        wait(self.optimizer.comms.all_reduce_mean(mean))
        return float(mean)

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def graph_of(self, step: int, training: bool) -> tuple[Any, ...]:
        """Steps of which one compiled graph serves have the same."""
        if not _attention.host_tensors:  # windows and softmax scale are constants of the graph
            return training, self.schedule.stage_index(step), step == self.cfg.total_steps
        if not training:
            return (False,)
        shape = self.schedule.stage(step).batch_tokens, len(self.schedule.mtp_weights(step))
        return True, *shape, self.schedule.prefix_weight(step) is None

    def compile_share(
        self, train: list[int], validate: list[int], loader: TrainLoader, share: int, shares: int
    ) -> None:
        """Compile every `shares`-th of the graphs, from number `share` on, without communicating:
        so each rank can take some, and leave them to the others in the cache."""
        first: dict[tuple[Any, ...], tuple[int, bool]] = {}
        for training, steps in ((True, train), (False, validate)):
            for step in steps:
                first.setdefault(self.graph_of(step, training), (step, training))
        sparse, self.optimizer.sparse = self.optimizer.sparse, None
        for step, training in list(first.values())[share::shares]:
            self.yarn.reset()
            for start in self.schedule.starts:  # windows widen one after the other
                if start <= step:
                    self.set_stage(start)
            if training:
                self.forward_backward(loader, step)
            else:
                self.validation_losses(self.fake_validation_batch(), step)
        if self.cfg.compile and len(first) % shares == share:
            self.optimizer.compile_updates()
        self.optimizer.sparse = sparse
        self.reset()

    def told_of_recordings(self, passes: Passes) -> list[str]:
        """What was recorded, and a line for whatever could not be."""
        known, updates = len(passes.known), sorted(self.optimizer.recorded)
        refused = [
            *self.optimizer.refused.items(),
            *(("a pass", w) for w in passes.refused.values()),
        ]
        return [
            f"recorded: {known} passes, {len(self.casts)} casts, updates of {', '.join(updates)}",
            *(f"not recorded: {name} ({why})" for name, why in refused),
        ]

    def fake_validation_batch(self) -> Batch:
        buffer = np.full(self.cfg.val_tokens_per_rank + 1, self.cfg.bos_id + 1, dtype=np.uint16)
        return unaligned_batch(buffer % self.cfg.vocab_size, self.cfg, self.device)

    def warm_up(self, last: int, shared: bool) -> None:
        """Compile and run everything the run will need, then put all state back. shared: what is
        not in the compile cache yet is first compiled by all ranks together, each graph by one."""
        train, validate = warmup_plan(self.schedule, last)
        self.warming_up = True
        self.log.write(f"startup: warming up on training steps {train}, validation at {validate}")
        state = {n: p.detach().clone() for n, p in self.model.named_parameters()}

        def throw_away_loader() -> TrainLoader:
            return TrainLoader(self.cfg, self.rank, self.world, self.device)

        if shared:
            self.compile_share(train, validate, throw_away_loader(), self.rank, self.world)
            dist.all_reduce(torch.zeros(1))  # on the CPU: a barrier that may take minutes
            self.log.phase("compilation, each graph by one rank")
        loader = throw_away_loader()
        self.recording = self.optimizer.recording = self.recorder is not None
        took: list[str] = []
        for step in sorted({*train, *validate}):
            self.set_stage(step)
            for kind in [k for k, steps in (("val", validate), ("step", train)) if step in steps]:
                began = time.perf_counter()
                if kind == "val":
                    self.validation_losses(self.fake_validation_batch(), step)
                else:
                    self.train_step(loader, step)
                self.synchronize()
                took.append(f"{kind} {step} {time.perf_counter() - began:.1f}")
        self.log.write(f"startup: of which, in seconds: {', '.join(took)}")
        if self.passes is not None:
            self.record_casts()
            self.recording = self.optimizer.recording = False
            for line in self.told_of_recordings(self.passes):
                self.log.write(line)
            # Recorded steps take other memory than plain ones: a second visit asks for it, and
            # replays everything once, before the clock does.
            self.reset()
            for step in train:
                self.train_step(loader, step)
        with torch.no_grad():
            for n, p in self.model.named_parameters():
                p.copy_(state[n])
        self.reset()
        self.warming_up = False
        del state, loader
        gc.collect()
        gc.freeze()  # what start-up made is never collected again
        self.synchronize()

    def run(self, last: int) -> None:
        """The timed part: steps 0 .. last - 1, validation before some of them and at the end."""
        validation = Validation(self.cfg, self.rank, self.world, self.device)
        loader = TrainLoader(self.cfg, self.rank, self.world, self.device)
        total = self.cfg.total_steps if last == self.cfg.total_steps else last
        if self.world > 1:
            dist.barrier()
        self.synchronize()
        elapsed_ms = 0.0
        started = time.perf_counter()
        if self.cfg.prefix:
            self.model.prefix_of.copy_(
                torch.tensor(prefixes_of(self.vocabulary, self.cfg.vocab_size))
            )
        for step in range(last + 1):
            if step < self.cfg.total_steps:
                self.set_stage(step)
            if self.schedule.is_validation_step(step, last):
                self.synchronize()
                elapsed_ms += 1000 * (time.perf_counter() - started)
                loss = self.validate(validation, step)
                self.log.write(
                    f"step:{step}/{total} val_loss:{loss:.6f} train_time:{elapsed_ms:.0f}ms "
                    f"step_avg:{elapsed_ms / max(step, 1):.2f}ms"
                )
                self.synchronize()
                started = time.perf_counter()
            if step == last:
                break
            self.train_step(loader, step)
            # No synchronisation: this is when the CPU was done, at most a few steps ahead.
            now_ms = elapsed_ms + 1000 * (time.perf_counter() - started)
            self.log.write(
                f"step:{step + 1}/{total} train_time:{now_ms:.0f}ms "
                f"step_avg:{now_ms / (step + 1):.2f}ms"
            )


def compile_marker(cfg: Config, world: int) -> Path | None:
    """A file that exists once this very program has been compiled into the current cache."""
    root = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if not root or not torch.cuda.is_available():
        return None
    text = Path(__file__).read_bytes() + repr((cfg, world, torch.__version__)).encode()
    text += torch.cuda.get_device_name().encode()
    return Path(root) / f"speedrun-small-{hashlib.sha256(text).hexdigest()[:16]}.compiled"


def mark_compiled(cfg: Config, world: int) -> None:
    marker = compile_marker(cfg, world)
    if marker is not None:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()


def compile_for(cfg: Config, world: int) -> None:
    """Fill the compile caches for a run of `world` ranks, on one GPU and without the others: a node
    of eight need not wait for its first run's compilation."""
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        raise SetupError("--compile-for: set TORCHINDUCTOR_CACHE_DIR to the folder to be filled")
    if SLOTS % world or not torch.cuda.is_available():
        raise SetupError("--compile-for: needs a GPU, and a world size of 1, 2, 4 or 8")
    device = torch.device("cuda", 0)
    torch.set_num_threads(1)  # as in join_job
    log = Log(0)
    cfg, _ = fit_to_device(cfg, device)
    use_attention(find_attention(device))
    check_memory(cfg, world, device)
    leave_default_stream(cfg, device)
    trainer = Trainer(cfg, 0, world, device, log)
    plan = warmup_plan(trainer.schedule, cfg.total_steps)
    trainer.compile_share(*plan, TrainLoader(cfg, 0, world, device), 0, 1)
    trainer.synchronize()
    mark_compiled(cfg, world)
    log.phase(f"compilation for {world} rank(s)")
    log.close()


def isolate_device(local_rank: int) -> bool:
    """Let this process see its own GPU only, as cuda:0. Must run before CUDA is touched.

    Compiled code names its device, so ranks share a compile cache only if all call theirs the
    same. NCCL reaches peers that a process does not see. SPEEDRUN_ALL_DEVICES=1 turns it off.
    """
    if os.environ.get("SPEEDRUN_ALL_DEVICES") or torch.cuda.is_initialized():
        return False
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(local_rank + 1)]
    if local_rank >= len(names):
        return False
    os.environ["CUDA_VISIBLE_DEVICES"] = names[local_rank]
    return True


class Place(NamedTuple):
    """This process among those of the job."""

    rank: int
    world: int
    device: torch.device
    isolated: bool  # it sees its own GPU only
    cuda_s: float  # what the GPU's context took
    meeting_s: float  # until all processes were connected


def join_job() -> Place:
    """Take this process's GPU and meet the others, as torchrun tells; alone without it.

    Raises SetupError for a world size that does not divide the batch, or too few GPUs."""
    rank = int(os.environ.get("RANK", 0))
    world = int(os.environ.get("WORLD_SIZE", 1))
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if SLOTS % world:
        raise SetupError(f"{world} processes: the world size must be 1, 2, 4 or 8")
    isolated = isolate_device(local_rank)
    began = time.perf_counter()
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", 0 if isolated else local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        if device.index >= torch.cuda.device_count():
            raise SetupError(f"{world} processes, but only {torch.cuda.device_count()} GPUs here")
        torch.cuda.set_device(device)
        # torchrun sets it for several processes. With one, too: the keys of torch 2.13's compile
        # cache hold it for graphs that CPU tensors enter, as windows and scales do here.
        torch.set_num_threads(1)
        # The first backward of a process can misbehave; give it one that does not matter.
        torch.ones(1, device=device, requires_grad=True).sum().backward()
    cuda_s = time.perf_counter() - began
    if world > 1:
        from datetime import timedelta

        # NCCL for the GPU's tensors, gloo for the CPU's (counts of the sparse exchange)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            timeout=timedelta(minutes=30),
            **({"device_id": device} if on_gpu else {}),
        )
        dist.barrier()
    meeting_s = time.perf_counter() - began - cuda_s
    return Place(rank, world, device, isolated, cuda_s, meeting_s)


def leave_default_stream(cfg: Config, device: torch.device) -> None:
    """From here on this thread computes on a stream of its own: the default one cannot be recorded.
    Before the first parameter: what adds up its gradient stays on the stream it was made on."""
    if cfg.graphs and device.type == "cuda":
        torch.cuda.set_stream(torch.cuda.Stream(device))


@contextlib.contextmanager
def rare_collections() -> Iterator[None]:
    """For start-up, which makes many objects that stay and few cycles: three graphs from the cache
    (on a CPU) are 1,516 collections and 1.0 s of 15 with Python's thresholds, 22 and 0.4 s here."""
    usual = gc.get_threshold()
    gc.set_threshold(50_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def build(
    place: Place, log: Log, cfg: Config, last: int, notes: Sequence[str], seed: int | None
) -> Trainer:
    """`get_ready` once this process has its place: the trainer, warmed up."""
    rank, world, device, isolated = place[:4]
    if rank == 0:
        print(log.path, flush=True)
    log.header(device)
    log.write(
        f"startup: import of torch {IMPORT_SECONDS:.1f} s, CUDA {place.cuda_s:.1f} s, "
        f"meeting {place.meeting_s:.1f} s"
    )
    log.phase("processes and devices, with that import")

    cfg, lines = fit_to_device(cfg, device)
    attention = find_attention(device)
    use_attention(attention)
    for line in (*notes, *lines, f"attention: {attention.name}"):
        log.write(line)
    log.write(f"world size {world}, gradient accumulation {SLOTS // world}")
    leave_default_stream(cfg, device)
    log.phase("attention")

    if seed is not None:
        torch.manual_seed(seed)
    data_files(cfg.train_files, "training"), data_files(cfg.val_files, "validation")
    vocabulary = gpt2_vocabulary() if cfg.prefix else []  # said to be missing now, not in minutes
    check_memory(cfg, world, device)
    trainer = Trainer(cfg, rank, world, device, log)
    trainer.vocabulary = vocabulary
    log.phase("model and optimizer")

    marker = compile_marker(cfg, world)
    shared = bool(world > 1 and isolated and cfg.compile and marker and not marker.exists())
    trainer.warm_up(last, shared)
    if rank == 0:
        mark_compiled(cfg, world)
    log.phase("compilation and warm-up")
    return trainer


@rare_collections()
def get_ready(
    cfg: Config, last: int, notes: Sequence[str], seed: int | None
) -> tuple[Place, Log, Trainer]:
    """All that comes before the clock, phase by phase; where it leaves off, training can begin."""
    place = join_job()
    log = Log(place.rank)
    try:
        trainer = build(place, log, cfg, last, notes, seed)
    except BaseException:
        log.close()
        raise
    return place, log, trainer


def train(
    cfg: Config, last: int | None = None, notes: Sequence[str] = (), seed: int | None = None
) -> None:
    """One run from nothing to the final validation, in this process as one rank of the job."""
    last = cfg.total_steps if last is None else min(last, cfg.total_steps)
    (rank, world, device, *_), log, trainer = get_ready(cfg, last, notes, seed)
    trainer.run(last)
    checkpoint = os.environ.get("SPEEDRUN_CHECKPOINT")
    if checkpoint and rank == 0:
        save_checkpoint(Path(checkpoint), trainer, last)
        log.write(f"checkpoint saved to {checkpoint}")
    if device.type == "cuda":
        log.write(
            f"peak memory allocated: {torch.cuda.max_memory_allocated() >> 20} MiB "
            f"reserved: {torch.cuda.max_memory_reserved() >> 20} MiB"
        )
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()
    log.close()


# ============================================================================================
# Checkpoint and scorer
# ============================================================================================
def save_checkpoint(path: Path, trainer: Trainer, step: int) -> None:
    """Weights, rotary frequencies and what the scorer must know; safetensors where installed."""
    short, long = trainer.validation_windows(step)
    about = {
        "config": json.dumps(asdict(trainer.cfg)),
        "softmax_scale": repr(trainer.yarn.scale),
        "window_short": str(short),
        "window_long": str(long),
        "step": str(step),
    }
    tensors = {n: t.detach().cpu().contiguous() for n, t in trainer.model.state_dict().items()}
    tensors["yarn_frequencies"] = torch.from_numpy(trainer.yarn.frequencies.copy())
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        from safetensors.torch import save_file
    except ImportError:
        torch.save({"tensors": tensors, "about": about}, path)
    else:
        save_file(tensors, path, metadata=about)


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and facts of a checkpoint in either form; no pickled code is ever run."""
    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"
    if zipped:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        return stored["tensors"], stored["about"]
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def config_from(text: str) -> Config:
    """Config from its JSON form."""
    raw = json.loads(text)
    tuples = {k: tuple(v) for k, v in raw.items() if isinstance(v, list) and k != "stages"}
    stages = tuple(
        Stage(**{k: tuple(v) if isinstance(v, list) else v for k, v in s.items()})
        for s in raw["stages"]
    )
    return Config(**{**raw, **tuples, "stages": stages})


class Scorer:
    """Scores token streams with a trained model as its final validation did.

    The stream is cut into blocks of Config.val_tokens_per_rank inputs; a block starts with no
    context. Within a block a token sees its own document, and through the smear, the key offset
    and the bigram hash its neighbour whatever document that is of.

    Whatever is asked, the model runs on whole blocks and the head on 1024 rows at a time, filled up
    where there is less. Products of one shape take one kernel and sum a row in one order; another
    shape may round a bf16 logit to its neighbour, 0.06 to 0.125 nats away. So the same token after
    the same text gets the same bits, however long the text is and whatever else is asked for.
    """

    ROWS = 1024

    def __init__(self, model: GPT, windows: tuple[int, int], softmax_scale: float) -> None:
        self.model = model
        self.windows = tuple(map(host_number, windows))
        self.scale = host_number(softmax_scale)
        self.block = model.cfg.val_tokens_per_rank
        # Compiled as the validation was: op by op, each intermediate is rounded to bf16.
        self.trunk = maybe_compiled(model.trunk, model.cfg)

    def _features(self, tokens: np.ndarray) -> Tensor:
        """Final stream (T, D) of at most one block of tokens, filled up with one more document."""
        bos = self.model.cfg.bos_id
        buffer = np.full(self.block + 1, 1 if bos == 0 else 0, dtype=np.uint16)
        buffer[: len(tokens)] = tokens
        buffer[len(tokens)] = bos
        batch = unaligned_batch(buffer, self.model.cfg, self.model.device)
        return self.trunk(
            batch.tokens, batch.cu_seqlens, batch.bigram_rows, False, *self.windows, self.block,
            self.scale,
        )[0][: len(tokens)]  # fmt: skip

    def _rows(self, features: Tensor) -> Iterator[Tensor]:
        """Log-probabilities (up to 1024, V) fp32 for each 1024 rows of features (N, D)."""
        for part in features.split(self.ROWS):
            filled = F.pad(part, (0, 0, 0, self.ROWS - len(part)))
            z = softcap_reference((filled @ self.model.lm_head).float())
            yield z[: len(part)].log_softmax(-1)

    @torch.no_grad()
    def nll(self, tokens: Any) -> Tensor:
        """tokens (T,) -> (T - 1,) fp32 on the CPU: nats of tokens[1:]."""
        flat = np.asarray(tokens).astype(np.uint16).reshape(-1)
        out = [torch.zeros(0)]
        for start in range(0, len(flat) - 1, self.block):
            targets = torch.from_numpy(flat[start + 1 : start + 1 + self.block].astype(np.int64))
            targets = targets.to(self.model.device)
            features = self._features(flat[start : start + self.block])[: len(targets)]
            for rows, wanted in zip(self._rows(features), targets.split(self.ROWS), strict=True):
                out.append(-rows.gather(1, wanted[:, None])[:, 0].cpu())
        return torch.cat(out)

    @torch.no_grad()
    def logprobs(self, tokens: Any, positions: Any) -> Tensor:
        """Row i: log-probabilities (V,) of the token that follows tokens[positions[i]].

        So nll(tokens)[p] == -logprobs(tokens, [p])[0, tokens[p + 1]]. fp32, on the CPU.
        """
        flat = np.asarray(tokens).astype(np.uint16).reshape(-1)
        wanted = np.asarray(positions, dtype=np.int64).reshape(-1)
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= len(flat)):
            raise IndexError(f"positions must lie in 0 .. {len(flat) - 1}")
        out = torch.empty(len(wanted), self.model.cfg.vocab_size)
        for block in np.unique(wanted // self.block):
            here = torch.from_numpy(np.flatnonzero(wanted // self.block == block))
            start = int(block) * self.block
            features = self._features(flat[start : start + self.block])
            picked = features[(torch.from_numpy(wanted)[here] - start).to(self.model.device)]
            for rows, places in zip(self._rows(picked), here.split(self.ROWS), strict=True):
                out[places] = rows.cpu()
        return out


def load_scorer(path: str | Path, device: str | torch.device) -> Scorer:
    """The model of a checkpoint, ready to score on `device`; FP8 is not used in scoring."""
    device = torch.device(device)
    tensors, about = load_checkpoint(Path(path))
    cfg = replace(config_from(about["config"]), fp8_mlp=False, fp8_head=False, fp8_down=False)
    cfg, _ = fit_to_device(cfg, device)
    use_attention(find_attention(device))
    frequencies = tensors.pop("yarn_frequencies").numpy()
    model = GPT(cfg, torch.device("meta")).to_empty(device=device)
    model.device = device
    model.load_state_dict(tensors)
    model.set_rotary(frequencies)
    windows = int(about["window_short"]), int(about["window_long"])
    return Scorer(model.eval().requires_grad_(False), windows, float(about["softmax_scale"]))


# ============================================================================================
# Main
# ============================================================================================
def parse(argv: Sequence[str]) -> tuple[Config, dict[str, Any]]:
    """Arguments -> configuration and run options; none at all is the record program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--record",
        type=int,
        default=DEFAULT_RECORD,
        choices=sorted(RECORDS),
        help=f"program of this record ({DEFAULT_RECORD})",
    )
    parser.add_argument("--ablate", default="", metavar="A,B", help=f"switch off: {switches(True)}")
    parser.add_argument("--enable", default="", metavar="A,B", help=f"switch on: {switches(False)}")
    parser.add_argument("--steps", type=int, help="stop after this many steps of the schedule")
    parser.add_argument("--schedule", type=int, help="squeeze the schedule into this many steps")
    parser.add_argument("--val-every", type=int, help="validate every so many steps (250)")
    parser.add_argument("--seed", type=int, help="seed of the initial weights (default: none)")
    parser.add_argument(
        "--compile-for", type=int, metavar="RANKS",
        help="train nothing: fill $TORCHINDUCTOR_CACHE_DIR on one GPU for a run of RANKS",
    )  # fmt: skip
    given = parser.parse_args(argv)
    cfg, notes = record_config(given.record), []
    if given.record != DEFAULT_RECORD:
        notes.append(f"program of record #{given.record}")
    for names, value in ((given.ablate, False), (given.enable, True)):
        chosen, known = [n for n in names.split(",") if n], switches(not value, cfg)
        for name in chosen:
            if name not in known:
                parser.error(f"{name!r} is none of {', '.join(known) or 'nothing'}")
            cfg = replace(cfg, **{name: value})
        if chosen:
            word = "on" if value else "off"
            notes.append(f"ablation: {', '.join(chosen)} {word}; this is not the record program")
    if given.schedule is not None:
        if given.schedule < 6:
            parser.error("--schedule needs at least 6 steps, two a stage")
        squeeze = given.schedule / cfg.scheduled_steps
        cfg = replace(
            cfg,
            scheduled_steps=given.schedule,
            momentum_warmup=max(1, round(cfg.momentum_warmup * squeeze)),
            momentum_cooldown=max(1, round(cfg.momentum_cooldown * squeeze)),
        )
        notes.append(f"schedule: {given.schedule} scheduled steps; this is not the record program")
    if given.val_every is not None:
        cfg = replace(cfg, val_every=given.val_every)
    if given.steps is not None:
        if given.steps < 1:
            parser.error("--steps must be at least 1")
        notes.append(f"stopping after {given.steps} steps; this is not the record program")
    return cfg, {
        "last": given.steps,
        "notes": notes,
        "seed": given.seed,
        "compile_for": given.compile_for,
    }


def main(argv: Sequence[str] | None = None) -> int:
    cfg, options = parse(sys.argv[1:] if argv is None else argv)
    ranks = options.pop("compile_for")
    try:
        if ranks is None:
            train(cfg, **options)
        else:
            compile_for(cfg, ranks)
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
