"""A trainer of some thousand parameters that fulfils the whole contract in a second.

Tests of the audit start it as it is (the honest one) or with lines replaced (a cheat). It never
imports torch.optim, whose first step loads the compiler and takes longer than all of this.
"""

import copy
import os
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

VOCAB, DIM, WINDOW, SEQUENCE, BATCH = 32, 24, 4, 64, 32
STEPS, EVERY, WARMUP, RATE = 30, 15, 2, 0.02
VAL_TOKENS = 8192
ROOT = Path(os.environ.get("DATA_PATH", "."), "data", "mini")
torch.set_num_threads(1)


def read(name):
    """Tokens of a shard, (T,) int64."""
    data = (ROOT / name).read_bytes()[1024:]
    return torch.frombuffer(bytearray(data), dtype=torch.int16).long()


class Model(nn.Module):
    """Logits from the mean of the last tokens' vectors, the token's own and the one before."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Parameter(torch.randn(VOCAB, DIM))
        self.before = nn.Parameter(torch.randn(VOCAB, DIM))
        self.hidden = nn.Parameter(torch.randn(DIM, DIM) / DIM**0.5)
        self.head = nn.Parameter(torch.zeros(DIM, VOCAB))

    def forward(self, tokens):
        """(B, T) -> (B, T, VOCAB)."""
        x = self.embed[tokens]
        window = F.pad(x, (0, 0, WINDOW - 1, 0)).unfold(1, WINDOW, 1).mean(-1)
        smear = F.pad(self.before[tokens], (0, 0, 1, -1))
        return F.relu((x + window + smear) @ self.hidden) @ self.head


def batches():
    """Inputs and targets of each step, in the stream's order. The shard is read at the first."""
    tokens = read("mini_train_000001.bin")
    size = BATCH * SEQUENCE
    for start in range(0, len(tokens) - size, size):
        part = tokens[start : start + size + 1]
        yield part[:-1].view(BATCH, SEQUENCE), part[1:].view(BATCH, SEQUENCE)


def train_step(model, moments, batch, rate):
    inputs, targets = batch
    F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).backward()
    with torch.no_grad():
        for p, moment in zip(model.parameters(), moments, strict=True):
            moment.lerp_(p.grad.square(), 0.1)
            p -= rate * p.grad / (moment.sqrt() + 1e-8)
            p.grad = None


def moments_of(model):
    return [torch.zeros_like(p) for p in model.parameters()]


@torch.no_grad()
def validate(model):
    """Mean nats over the first VAL_TOKENS targets."""
    tokens = read("mini_val.bin")[: VAL_TOKENS + 1]
    inputs, targets = tokens[:-1].view(-1, SEQUENCE), tokens[1:].view(-1, SEQUENCE)
    return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).item()


class Scorer:
    """Scores a text as validation does: in sequences from its first token on."""

    def __init__(self, model):
        self.model = model

    @torch.no_grad()
    def rows(self, tokens):
        count = len(tokens)
        padded = F.pad(tokens, (0, -count % SEQUENCE)).view(-1, SEQUENCE)
        return self.model(padded).log_softmax(-1).flatten(0, 1)[:count]

    def nll(self, tokens):
        return -self.rows(tokens)[:-1].gather(1, tokens[1:, None])[:, 0]

    def logprobs(self, tokens, positions):
        return self.rows(tokens)[torch.tensor(positions)]


def load_scorer(path, device):
    model = Model()
    model.load_state_dict(torch.load(path, weights_only=True))
    return Scorer(model.to(device))


def main():
    model = Model()
    initial = copy.deepcopy(model.state_dict())
    moments, stream = moments_of(model), batches()
    for _ in range(WARMUP):
        train_step(model, moments, next(stream), RATE)
    model.load_state_dict(initial)
    moments, stream = moments_of(model), batches()
    # The clock starts here.
    seconds, started = 0.0, time.perf_counter()
    for step in range(STEPS + 1):
        if step % EVERY == 0 or step == STEPS:
            seconds += time.perf_counter() - started
            loss = validate(model)
            print(
                f"step:{step}/{STEPS} val_loss:{loss:.6f} train_time:{1000 * seconds:.0f}ms "
                f"step_avg:{1000 * seconds / max(step, 1):.2f}ms",
                flush=True,
            )
            started = time.perf_counter()
        if step == STEPS:
            break
        train_step(model, moments, next(stream), RATE * (1 - step / STEPS))
        ms = 1000 * (seconds + time.perf_counter() - started)
        print(f"step:{step + 1}/{STEPS} train_time:{ms:.0f}ms step_avg:{ms:.2f}ms", flush=True)
    if os.environ.get("SPEEDRUN_CHECKPOINT"):
        torch.save(model.state_dict(), os.environ["SPEEDRUN_CHECKPOINT"])


if __name__ == "__main__":
    main()
