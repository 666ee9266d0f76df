"""The standing record of the tiny track: a small GPT trained by AdamW, in one file.

    torchrun --standalone --nproc-per-node=2 baseline/tiny.py

It reads data/tiny/*.bin under DATA_PATH (default: here), trains on the CPU with one thread a
process, and prints its validation loss and its training time. Read it from top to bottom:
hyperparameters, data, model, optimizer, checkpoint and scorer, training.
"""

from __future__ import annotations

import copy
import os
import platform
import secrets
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

# --------------------------------------------------------------------------------------------------
# Hyperparameters


@dataclass(frozen=True)
class Config:
    # Data: the global batch is the same for every world size.
    train_files: str = "data/tiny/tiny_train_*.bin"
    val_files: str = "data/tiny/tiny_val_*.bin"
    val_tokens: int = 32_768  # the targets: all of the shard but its first token
    seq_len: int = 128
    batch_seqs: int = 8
    # Model
    vocab_size: int = 256
    layers: int = 2
    dim: int = 96
    heads: int = 2
    # Optimizer: AdamW on everything (NOTES.md has the sweep behind these values)
    steps: int = 345
    lr: float = 0.010
    betas: tuple[float, float] = (0.8, 0.95)
    weight_decay: float = 0.0
    lr_warmup_steps: int = 10
    cooldown: float = 0.5  # the last part of the run, in which the learning rate falls to zero
    # Protocol
    val_every: int = 80
    untimed_steps: int = 3
    seed: int | None = None  # None: from the operating system, so that no two runs are the same


# --------------------------------------------------------------------------------------------------
# Data: token shards are 256 int32 (magic, version, count), then uint16 tokens


def read_shard(path: Path) -> np.ndarray:
    """The shard's tokens, uint16, mapped and not yet read."""
    header = np.fromfile(path, dtype="<i4", count=256)
    if len(header) < 256 or header[0] != 20240520 or header[1] != 1:
        raise SystemExit(f"{path} is no token shard of version 1")
    return np.memmap(path, dtype="<u2", mode="r", offset=1024, shape=(int(header[2]),))


def shards(pattern: str) -> list[Path]:
    root = Path(os.environ.get("DATA_PATH", "."))
    paths = sorted(root.glob(pattern))
    if not paths:
        raise SystemExit(f"no file {root / pattern}: set DATA_PATH to the folder that holds data/")
    return paths


