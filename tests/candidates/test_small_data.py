"""The data loader of candidates/small.py: assignment, shard borders, odd documents, bad files."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.candidates.tiny_small import (
    document_tokens,
    load_script,
    random_documents,
    tiny_config,
    write_data,
    write_shard,
)

small = load_script()
CPU = torch.device("cpu")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DATA_PATH", str(tmp_path))
    return tmp_path / "data" / "fineweb10B"


def shard_of(path: Path, tokens: np.ndarray, first_scan: int = 10**6):
    return small.Shard(write_shard(path, tokens), 0, first_scan)


def test_assignment_example(tmp_path: Path) -> None:
    starts = [0, 4, 12, 15, 30, 33, 50]
    shard = shard_of(tmp_path / "a.bin", document_tokens(starts, 60))
    assert shard.take(2, 10, 6) == [
        [(0, 4), (4, 10), (12, 13)],
        [(15, 21), (30, 33), (33, 35)],
    ]
    assert shard.starts[shard.cursor] == 50


def test_cu_seqlens_of_the_assignment_example() -> None:
    cfg = tiny_config()
    for ends, expected in (([4, 10, 10], [0, 4, 10, 10, 10, 10]), ([6, 9, 10], [0, 6, 9, 10, 10])):
        batch = small.make_batch(np.arange(11, dtype=np.uint16), ends, cfg, CPU, 64)
        assert batch.cu_seqlens.shape == (64,)
        assert batch.cu_seqlens[: len(expected)].tolist() == expected
        assert (batch.cu_seqlens[len(expected) :] == 10).all()


@pytest.mark.parametrize(
    ("tokens", "limit"), [(16_384, 64), (32_768, 96), (49_152, 128), (262_144, 896), (65_536, 256)]
)
def test_document_limits(tokens: int, limit: int) -> None:
    assert small.document_limit(tokens) == limit


def test_batches_of_the_loader(data: Path) -> None:
    """Types, shifted targets, every sequence starts with BOS, none longer than allowed."""
    write_data(data.parents[1])
    cfg = tiny_config()
    loader = small.TrainLoader(cfg, 0, 1, CPU)
    for _ in range(10):
        batch = loader.next(48, 16)
        assert batch.tokens.dtype == torch.int32
        assert batch.targets.dtype == torch.int64
        assert batch.tokens.shape == batch.targets.shape == batch.bigram_rows.shape == (48,)
        cu = batch.cu_seqlens.tolist()
        assert cu[0] == 0
        assert cu[-1] == 48
        assert cu == sorted(cu)
        for start, stop in itertools.pairwise(cu):
            assert stop - start <= 16
            if stop > start:
                assert batch.tokens[start] == 0
                assert (batch.tokens[start + 1 : stop] != 0).all()
                assert torch.equal(
                    batch.tokens[start + 1 : stop].long(), batch.targets[start : stop - 1]
                )
                if stop < 48:  # the target of a document's last token is the next one's BOS
                    assert batch.targets[stop - 1] == 0 or stop - start < 16
        assert np.array_equal(batch.bigram_rows.numpy(), batch.bigram_rows_cpu)


def test_target_after_a_document_is_the_next_bos(data: Path) -> None:
    write_shard(data / "fineweb_train_000001.bin", document_tokens(list(range(0, 2000, 10)), 2000))
    batch = small.TrainLoader(tiny_config(), 0, 1, CPU).next(32, 24)
    assert batch.cu_seqlens[:5].tolist() == [0, 10, 20, 30, 32]
    assert batch.targets[[9, 19, 29]].tolist() == [0, 0, 0]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_every_world_size_sees_the_same_batches(data: Path, world: int) -> None:
    """Also across the shard border, where what is left is dropped."""
    write_data(data.parents[1], size=3000)
    cfg = tiny_config()
    expected = small.TrainLoader(cfg, 0, 8, CPU), small.TrainLoader(cfg, 5, 8, CPU)
    ranks = [small.TrainLoader(cfg, r, world, CPU) for r in range(world)]
    for _ in range(9):
        micro = {
            m * world + r: ranks[r].next(40, 24).tokens
            for m in range(8 // world)
            for r in range(world)
        }
        for slot, loader in zip((0, 5), expected, strict=True):
            assert torch.equal(micro[slot], loader.next(40, 24).tokens)


def test_shard_border_drops_the_partial_batch(data: Path) -> None:
    """Two shards with distinct tokens: no batch mixes them, the second starts at its start."""
    starts = list(range(0, 1000, 20))
    for i in (1, 2):
        tokens = np.full(1000, i, dtype=np.uint16)
        tokens[starts] = 0
        write_shard(data / f"fineweb_train_{i:06d}.bin", tokens)
    loader = small.TrainLoader(tiny_config(), 0, 8, CPU)
    kinds = []
    for _ in range(5):
        tokens = loader.next(39, 24).tokens
        kinds.append(set(tokens.tolist()) - {0})
    # a slot takes 2 documents and a step 16: of 50, three steps use 48 and 2 are dropped
    assert kinds == [{1}, {1}, {1}, {2}, {2}]
    assert loader.take_notices() == []


def test_exhausted_shards_start_over_and_say_so(data: Path) -> None:
    write_data(data.parents[1], train_shards=1, size=1500)
    loader = small.TrainLoader(tiny_config(), 0, 8, CPU)
    first = loader.next(40, 24).tokens
    for _ in range(20):
        again = loader.next(40, 24).tokens
        if torch.equal(first, again):
            break
    else:
        pytest.fail("the first batch never came back")
    (notice,) = loader.take_notices()
    assert "all 1 training shards are used up" in notice
    assert "pass 2" in notice


def test_a_shard_too_small_for_a_batch_is_an_error(data: Path) -> None:
    write_shard(data / "fineweb_train_000001.bin", random_documents(100))
    loader = small.TrainLoader(tiny_config(), 0, 8, CPU)
    with pytest.raises(small.SetupError, match="no training shard holds one batch"):
        loader.next(40, 24)


def test_short_documents_grow_cu_seqlens(data: Path) -> None:
    """More documents than the fixed length has room for: a longer one, and a line about it."""
    write_shard(data / "fineweb_train_000001.bin", document_tokens(list(range(0, 8000, 2)), 8000))
    loader = small.TrainLoader(tiny_config(), 0, 8, CPU)
    batch = loader.next(400, 24)
    assert len(batch.cu_seqlens) == 256  # 201 pieces and the 0, in steps of 64
    assert batch.cu_seqlens[:3].tolist() == [0, 2, 4]
    assert batch.cu_seqlens[-1] == 400
    assert "201 documents" in loader.take_notices()[0]
    assert len(loader.next(400, 24).cu_seqlens) == 256
    assert loader.take_notices() == []


def test_background_scan_gives_the_same_documents(tmp_path: Path) -> None:
    """An index of the first tokens only, replaced while documents are taken."""
    tokens = random_documents(20_000, mean=30)
    whole = shard_of(tmp_path / "a.bin", tokens)
    partial = shard_of(tmp_path / "b.bin", tokens, first_scan=200)
    assert len(partial.starts) < len(whole.starts)
    while (expected := whole.take(2, 100, 50)) is not None:
        assert partial.take(2, 100, 50) == expected
    assert partial.take(2, 100, 50) is None
    assert partial.complete


def test_partial_index_never_ends_a_document_at_the_scan(tmp_path: Path) -> None:
    """The last known document ends where the next one starts, not where the scan stopped."""
    shard = shard_of(tmp_path / "a.bin", document_tokens([0, 5, 90], 200), first_scan=20)
    assert shard.take(1, 60, 64) == [[(0, 5), (5, 61)]]


def test_find_bos_crosses_its_own_pieces() -> None:
    tokens = np.ones((1 << 20) + 10, dtype=np.uint16)
    where = [0, (1 << 20) - 1, 1 << 20, (1 << 20) + 9]
    tokens[where] = 0
    assert small.find_bos(tokens, 0) == where


def test_validation_covers_each_token_once(data: Path) -> None:
    write_data(data.parents[1])
    cfg = tiny_config()
    source = small.read_shard(data / "fineweb_val_000000.bin")
    seen = {}
    for rank in range(2):
        batches = list(small.Validation(cfg, rank, 2, CPU).batches())
        assert len(batches) == 4
        for j, batch in enumerate(batches):
            seen[2 * j + rank] = batch
    for i in range(8):
        part = source[256 * i : 256 * i + 257]
        assert seen[i].tokens.tolist() == part[:-1].tolist()
        assert seen[i].targets.tolist() == part[1:].tolist()
        starts = np.flatnonzero(part[:-1] == 0).tolist()
        cu = seen[i].cu_seqlens.tolist()
        assert cu[: len(starts) + 1] == [0, *starts]
        assert set(cu[len(starts) + 1 :]) == {256}


def test_bad_files_are_told_apart(data: Path) -> None:
    with pytest.raises(small.SetupError, match="DATA_PATH"):
        small.TrainLoader(tiny_config(), 0, 1, CPU)
    path = write_shard(data / "fineweb_train_000001.bin", random_documents(100))
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    with pytest.raises(small.SetupError, match="truncated: 90 of 100"):
        small.read_shard(path)
    path.write_bytes(b"hello" * 400)
    with pytest.raises(small.SetupError, match="not a version-1 token shard"):
        small.read_shard(path)
    # an unreadable next shard is reported when it is needed, by the training thread
    path.write_bytes(content)
    write_shard(data / "fineweb_train_000002.bin", random_documents(100)).write_bytes(b"")
    loader = small.TrainLoader(tiny_config(), 0, 8, CPU)
    with pytest.raises(small.SetupError, match="000002"):
        loader.next(40, 24)


def test_validation_shard_too_short(data: Path) -> None:
    write_shard(data / "fineweb_val_000000.bin", random_documents(1000))
    with pytest.raises(small.SetupError, match=r"holds 1,000 tokens; validation needs 2,049"):
        small.Validation(tiny_config(), 0, 1, CPU)
