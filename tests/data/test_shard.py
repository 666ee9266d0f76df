"""The shard format: header, one pass over the file, every fault it can have."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data import shard as shard_module
from harness.data.shard import (
    GPT2,
    HEADER_BYTES,
    TokenRule,
    header_faults,
    inspect_shard,
    parse_header,
    read_header,
    shard_header,
)
from harness.synthetic import shard_bytes
from tests.data.shards import BOS, shard, tokens_of


def inspect(tmp_path: Path, content: bytes, rule: TokenRule = GPT2) -> shard_module.ShardFacts:
    path = tmp_path / "x.bin"
    path.write_bytes(content)
    return inspect_shard(path, rule)


def test_header_is_the_fields_format() -> None:
    raw = shard_header(345_842)
    integers = np.frombuffer(raw, dtype="<i4")
    assert len(integers) == 256
    assert integers[:3].tolist() == [20240520, 1, 345_842]
    assert not integers[3:].any()
    # The tiny track's writer is another implementation of the same format.
    assert shard_bytes(np.arange(5, dtype="<u2")) == shard_header(5) + bytes(range(1)) + bytes(
        [0, 1, 0, 2, 0, 3, 0, 4, 0]
    )


def test_sound_shard(tmp_path: Path) -> None:
    tokens = tokens_of(30_000, seed=4)
    content = shard(tokens)
    facts = inspect(tmp_path, content)
    assert facts.faults == facts.notes == ()
    assert facts.tokens == 30_000
    assert facts.bytes == 1024 + 60_000
    assert facts.sha256 == hashlib.sha256(content).hexdigest()
    assert facts.documents == int((tokens == BOS).sum())


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "shorter than a shard's header"),
        (b"\0" * 1023, "shorter than a shard's header"),
        (b"PK\x03\x04" + bytes(2000), "not a token shard"),
        (b"<!DOCTYPE html><html>" + b" " * 2000, "not a token shard"),
        (shard_header(0)[:4] + b"\2\0\0\0" + bytes(1016) + b"ab", "shard version 2"),
        (shard_header(-5) + b"abcd", "states -5 tokens"),
        (shard_header(0), "no tokens"),
        (shard(tokens_of(100, 1))[:-1], "truncated: the header states 100 tokens"),
        (shard(tokens_of(100, 1))[:-20], "the file holds 90"),
        (shard(tokens_of(100, 1)) + b"x", "1 bytes follow"),
        (shard(tokens_of(100, 1), stated=99), "2 bytes follow the 99 tokens"),
        (shard(np.array([BOS, 1, 50257, 7, 65535], "<u2")), "2 token ids of 50257 or more, the fi"),
        (shard(np.array([1, 2, 3], "<u2")), "no document starts in it"),
    ],
)
def test_faults_are_named(tmp_path: Path, content: bytes, fault: str) -> None:
    assert fault in " ".join(inspect(tmp_path, content).faults)


def test_first_bad_id_is_located_across_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_module, "PIECE_BYTES", 4096)
    tokens = tokens_of(50_000, seed=2)
    tokens[33_333] = 60_000
    content = shard(tokens)
    facts = inspect(tmp_path, content)
    assert facts.faults == ("1 token ids of 50257 or more, the first at token 33,333",)
    assert facts.sha256 == hashlib.sha256(content).hexdigest()


def test_a_shard_may_begin_inside_a_document(tmp_path: Path) -> None:
    # The official shards hold 100 M tokens each whatever the documents are: no fault.
    facts = inspect(tmp_path, shard(np.array([17, 18, BOS, 5], "<u2")))
    assert facts.faults == ()
    assert "begin inside a document" in facts.notes[0]


def test_another_vocabulary(tmp_path: Path) -> None:
    tiny = TokenRule(vocab_size=256, bos=0)
    assert inspect(tmp_path, shard(np.array([0, 255, 3], "<u2")), tiny).faults == ()
    assert "256 or more" in inspect(tmp_path, shard(np.array([0, 256], "<u2")), tiny).faults[0]


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo.bin"
    os.mkfifo(fifo)
    with pytest.raises(OSError, match="not a regular file"):
        inspect_shard(fifo, GPT2)  # would wait for a writer forever
    assert read_header(fifo) is None


@given(st.binary(max_size=2 * HEADER_BYTES))
def test_any_bytes_are_judged(content: bytes) -> None:
    faults = header_faults(parse_header(content[:HEADER_BYTES]), len(content))
    sound = content[:8] == shard_header(0)[:8] and len(content) > HEADER_BYTES
    assert faults or sound