def train_batches(config: Config, rank: int, world: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets of this rank, (batch_seqs / world, seq_len) int64 each.

    The stream is read once, in order: step k takes its k-th slice of batch_seqs * seq_len tokens,
    and rank r the r-th part of the slice. Nothing is opened before the first batch is asked for.
    """
    batch_tokens = config.batch_seqs * config.seq_len
    rank_tokens = batch_tokens // world
    for path in shards(config.train_files):
        tokens = read_shard(path)
        for start in range(0, len(tokens) - batch_tokens, batch_tokens):
            first = start + rank * rank_tokens
            part = torch.from_numpy(tokens[first : first + rank_tokens + 1].astype(np.int64))
            yield part[:-1].view(-1, config.seq_len), part[1:].view(-1, config.seq_len)
    raise SystemExit("the training tokens are used up")


# --------------------------------------------------------------------------------------------------
# Model: a pre-norm transformer with rotary positions, normed queries and keys, and ReLU^2


def norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.size(-1),))


class GPT(nn.Module):
    """Tokens (B, T) to logits (B, T, V).

    All matrices of a kind lie in one bank, so that an optimizer meets four tensors: ``attn[i]``
    holds Wq, Wk, Wv and Wo of layer i, and ``mlp[i]`` the way up and, transposed, the way down.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        layers, dim, vocab = config.layers, config.dim, config.vocab_size
        self.embed = nn.Parameter(0.05 * torch.randn(vocab, dim))
        # Rows start with norm 0.5, what writes to the residual stream and the head with zero: the
        # first loss is ln(vocab) exactly, and the first steps train a bigram model.
        bound = 0.5 * (3 / dim) ** 0.5
        self.attn = nn.Parameter(torch.empty(layers, 4, dim, dim).uniform_(-bound, bound))
        self.mlp = nn.Parameter(torch.empty(layers, 2, 4 * dim, dim).uniform_(-bound, bound))
        self.head = nn.Parameter(torch.zeros(vocab, dim))
        with torch.no_grad():
            self.attn[:, 3].zero_()
            self.mlp[:, 1].zero_()
        # Half of a head's channels turn against the other half, from 1 to 1/1024 radians a token.
        frequencies = (1 / 1024) ** torch.linspace(0, 1, dim // config.heads // 2)
        angles = torch.outer(torch.arange(config.seq_len, dtype=torch.float32), frequencies)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def rotate(self, x: Tensor) -> Tensor:
        x1, x2 = x.chunk(2, dim=-1)
        cos, sin = self.cos[: x.size(-2)], self.sin[: x.size(-2)]
        return torch.cat([x1 * cos + x2 * sin, x2 * cos - x1 * sin], dim=-1)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, length = tokens.shape
        heads = (batch, length, 3, self.config.heads, -1)
        x = norm(F.embedding(tokens, self.embed))
        for attn, mlp in zip(self.attn.unbind(0), self.mlp.unbind(0), strict=True):
            w_qkv, w_out = attn.split([3, 1])
            qkv = F.linear(norm(x), w_qkv.flatten(0, 1)).view(heads)
            q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, T, dim / heads) each
            q, k = self.rotate(norm(q)), self.rotate(norm(k))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + F.linear(y.transpose(1, 2).flatten(2), w_out[0])
            w_up, w_down = mlp.unbind(0)
            x = x + F.linear(norm(x), w_up).relu().square() @ w_down
        return F.linear(norm(x), self.head)

    def loss(self, inputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        """Cross entropy in nats."""
        return F.cross_entropy(self(inputs).flatten(0, 1), targets.flatten(), reduction=reduction)


@torch.no_grad()
def validate(model: GPT, config: Config, rank: int, world: int) -> float:
    """Mean nats over the first val_tokens targets, in separate sequences of seq_len."""
    tokens = read_shard(shards(config.val_files)[0])[: config.val_tokens + 1].astype(np.int64)
    if len(tokens) != config.val_tokens + 1:
        raise SystemExit(f"the validation shard holds fewer than {config.val_tokens + 1} tokens")
    inputs = torch.from_numpy(tokens[:-1]).view(-1, config.seq_len)[rank::world]
    targets = torch.from_numpy(tokens[1:]).view(-1, config.seq_len)[rank::world]
    total = torch.zeros((), dtype=torch.float64)
    for part, wanted in zip(inputs.split(32), targets.split(32), strict=True):
        total += model.loss(part, wanted, reduction="sum")
    if world > 1:
        dist.all_reduce(total)
    return total.item() / config.val_tokens


# --------------------------------------------------------------------------------------------------
# Optimizer


def flat_gradients(model: GPT) -> Tensor:
    """One buffer behind all gradients: a single all-reduce a step, and a single fill with zero."""
    parameters = list(model.parameters())
    flat = torch.zeros(sum(p.numel() for p in parameters))
    for p, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        p.grad = part.view_as(p)
    return flat


class Optimizer:
    """AdamW, replicated: every rank holds all moments and makes the same update.

    Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019.
    """

    def __init__(self, model: GPT, config: Config, world: int) -> None:
        self.config, self.world = config, world
        self.grads = flat_gradients(model)
        groups = [
            {"params": [model.attn, model.mlp, model.head], "weight_decay": config.weight_decay},
            {"params": [model.embed], "weight_decay": 0.0},
        ]
        self.adamw = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)

    def step(self, step: int) -> None:
        """The update after step ``step`` (from 0); gradients are zero again afterwards."""
        if self.world > 1:
            dist.all_reduce(self.grads)
            self.grads /= self.world
        for group in self.adamw.param_groups:
            group["lr"] = self.config.lr * lr_factor(step, self.config)
        self.adamw.step()
        self.grads.zero_()


def lr_factor(step: int, config: Config) -> float:
    """Linear warm-up, constant, then linear to zero over the last part of the run."""
    warm = min(1.0, (step + 1) / max(1, config.lr_warmup_steps))
    return warm * min(1.0, (1 - step / config.steps) / config.cooldown)


# --------------------------------------------------------------------------------------------------
# Checkpoint and scorer: how others re-score the final weights


def save_checkpoint(model: GPT, path: Path) -> None:
    """safetensors where installed, else a weights-only torch file; complete or absent."""
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        from safetensors.torch import save_file
    except ImportError:
        torch.save(weights, partial)
    else:
        save_file(weights, partial)
    partial.replace(path)


class Scorer:
    """Scores tokens as validation does: in separate sequences of seq_len from the first token on.

    All is computed in calls of one shape, so both methods give the same value for the same token.
    """

    SEQUENCES = 32  # in a call

    def __init__(self, model: GPT) -> None:
        self.model = model

    @torch.no_grad()
    def rows(self, tokens: Sequence[int] | Tensor) -> Iterator[Tensor]:
        """Log-probabilities (up to 4096, V) of the token after each, part by part."""
        seq_len = self.model.config.seq_len
        size = self.SEQUENCES * seq_len
        for part in torch.as_tensor(tokens).to("cpu", torch.int64).flatten().split(size):
            padded = F.pad(part, (0, size - len(part))).view(self.SEQUENCES, seq_len)
            yield self.model(padded).flatten(0, 1)[: len(part)].log_softmax(-1)

    def nll(self, tokens: Sequence[int] | Tensor) -> Tensor:
        """Nats of tokens[1:], float32 (T - 1,)."""
        wanted = torch.as_tensor(tokens).to("cpu", torch.int64).flatten()[1:]
        parts, start = [torch.empty(0)], 0
        for rows in self.rows(tokens):
            targets = wanted[start : start + len(rows)]
            parts.append(-rows[: len(targets)].gather(1, targets[:, None])[:, 0])
            start += len(rows)
        return torch.cat(parts)

    def logprobs(self, tokens: Sequence[int] | Tensor, positions: Sequence[int] | Tensor) -> Tensor:
        """Natural log-probabilities of what follows tokens[p] for each p, (len(positions), V)."""
        return torch.cat(list(self.rows(tokens)))[torch.as_tensor(positions).to(torch.int64)]


def load_scorer(path: str | Path, device: str | torch.device = "cpu") -> Scorer:
    """The scorer of a checkpoint that was written under SPEEDRUN_CHECKPOINT; it runs on the CPU."""
    with Path(path).open("rb") as file:
        is_zip = file.read(2) == b"PK"  # torch.save writes a zip archive
    if is_zip:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    else:
        from safetensors.torch import load_file

        weights = load_file(path)
    model = GPT(Config())
    model.load_state_dict(weights)
    return Scorer(model.eval())


# --------------------------------------------------------------------------------------------------
# Training


class Clock:
    """Training time in ms: it runs between start and stop, and all ranks meet at both."""

    def __init__(self, world: int) -> None:
        self.barrier = dist.barrier if world > 1 else lambda: None
        self.seconds, self.started = 0.0, 0.0

    def start(self) -> None:
        self.barrier()
        self.started = time.perf_counter()

    def stop(self) -> float:
        self.barrier()
        self.seconds += time.perf_counter() - self.started
        return 1000 * self.seconds

    def running_ms(self) -> float:
        return 1000 * (self.seconds + time.perf_counter() - self.started)


def make_printer(rank: int) -> Callable[[str], None]:
    """Rank 0 prints, and keeps logs/<uuid>.txt: source, a line of 100 '=', then what it prints."""
    if rank:
        return lambda line: None
    path = Path("logs") / f"{uuid.uuid4()}.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text(Path(__file__).read_text(encoding="utf-8") + "=" * 100 + "\n", encoding="utf-8")

    def say(line: str) -> None:
        print(line, flush=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    return say


def main(config: Config = Config()) -> None:
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world not in (1, 2, 4):
        raise SystemExit(f"the tiny track runs with 1, 2 or 4 processes, not {world}")
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo")
    say = make_printer(rank)
    seed = secrets.randbits(32) if config.seed is None else config.seed
    say(f"Python {platform.python_version()}, PyTorch {torch.__version__}, {platform.platform()}")
    say(f"{world} processes, seed {seed}, {asdict(config)}")
    torch.manual_seed(seed)
    model = GPT(config)
    if world > 1:
        for p in model.parameters():
            dist.broadcast(p.data, src=0)  # rank 0's seed decides

    def train_step(step: int, optimizer: Optimizer, batch: tuple[Tensor, Tensor]) -> None:
        model.loss(*batch).backward()
        optimizer.step(step)

    # Untimed: a few steps to make connections, buffers and kernels ready; then all is as before.
    initial = copy.deepcopy(model.state_dict())
    optimizer = Optimizer(model, config, world)
    for batch in islice(train_batches(config, rank, world), config.untimed_steps):
        train_step(0, optimizer, batch)
    model.load_state_dict(initial)
    optimizer = Optimizer(model, config, world)
    batches = train_batches(config, rank, world)

    clock = Clock(world)
    clock.start()
    for step in range(config.steps + 1):
        if step == config.steps or step % config.val_every == 0:
            ms = clock.stop()
            val_loss = validate(model, config, rank, world)
            say(
                f"step:{step}/{config.steps} val_loss:{val_loss:.6f} "
                f"train_time:{ms:.0f}ms step_avg:{ms / max(step, 1):.2f}ms"
            )
            if step == config.steps:
                break
            clock.start()
        train_step(step, optimizer, next(batches))
        ms = clock.running_ms()
        say(
            f"step:{step + 1}/{config.steps} train_time:{ms:.0f}ms step_avg:{ms / (step + 1):.2f}ms"
        )

    checkpoint = os.environ.get("SPEEDRUN_CHECKPOINT")
    if rank == 0 and checkpoint:
        save_checkpoint(model, Path(checkpoint))
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
    # Everything is written. Leave without the interpreter's own shutdown, in which gloo's threads
    # once in some fifty runs abort ("terminate called without an active exception", torch 2.13).
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
