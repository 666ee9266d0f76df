"""Own text to shards: tokens, borders, the same bytes each time."""

from __future__ import annotations

import base64
import itertools
import json
import lzma
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.data.check import check_data
from harness.data.manifest import read_manifest
from harness.data.pack import PackRequest, pack
from harness.data.progress import ByteBar
from harness.data.shard import GPT2, inspect_shard
from harness.data.vocabulary import Vocabulary, load_vocabulary, parse_ranks
from harness.errors import UnfitError, UsageError
from tests.data.shards import small_track

pytest.importorskip("tiktoken", reason="packing text needs the extra `data`")

SHARED = Path(__file__).resolve().parents[2] / "../shared/tokens"
MERGES = [b"th", b"the", b" the", b"er", b" a", b"in", b"ing", b" s", b" so", b"ab", b"abab"]


def rank_file(path: Path, merges: list[bytes] = MERGES) -> Path:
    """A byte-level vocabulary: the 256 bytes, then a few merges."""
    tokens = [bytes([byte]) for byte in range(256)] + merges
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens)]
    path.write_text("".join(lines))
    return path


@pytest.fixture
def vocabulary(tmp_path: Path) -> Vocabulary:
    return load_vocabulary(rank_file(tmp_path / "ranks.tiktoken"))


def request(tmp_path: Path, texts: list[str], **fields: object) -> PackRequest:
    source = tmp_path / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    asked = PackRequest((source,), tmp_path / "out", "fineweb", "auto", "text", 50, 30)
    return replace(asked, **fields)  # type: ignore[arg-type]


def tokens(path: Path) -> list[int]:
    return np.frombuffer(path.read_bytes()[1024:], dtype="<u2").tolist()


def test_merges_by_hand(vocabulary: Vocabulary) -> None:
    # " the" is one word of the pattern: t+h (256), th+e (257), " "+the (258).
    assert vocabulary.encode(["in the"], 1) == [[261, 258]]
    # The lowest rank merges first: "abab" is ab+ab (265), then both (266).
    assert vocabulary.encode(["abab"], 1) == [[266]]
    assert vocabulary.decode([261, 258]) == "in the"


def test_the_mark_inside_a_text_is_text(vocabulary: Vocabulary) -> None:
    ids = vocabulary.encode(["<|endoftext|>"], 1)[0]
    assert GPT2.bos not in ids
    assert vocabulary.decode(ids) == "<|endoftext|>"


def test_shards_hold_the_documents_in_order(
    tmp_path: Path, vocabulary: Vocabulary, bar: ByteBar
) -> None:
    texts = [f"the {i} thing and so on, abab" for i in range(40)]
    result = pack(request(tmp_path, texts), vocabulary, bar)
    out = tmp_path / "out"
    names = [shard.name for shard in result.shards]
    assert names[:2] == ["fineweb_val_000000.bin", "fineweb_train_000001.bin"]
    assert names == sorted(names, key=lambda name: name.rsplit("_", 1)[1])
    assert result.documents == 40
    whole: list[int] = []
    for name in names:
        held = tokens(out / name)
        facts = inspect_shard(out / name, GPT2)
        assert facts.faults == facts.notes == ()  # begins with BOS: no document is cut
        whole += held
    expected: list[int] = []
    for ids in vocabulary.encode(texts, 1):
        expected += [50256, *ids]
    assert whole == expected
    longest = max(len(ids) + 1 for ids in vocabulary.encode(texts, 1))
    for shard in result.shards[1:-1]:
        assert 50 <= shard.tokens < 50 + longest
    assert 30 <= result.shards[0].tokens < 30 + longest
    manifest = read_manifest(out)
    assert manifest is not None
    assert {shard.name for shard in manifest.shards} == set(names)
    assert sorted(path.name for path in (out / ".fetch").iterdir()) == ["lock"]


def test_same_input_same_bytes(tmp_path: Path, vocabulary: Vocabulary, bar: ByteBar) -> None:
    texts = [f"{'the ' * i}end" for i in range(60)]
    asked = request(tmp_path, texts)
    first = pack(asked, vocabulary, bar)
    second = pack(replace(asked, out=tmp_path / "again"), vocabulary, bar)
    assert [s.sha256 for s in first.shards] == [s.sha256 for s in second.shards]


def test_packed_shards_pass_the_check(tmp_path: Path, vocabulary: Vocabulary, bar: ByteBar) -> None:
    folder = tmp_path / "data/fineweb10B"
    pack(request(tmp_path, [f"the thing so {i}" for i in range(40)], out=folder), vocabulary, bar)
    result = check_data(small_track(train_shards=1, validation_tokens=30), tmp_path, "x", bar)
    assert result.findings == ()


