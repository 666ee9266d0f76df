"""Score the final weights again: the harness's own loop over the official tokens, and the probes.

The candidate's scorer is a black box in a child process: texts go in, scores come out. What makes
a score believable is asked of the box itself: does the row for a position hang on what follows it
(nanochat #845 and parameter-golf #1240 probe so), is it a distribution, does it give the target's
score, does an answer depend on what was asked before. Probed places and replacements are drawn
after the weights were written, from the operating system's randomness.
"""

from __future__ import annotations

import random
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from harness.audit_report import Probe, ScorerFacts
from harness.data.shard import HEADER_BYTES, header_faults, read_header
from harness.runner.scorer_process import ScorerError, ScorerProcess

if TYPE_CHECKING:
    from harness.runner.scorer_process import Floats, Tokens

POSITIONS = 16
TRUNCATED = 4
PROBE_TOKENS = {"cpu": 1 << 13, "cuda": 1 << 18}
"""Text that the probes run over. On GPUs it spans blocks of 65,536 tokens, the record's own."""
VISIBLE_LOGPROB = -14.0
"""Rows are compared where p > 8e-7: below, there is bf16 rounding of large negative logits."""
Place = Literal["start", "document", "border", "random", "last"]


def read_validation(path: Path, targets: int) -> Tokens:
    """The first targets + 1 tokens of a shard. Raises ScorerError where they are not there."""
    import numpy as np

    try:
        header = read_header(path)
        faults = header_faults(header, path.stat().st_size)
        if faults:
            raise ScorerError(f"{path.name}: {faults[0]}")
        raw = np.fromfile(path, dtype="<u2", count=targets + 1, offset=HEADER_BYTES)
    except OSError as error:
        raise ScorerError(f"{path.name} cannot be read: {error.strerror}") from None
    if len(raw) < 2:
        raise ScorerError(f"{path.name} holds no text")
    return raw.astype(np.uint32)


def score(
    process: ScorerProcess,
    *,
    script: Path,
    checkpoint: Path,
    device: str,
    validation: Path,
    targets: int,
    bos: int,
    printed_nats: float | None,
) -> ScorerFacts:
    """Everything that is asked of one scorer. Never raises: a scorer that fails is a fact."""
    started = time.monotonic()
    seed = secrets.randbits(48)
    size = checkpoint.stat().st_size
    facts = ScorerFacts(
        status="failed", printed_nats=printed_nats, checkpoint_bytes=size, seed=seed
    )
    try:
        tokens = read_validation(validation, targets)
        process.load(script, checkpoint, device)
        window = process.window or 0
        length = min(len(tokens) - 1, PROBE_TOKENS.get(device, 1 << 13), window or targets)
        facts = _probe(process, tokens[: length + 1], facts, random.Random(seed), bos, tokens)
        losses = _windows(process, tokens, window)
        early, late = losses[:length].astype(float), _early(process, tokens, length).astype(float)
        process.finish()
    except ScorerError as error:
        return facts.model_copy(update={"status": "failed", "detail": str(error)})
    moved = early - late
    return facts.model_copy(
        update={
            "status": "scored",
            "tokens": len(losses),
            "mean_nats": _number(losses.astype(float).mean()),
            "window": window or None,
            "seconds": round(time.monotonic() - started, 3),
            "longer_moved": _number(abs(moved).mean()),
            "longer_bias": _number(moved.mean()),
            "negative": int((losses < -1e-6).sum()),
            "files_read": tuple(
                Path(path).name for path in process.opened if Path(path) != checkpoint.resolve()
            ),
        }
    )


def _windows(process: ScorerProcess, tokens: Tokens, window: int) -> Floats:
    """Nats of tokens[1:], in one call, or in windows of the length that the module states."""
    import numpy as np

    if not window:
        return process.nll(tokens)
    parts = [
        process.nll(tokens[start : start + window + 1])
        for start in range(0, len(tokens) - 1, window)
    ]
    return np.concatenate(parts)


def _early(process: ScorerProcess, tokens: Tokens, length: int) -> Floats:
    """The first scores again, with nothing after them."""
    return process.nll(tokens[: length + 1])


