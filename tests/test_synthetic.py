"""The tiny language: pinned bytes, proven entropy rate, shard format, repair."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import time
from pathlib import Path

import numpy as np
import pytest

from harness import synthetic
from harness.errors import UnfitError

TRAIN = synthetic.generate(300_000, stream=0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> synthetic.TinyData:
    return synthetic.make_tiny_data(tmp_path_factory.mktemp("root"))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- bytes ---------------------------------------------------------------------------------------


def test_the_shards_are_pinned(made: synthetic.TinyData) -> None:
    assert sha256(made.train) == synthetic.TRAIN_SHA256
    assert sha256(made.val) == synthetic.VAL_SHA256
    assert made.made == (made.train, made.val)


def test_the_splitmix_of_the_paper() -> None:
    # First outputs of splitmix64 from state 0 (its published reference sequence).
    assert synthetic._splitmix(0) == 0xE220A8397B1DCDAF
    assert synthetic._splitmix(0x9E3779B97F4A7C15) == 0x6E789E6AA1B965F4


def test_the_format_of_the_field(made: synthetic.TinyData) -> None:
    for path, n_tokens in ((made.train, 2**21), (made.val, 2**15 + 1)):
        raw = path.read_bytes()
        header = np.frombuffer(raw[:1024], dtype="<i4")
        assert header[:3].tolist() == [20240520, 1, n_tokens]
        assert not header[3:].any()
        tokens = np.frombuffer(raw[1024:], dtype="<u2")
        assert len(tokens) == n_tokens
        assert tokens[0] == synthetic.BOS
        assert set(tokens.tolist()) == set(range(synthetic.VOCAB_SIZE))


def test_a_stream_does_not_depend_on_how_much_of_it_is_asked_for() -> None:
    assert (synthetic.generate(20_000, stream=0) == TRAIN[:20_000]).all()
    assert (synthetic.generate(20_000, stream=1) != TRAIN[:20_000]).any()


def test_making_both_shards_takes_under_two_cpu_seconds(tmp_path: Path) -> None:
    start = time.process_time()
    synthetic.make_tiny_data(tmp_path)
    assert time.process_time() - start < 2


# --- entropy -------------------------------------------------------------------------------------


def test_every_weight_is_an_exact_probability() -> None:
    for weights in synthetic.WEIGHTS.values():
        assert sum(weights) == synthetic.SCALE
        assert min(weights) >= 0


def test_the_stated_rate_is_the_closed_form() -> None:
    assert synthetic.entropy_rate_nats() == pytest.approx(synthetic.ENTROPY_RATE_NATS, abs=5e-10)


def test_the_closed_form_against_the_heads_markov_chain() -> None:
    """The rate once more, without the argument that heads are uniform: expected visits of each
    head in a document solve v = first + (1 - 1/8) P^T v."""
    heads, stay = synthetic.N_HEADS, 1 - 1 / synthetic.END_ODDS
    P = np.zeros((heads, heads))
    for rank, weight in enumerate(synthetic.WEIGHTS["head"]):
        following = (synthetic.SIGMA + synthetic.DELTA[rank]) % heads
        P[np.arange(heads), following] += weight / synthetic.SCALE
    first = np.array(synthetic.WEIGHTS["first_head"]) / synthetic.SCALE
    visits = np.linalg.solve(np.eye(heads) - stay * P.T, first)

    def nats(p: np.ndarray) -> float:
        return float(-sum(q * math.log(q) for q in p if q))

    p = {kind: np.array(w) / synthetic.SCALE for kind, w in synthetic.WEIGHTS.items()}
    total = nats(p["topic"]) + nats(p["name1"]) + nats(p["name2"]) + nats(first)
    length = 4.0
    for head in range(heads):
        pattern = synthetic.PATTERNS[head % len(synthetic.PATTERNS)]
        after = np.append(stay * P[head], 1 - stay)  # a head, or the next document's BOS
        total += visits[head] * (nats(after) + sum(nats(p[slot]) for slot in pattern))
        length += visits[head] * (1 + len(pattern))
    # Visits count the first head, whose entropy is in `first`; transitions are counted by `after`.
    assert total / length == pytest.approx(synthetic.entropy_rate_nats(), rel=1e-12)


def test_the_source_assigns_its_text_the_entropy_rate() -> None:
    """Documents are independent cycles: sum(nats) / sum(tokens) is a ratio estimator."""
    text = TRAIN[: np.flatnonzero(TRAIN == synthetic.BOS)[-1] + 1]  # whole documents
    nats = synthetic.source_nll(text)
    ends = np.flatnonzero(text[1:] == synthetic.BOS) + 1
    document_nats = np.diff(np.concatenate([[0.0], np.cumsum(nats)[ends - 1]]))
    document_tokens = np.diff(np.concatenate([[0], ends]))
    rate = synthetic.entropy_rate_nats()
    residuals = document_nats - rate * document_tokens
    standard_error = residuals.std() * math.sqrt(len(ends)) / document_tokens.sum()
    assert standard_error < 0.004
    assert abs(nats.mean() - rate) < 4 * standard_error
    assert document_tokens.mean() == pytest.approx(synthetic.MEAN_DOCUMENT_TOKENS, rel=0.05)


def test_the_likelihood_is_a_distribution() -> None:
    """With the test above (its cross entropy is the entropy) it is the true source (Gibbs)."""
    starts = np.flatnonzero(TRAIN == synthetic.BOS)
    document = TRAIN[starts[3] : starts[4]]
    for end in range(1, len(document) + 1, 3):
        texts = [np.append(document[:end], token) for token in range(synthetic.VOCAB_SIZE)]
        total = sum(math.exp(-synthetic.source_nll(text)[-1]) for text in texts)
        assert total == pytest.approx(1, abs=1e-12)


def test_what_the_source_cannot_say_has_no_probability() -> None:
    text = TRAIN[:40].copy()
    text[20] = synthetic.TOPIC0  # a topic in the middle of a document
    nats = synthetic.source_nll(text)
    assert np.isfinite(nats[:19]).all()
    assert np.isinf(nats[19:]).all()
    with pytest.raises(ValueError, match="begins with BOS"):
        synthetic.source_nll(TRAIN[1:40])


def test_the_validation_text_has_the_stated_likelihood(made: synthetic.TinyData) -> None:
    tokens = np.fromfile(made.val, dtype="<u2", offset=1024)
    nats = synthetic.source_nll(tokens)
    assert len(nats) == synthetic.VAL_TOKENS
    assert nats.mean() == pytest.approx(synthetic.VAL_SOURCE_NATS, abs=5e-7)


# --- files ---------------------------------------------------------------------------------------


def test_intact_shards_are_left_alone(made: synthetic.TinyData) -> None:
    before = [path.stat().st_mtime_ns for path in (made.train, made.val)]
    again = synthetic.make_tiny_data(made.train.parents[2])
    assert again.made == ()
    assert [path.stat().st_mtime_ns for path in (made.train, made.val)] == before


def test_a_damaged_or_missing_shard_is_made_anew(tmp_path: Path) -> None:
    data = synthetic.make_tiny_data(tmp_path)
    content = bytearray(data.val.read_bytes())
    content[5000] ^= 1
    data.val.write_bytes(content)
    assert synthetic.make_tiny_data(tmp_path).made == (data.val,)
    assert sha256(data.val) == synthetic.VAL_SHA256
    data.val.unlink()
    assert synthetic.make_tiny_data(tmp_path).made == (data.val,)
    assert sorted(p.name for p in data.val.parent.iterdir()) == [data.train.name, data.val.name]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("not a folder")
    with pytest.raises(UnfitError, match="cannot be written") as caught:
        synthetic.make_tiny_data(tmp_path)
    assert "--data" in caught.value.fix
    assert (tmp_path / "data").read_text() == "not a folder"


def test_a_full_disk_leaves_the_old_file_and_no_half_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = synthetic.make_tiny_data(tmp_path)
    data.val.write_bytes(b"old")

    def half(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(UnfitError, match="cannot be written") as caught:
        synthetic.make_tiny_data(tmp_path)
    assert "No space left" in caught.value.why
    assert data.val.read_bytes() == b"old"
    assert sorted(p.name for p in data.val.parent.iterdir()) == [data.train.name, data.val.name]


def test_other_bytes_than_stated_are_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic, "TRAIN_SHA256", "0" * 64)
    with pytest.raises(UnfitError, match="came out different"):
        synthetic.make_tiny_data(tmp_path)
    assert list(tmp_path.rglob("*.bin")) == []
