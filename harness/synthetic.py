"""The tiny track's data: a seeded synthetic language with a known entropy rate.

The source (V = 256 tokens) is hierarchical, and every latent choice is visible in the tokens, so
the probability of each token given all earlier ones is known exactly:

    document   BOS, topic, name 1, name 2, then phrases; after each phrase it ends with p = 1/8
    phrase     head, then the slots of the head's template (3 to 6 tokens)
    head       first one uniform; then a successor of the previous phrase's head
    slot  T    a word of the slot's class, ranked by the topic             (long-range)
          N    name 1 (3/4) or name 2 (1/4) of this document               (long-range copy)
          B    a successor of the previous token                           (bigram)
          S    a successor of the token before that                        (skip-bigram)
          A    the word that agrees with the head                          (deterministic)

Every choice draws a *rank* from one fixed integer distribution of its kind, and the context only
decides which token that rank names (injectively). So the entropy of a choice does not depend on
the context. Heads move by ``head' = sigma[head] + delta[rank] mod 32``, a bijection in head for
each rank; the first head is uniform, hence all are, and every template is used equally often.
With K = 8 phrases a document on average (geometric), the renewal theorem gives, exactly,

    rate = (H_topic + H_name1 + H_name2 + ln 32 + (K - 1) H_head + K (H_end + H_slots))
           / (4 + K (1 + slots))            nats a token

where H_slots and slots are the mean nats and the mean number of slots over the 32 templates.

All draws are integers (a counter-based splitmix64 against integer thresholds), so the bytes are
the same on every platform and numpy version. G. Steele, D. Lea, C. Flood, "Fast splittable
pseudorandom number generators", OOPSLA 2014, is the source of splitmix64.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.errors import UnfitError

Tokens = npt.NDArray[np.uint16]
Indices = npt.NDArray[np.int64]

# ------------------------------------------------------------------------------------------------
# Vocabulary, choices and tables of the language

BOS = 0
N_TOPICS, N_NAMES, N_HEADS, N_CLASSES, CLASS_SIZE = 15, 32, 32, 11, 16
TOPIC0 = BOS + 1
NAME0 = TOPIC0 + N_TOPICS
HEAD0 = NAME0 + N_NAMES
WORD0 = HEAD0 + N_HEADS
VOCAB_SIZE = WORD0 + N_CLASSES * CLASS_SIZE  # 256

SEED = 20240520
SCALE = 1 << 16  # every probability is an integer over SCALE
END_ODDS = 8  # a document ends after a phrase with probability 1/END_ODDS
PATTERNS = (
    *("TBN", "NTS", "TNB", "NBT"),
    *("TBSN", "NTBS", "TSBA", "TNBS"),
    *("NTBSA", "TBNTA", "TTBNS", "NBTSB"),
    *("TBNTBS", "NTBNSA", "TSBNTB", "TBTBNA"),
)  # the slots of template h are PATTERNS[h % 16]


def _splitmix(x: int) -> int:
    """One splitmix64 output for the 64-bit state ``x``."""
    mask = (1 << 64) - 1
    x = (x + 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def _shuffled(n: int, *key: int) -> list[int]:
    """A permutation of range(n) that depends on SEED and ``key`` alone (Fisher-Yates)."""
    state = SEED
    for part in key:
        state = _splitmix(state ^ part)
    items = list(range(n))
    for i in range(n - 1, 0, -1):
        state = _splitmix(state)
        j = state % (i + 1)
        items[i], items[j] = items[j], items[i]
    return items


def _scaled(raw: Sequence[int]) -> tuple[int, ...]:
    """Integer weights that sum to SCALE, in proportion to ``raw``; rank 0 takes the rounding."""
    weights = [w * SCALE // sum(raw) for w in raw]
    weights[0] += SCALE - sum(weights)
    return tuple(weights)


def _zipf(n: int) -> tuple[int, ...]:
    return _scaled([10**6 // (rank + 1) for rank in range(n)])


def _geometric(n: int, ratio: int) -> tuple[int, ...]:
    return _scaled([ratio ** (n - 1 - rank) for rank in range(n)])


WEIGHTS: dict[str, tuple[int, ...]] = {
    "topic": _zipf(N_TOPICS),
    "name1": _zipf(N_NAMES),
    "name2": _zipf(N_NAMES - 1),  # among the names that name 1 left over
    "first_head": _scaled([1] * N_HEADS),
    "head": _geometric(8, 2),
    "T": _zipf(CLASS_SIZE),
    "N": (SCALE * 3 // 4, SCALE // 4),
    "B": _geometric(6, 3),
    "S": _geometric(6, 3),
    "A": (SCALE,),
}


def _successors(lag: int, token: int) -> list[int]:
    first = WORD0 + CLASS_SIZE * _shuffled(N_CLASSES, 6, lag, token)[0]
    return [first + i for i in _shuffled(CLASS_SIZE, 7, lag, token)]


NAMES = np.array([_shuffled(N_NAMES, 1, topic) for topic in range(N_TOPICS)])
SIGMA = np.array(_shuffled(N_HEADS, 2))
DELTA = np.array(_shuffled(N_HEADS, 3))
TOPICAL = np.array(
    [[_shuffled(CLASS_SIZE, 4, c, topic) for topic in range(N_TOPICS)] for c in range(N_CLASSES)]
)
SLOT_CLASS = np.array([_shuffled(N_CLASSES, 5, head)[:6] for head in range(N_HEADS)])
AGREEMENT = WORD0 + np.array(_shuffled(N_CLASSES * CLASS_SIZE, 8)[:N_HEADS])
SUCCESSOR = np.array(  # by lag, earlier token and rank: words of one class of 16
    [[_successors(lag, token) for token in range(VOCAB_SIZE)] for lag in (1, 2)]
)


ENTROPY_RATE_NATS = 1.405640173  # of entropy_rate_nats(), a token
VAL_SOURCE_NATS = 1.410120  # what the true source itself scores on the validation shard, a token
MEAN_SLOTS = sum(len(pattern) for pattern in PATTERNS) / len(PATTERNS)
MEAN_DOCUMENT_TOKENS = 4 + END_ODDS * (1 + MEAN_SLOTS)


def _entropy_nats(kind: str) -> float:
    """Entropy of one choice of this kind, in nats."""
    return sum(w / SCALE * log(SCALE / w) for w in WEIGHTS[kind] if w)


def entropy_rate_nats() -> float:
    """The source's entropy rate in nats a token: the closed form of the module's docstring."""
    p_end, phrases = 1 / END_ODDS, END_ODDS
    end_nats = -(p_end * log(p_end) + (1 - p_end) * log(1 - p_end))
    slot_nats = sum(_entropy_nats(s) for pattern in PATTERNS for s in pattern) / len(PATTERNS)
    document_nats = sum(_entropy_nats(kind) for kind in ("topic", "name1", "name2", "first_head"))
    document_nats += (phrases - 1) * _entropy_nats("head") + phrases * (end_nats + slot_nats)
    return document_nats / MEAN_DOCUMENT_TOKENS


# ------------------------------------------------------------------------------------------------
# Generation (vectorised over documents)


def _draw(
    kind: str, stream: int, documents: Indices, positions: Indices
) -> tuple[Indices, npt.NDArray[np.bool_]]:
    """Ranks of the choice ``kind`` for tokens at (document, position), and the end coins there.

    Counter-based: a value depends on (stream, document, position) and on nothing drawn before.
    """
    counters = documents.astype(np.uint64) * np.uint64(1 << 16) + positions.astype(np.uint64)
    x = np.uint64(_splitmix(SEED ^ stream)) + counters * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    high = (x >> np.uint64(48)).astype(np.int64)
    low = (x & np.uint64(SCALE - 1)).astype(np.int64)
    thresholds = np.cumsum(np.array(WEIGHTS[kind], dtype=np.int64))
    return np.searchsorted(thresholds, high, side="right"), low < SCALE // END_ODDS


def generate(n_tokens: int, stream: int) -> Tokens:
    """The first ``n_tokens`` tokens of one of the language's independent streams.

    All documents grow side by side, a phrase at a time, so that numpy does the work. The last
    document is cut where the stream ends.
    """
    n_documents = 256 + int(1.1 * n_tokens / MEAN_DOCUMENT_TOKENS)
    alive = np.arange(n_documents)
    length = np.zeros(n_documents, dtype=np.int64)
    pieces: list[tuple[Indices, Indices, Indices]] = []  # documents, positions, tokens

    def emit(documents: Indices, tokens: Indices) -> None:
        pieces.append((documents, length[documents], tokens))
        length[documents] += 1

    def rank_of(kind: str, documents: Indices) -> Indices:
        return _draw(kind, stream, documents, length[documents])[0]

    emit(alive, np.full(n_documents, BOS))
    topic = rank_of("topic", alive)
    emit(alive, TOPIC0 + topic)
    rank1 = rank_of("name1", alive)
    names = np.zeros((n_documents, 2), dtype=np.int64)
    names[:, 0] = NAME0 + NAMES[topic, rank1]
    emit(alive, names[:, 0])
    rank2 = rank_of("name2", alive)
    names[:, 1] = NAME0 + NAMES[topic, rank2 + (rank2 >= rank1)]
    emit(alive, names[:, 1])

    head = rank_of("first_head", alive)
    while alive.size:
        emit(alive, HEAD0 + head)
        for index, pattern in enumerate(PATTERNS):
            mine = np.flatnonzero(head % len(PATTERNS) == index)
            documents, heads = alive[mine], head[mine]
            phrase = [HEAD0 + heads]
            for slot, kind in enumerate(pattern):
                rank = rank_of(kind, documents)
                if kind == "T":
                    cls = SLOT_CLASS[heads, slot]
                    tokens = WORD0 + CLASS_SIZE * cls + TOPICAL[cls, topic[documents], rank]
                elif kind == "N":
                    tokens = names[documents, rank]
                elif kind == "A":
                    tokens = AGREEMENT[heads]
                else:
                    lag = 1 if kind == "B" else 2
                    tokens = SUCCESSOR[lag - 1, phrase[-lag], rank]
                phrase.append(tokens)
                emit(documents, tokens)
        rank, ends = _draw("head", stream, alive, length[alive])
        head = (SIGMA[head] + DELTA[rank]) % N_HEADS
        alive, head = alive[~ends], head[~ends]

    start = np.cumsum(length) - length
    stream_tokens = np.zeros(int(length.sum()), dtype="<u2")
    for documents, positions, tokens in pieces:
        stream_tokens[start[documents] + positions] = tokens
    return stream_tokens[:n_tokens]


# ------------------------------------------------------------------------------------------------
# The source as a grammar: exact probabilities of any text (shares only the tables with the above)


def _grammar() -> Generator[tuple[Sequence[int], Sequence[float]], int, None]:
    """After BOS: yields the tokens that can come next with their probabilities; send what came."""
    p = {kind: [w / SCALE for w in weights] for kind, weights in WEIGHTS.items()}
    go_on = 1 - 1 / END_ODDS
    p_after = [1 / END_ODDS, *(go_on * q for q in p["head"])]
    while True:
        topic = (yield range(TOPIC0, TOPIC0 + N_TOPICS), p["topic"]) - TOPIC0
        candidates = [NAME0 + int(name) for name in NAMES[topic]]
        name1 = yield candidates, p["name1"]
        name2 = yield [name for name in candidates if name != name1], p["name2"]
        token = yield range(HEAD0, HEAD0 + N_HEADS), p["first_head"]
        while token != BOS:
            head = token - HEAD0
            phrase = [token]
            for slot, kind in enumerate(PATTERNS[head % len(PATTERNS)]):
                if kind == "T":
                    cls = SLOT_CLASS[head, slot]
                    options = (WORD0 + CLASS_SIZE * cls + TOPICAL[cls, topic]).tolist()
                elif kind == "N":
                    options = [name1, name2]
                elif kind == "A":
                    options = [int(AGREEMENT[head])]
                else:
                    lag = 1 if kind == "B" else 2
                    options = SUCCESSOR[lag - 1, phrase[-lag]].tolist()
                phrase.append((yield options, p[kind]))
            after = (SIGMA[head] + DELTA[: len(p["head"])]) % N_HEADS
            token = yield [BOS, *(HEAD0 + after).tolist()], p_after


def source_nll(tokens: Tokens) -> npt.NDArray[np.float64]:
    """Exact nats of ``tokens[1:]`` under the true source; shape (len(tokens) - 1,).

    ``tokens[0]`` must be BOS. From the first token on that the source cannot produce, all is inf.
    """
    if not len(tokens) or tokens[0] != BOS:
        raise ValueError(f"a text of the tiny language begins with BOS ({BOS})")
    nats = np.full(len(tokens) - 1, np.inf)
    grammar = _grammar()
    options, probabilities = next(grammar)
    for i, token in enumerate(tokens[1:].tolist()):
        probability = dict(zip(options, probabilities, strict=False)).get(token, 0.0)
        if not probability:
            break
        nats[i] = -log(probability)
        options, probabilities = grammar.send(token)
    return nats


# ------------------------------------------------------------------------------------------------
# Files

MAGIC, VERSION, HEADER_INTS = 20240520, 1, 256
TRAIN_TOKENS, VAL_TOKENS = 1 << 21, 1 << 15
TRAIN_FILE, VAL_FILE = "tiny_train_000000.bin", "tiny_val_000000.bin"
TRAIN_SHA256 = "5f1fef25197685fbbd4285708c502cd607ccc70362e12e45449d6f9728963a9d"
VAL_SHA256 = "a5d19f05c3f7fbd6d7a1184242b7bd28ee7eb1191d3e6361ae8dde56e9ff8282"


@dataclass(frozen=True)
class TinyData:
    """The two shards on disk; ``made`` names the files written by this call."""

    train: Path
    val: Path
    made: tuple[Path, ...]


def shard_bytes(tokens: Tokens) -> bytes:
    """A token shard: 256 int32 (magic, version, count, zeros), then uint16, all little endian."""
    header = np.zeros(HEADER_INTS, dtype="<i4")
    header[:3] = MAGIC, VERSION, len(tokens)
    return header.tobytes() + tokens.astype("<u2").tobytes()


def make_tiny_data(root: Path) -> TinyData:
    """Make sure that ``root/data/tiny`` holds the two official shards.

    A shard with the stated sha256 is left alone; one that is absent or differs is written anew,
    atomically. Raises UnfitError where the folder cannot be written or where this machine computes
    other bytes than the stated ones.
    """
    folder = root / "data" / "tiny"
    # One token more than is scored: inputs are tokens[:-1], targets tokens[1:].
    wanted = (
        (TRAIN_FILE, TRAIN_TOKENS, 0, TRAIN_SHA256),
        (VAL_FILE, VAL_TOKENS + 1, 1, VAL_SHA256),
    )
    made = []
    for name, n_tokens, stream, sha256 in wanted:
        path = folder / name
        if file_sha256(path) == sha256:
            continue
        content = shard_bytes(generate(n_tokens, stream))
        found = hashlib.sha256(content).hexdigest()
        if found != sha256:
            raise UnfitError(
                "the tiny track's data came out different on this machine",
                where=str(path),
                why=f"sha256 is {found}, the track states {sha256} (numpy {np.__version__})",
                fix="report this: the generator uses integers alone and should never differ",
            )
        _write_atomically(path, content)
        made.append(path)
    return TinyData(folder / TRAIN_FILE, folder / VAL_FILE, tuple(made))


def file_sha256(path: Path) -> str | None:
    """The file's sha256, or None where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _write_atomically(path: Path, content: bytes) -> None:
    """Readers see the old file or the whole new one; a full disk leaves no half of it."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UnfitError(
            "the tiny track's data cannot be written",
            where=str(path),
            why=str(error),
            fix="free some space or choose another folder with --data",
        ) from error