def _probe(
    process: ScorerProcess,
    text: Tokens,
    facts: ScorerFacts,
    draw: random.Random,
    bos: int,
    whole: Tokens,
) -> ScorerFacts:
    import numpy as np

    places = choose_positions(text, bos, draw)
    base = process.nll(text)
    at = [position for position, _ in places]
    rows = process.logprobs(text, at)
    probes = []
    for i, (position, place) in enumerate(places):
        change: Literal["one", "suffix"] = "suffix" if i % 2 else "one"
        other = replace_after(text, position, change, draw, bos)
        scores = process.nll(other)
        row = process.logprobs(other, [position])[0]
        cut = None
        if i % (POSITIONS // TRUNCATED) == 0:
            cut = _moved(rows[i], process.logprobs(text[: position + 1], [position])[0])
        earlier = np.abs(scores[:position].astype(float) - base[:position])
        shifted = rows[i].astype(float)
        peak = shifted.max()
        probes.append(
            Probe(
                position=position,
                change=change,
                place=place,
                log_sum=_number(peak + np.log(np.exp(shifted - peak).sum())),
                disagreement=_number(abs(float(base[position] + rows[i][text[position + 1]]))),
                row_moved=_moved(rows[i], row),
                earlier_moved=_number(earlier.max() if position else 0.0),
                swapped_disagreement=_number(
                    abs(float(scores[position] + rows[i][other[position + 1]]))
                ),
                truncated_moved=cut,
            )
        )
    # Score before update: the same text again after another one, and after all of the above.
    shuffled = text.copy()
    np.random.default_rng(draw.randrange(2**32)).shuffle(shuffled[1:])
    process.nll(shuffled)
    repeat = np.abs(process.nll(text).astype(float) - base)
    half = len(text) // 2
    tail = whole[half : half + len(text)]
    first = process.nll(tail)
    process.nll(text)
    order = np.abs(process.nll(tail).astype(float) - first)
    return facts.model_copy(
        update={
            "probe_tokens": len(text) - 1,
            "repeat_moved": _number(repeat.max()),
            "order_moved": _number(order.max()),
            "probes": tuple(probes),
        }
    )


def choose_positions(text: Tokens, bos: int, draw: random.Random) -> list[tuple[int, Place]]:
    """Up to 16 positions p < len(text) - 1: starts and ends of documents, powers of two and their
    multiples (where batches and windows end), random ones, the first and the last."""
    import numpy as np

    last = len(text) - 2
    chosen: dict[int, Place] = {}

    def add(position: int, place: Place) -> None:
        if 0 <= position <= last:
            chosen.setdefault(position, place)

    add(0, "start")
    add(last, "last")
    starts = np.flatnonzero(text[1:] == bos) + 1
    for start in draw.sample([int(s) for s in starts], min(2, len(starts))):
        add(start - 1, "document")
        add(start, "document")
    for power in (7, 10, 12, 16):
        multiples = [m for m in range(1 << power, last, 1 << power)][:4096]
        if multiples:
            border = draw.choice(multiples)
            add(border - 1, "border")
            add(border, "border")
    for _ in range(200):
        if len(chosen) >= min(POSITIONS, last + 1):
            break
        add(draw.randint(0, last), "random")
    return sorted(chosen.items())[:POSITIONS]


def replace_after(
    text: Tokens, position: int, change: str, draw: random.Random, bos: int
) -> Tokens:
    """The text with other tokens after `position`, taken from itself; documents stay."""
    import numpy as np

    other = text.copy()
    pool = np.unique(text[text != bos])
    if len(pool) < 2:
        pool = np.array([0, 1], dtype=text.dtype)
    target = int(text[position + 1])
    other[position + 1] = draw.choice([int(t) for t in pool if int(t) != target])
    if change == "suffix":
        generator = np.random.default_rng(draw.randrange(2**32))
        places = np.flatnonzero(text[position + 2 :] != bos) + position + 2
        other[places] = generator.choice(pool, len(places))
    return other


def _moved(row: Floats, other: Floats) -> float:
    import numpy as np

    if row.shape != other.shape:
        return 1e9
    seen = (row > VISIBLE_LOGPROB) | (other > VISIBLE_LOGPROB)
    with np.errstate(invalid="ignore"):
        moved = np.abs(row.astype(float) - other.astype(float))[seen]
    return _number(moved.max() if moved.size else 1e9)


def _number(value: float) -> float:
    """A float that JSON can hold: what is not finite is enormous."""
    number = float(value)
    return number if abs(number) < 1e9 else 1e9