def test_without_validation(tmp_path: Path, vocabulary: Vocabulary, bar: ByteBar) -> None:
    result = pack(request(tmp_path, ["so the thing"], val_tokens=0), vocabulary, bar)
    assert [shard.name for shard in result.shards] == ["fineweb_train_000001.bin"]


def test_refusals_leave_nothing_behind(
    tmp_path: Path, vocabulary: Vocabulary, bar: ByteBar
) -> None:
    with pytest.raises(UsageError, match="nothing is left to train on"):
        pack(request(tmp_path, ["short"], val_tokens=1000), vocabulary, bar)
    with pytest.raises(UsageError, match="no document in these files"):
        pack(request(tmp_path, ["  "]), vocabulary, bar)
    bad = request(tmp_path, ["fine " * 30] * 300)
    with bad.files[0].open("ab") as file:
        file.write(b"{oops\n")
    with pytest.raises(UsageError, match="not JSON lines"):
        pack(bad, vocabulary, bar)
    for field, value in (("name", "../x"), ("shard_tokens", 0), ("val_tokens", 1 << 40)):
        with pytest.raises(UsageError):
            pack(request(tmp_path, ["x"], **{field: value}), vocabulary, bar)
    left = [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert left == ["lock"]


def test_existing_shards_are_never_overwritten(
    tmp_path: Path, vocabulary: Vocabulary, bar: ByteBar
) -> None:
    asked = request(tmp_path, ["so the thing"] * 20)
    pack(asked, vocabulary, bar)
    with pytest.raises(UsageError, match="fineweb shards already"):
        pack(asked, vocabulary, bar)
    pack(replace(asked, name="other"), vocabulary, bar)
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    assert {shard.name.split("_")[0] for shard in manifest.shards} == {"fineweb", "other"}


def line(token: bytes, rank: object) -> bytes:
    return base64.b64encode(token) + f" {rank}\n".encode()


BYTES = b"".join(line(bytes([byte]), byte) for byte in range(256))


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "256 single bytes are no tokens, the first 0x00"),
        (BYTES[line(b"\0", 0).__len__() :], "1 single bytes are no tokens, the first 0x00"),
        (BYTES + b"!!!! 256\n", "not `<base64> <rank>`"),
        (BYTES + line(b"ab", "x"), "not `<base64> <rank>`"),
        (BYTES + b"one two three\n", "not `<base64> <rank>`"),
        (BYTES + line(b"ab", 255), "ranks must be unique"),
        (BYTES + line(b"ab", 50256), "0…50255"),
        (BYTES + line(b"ab", -1), "0…50255"),
    ],
)
def test_what_is_no_rank_file(raw: bytes, why: str) -> None:
    with pytest.raises(UsageError, match="no rank file") as caught:
        parse_ranks(raw, "ranks")
    assert why in caught.value.why


def test_no_vocabulary_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tiktoken

    def refuse(name: str) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(tiktoken, "get_encoding", refuse)
    with pytest.raises(UnfitError, match="no GPT-2 vocabulary is at hand") as caught:
        load_vocabulary(None)
    assert "--vocab" in caught.value.fix
    with pytest.raises(UsageError, match="no vocabulary at"):
        load_vocabulary(tmp_path / "nope")
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(UnfitError, match="needs the package tiktoken"):
        load_vocabulary(None)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the measured material is not beside the project")
def test_genuine_documents_give_their_own_tokens(tmp_path: Path, bar: ByteBar) -> None:
    """200 FineWeb documents, decoded and packed again: the official tokens, one for one."""
    official = lzma.decompress((SHARED / "genuine_fineweb_200docs.bin.xz").read_bytes())
    ids = np.frombuffer(official[1024:], dtype="<u2")
    vocabulary = load_vocabulary(SHARED / "gpt2.tiktoken")
    starts = [*np.flatnonzero(ids == 50256).tolist(), len(ids)]
    texts = [
        vocabulary.decode(ids[start + 1 : end].tolist())
        for start, end in itertools.pairwise(starts)
    ]
    assert len(texts) == 200
    asked = request(tmp_path, texts, val_tokens=0, shard_tokens=10_000_000)
    result = pack(asked, vocabulary, bar)
    assert result.shards[0].tokens == 345_842
    assert tokens(tmp_path / "out/fineweb_train_000001.bin") == ids.tolist()
