"""Small shards, and a track that reads them under FineWeb's names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.data.shard import shard_header
from harness.tracks.track import Track, load_track, parse_track, track_text

BOS = 50256
VAL, TRAIN_1, TRAIN_2, TRAIN_3 = (
    "fineweb_val_000000.bin",
    "fineweb_train_000001.bin",
    "fineweb_train_000002.bin",
    "fineweb_train_000003.bin",
)


def small_track(train_shards: int = 2, validation_tokens: int = 1000) -> Track:
    """The track `small` with a short validation and few shards."""
    text = track_text("small")
    text = text.replace("minimum_train_shards = 9", f"minimum_train_shards = {train_shards}")
    text = text.replace("validation_tokens = 10485760", f"validation_tokens = {validation_tokens}")
    assert load_track("small").data.minimum_train_shards == 9
    return parse_track(text, "test track")


def write_track(path: Path, **rules: int) -> Path:
    """The same as a file, for the command line."""
    text = track_text("small")
    text = text.replace("minimum_train_shards = 9", f"minimum_train_shards = {rules['train']}")
    text = text.replace("validation_tokens = 10485760", "validation_tokens = 1000")
    path.write_text(text, encoding="utf-8")
    return path


def tokens_of(count: int, seed: int) -> npt.NDArray[np.uint16]:
    """Random ids, a document about every 50 tokens, the first at once."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, BOS, count, dtype=np.uint16)
    tokens[rng.random(count) < 0.02] = BOS
    tokens[0] = BOS
    return tokens


def shard(tokens: npt.NDArray[np.uint16], stated: int | None = None) -> bytes:
    """File content; `stated` lies in the header."""
    count = len(tokens) if stated is None else stated
    return shard_header(count) + tokens.astype("<u2").tobytes()


def contents(count: int = 20_000) -> dict[str, bytes]:
    """A validation shard and three train shards."""
    names = (VAL, TRAIN_1, TRAIN_2, TRAIN_3)
    return {name: shard(tokens_of(count, seed)) for seed, name in enumerate(names)}


def lay_out(root: Path, files: dict[str, bytes]) -> Path:
    """The files under `root` where the track looks for them; the folder."""
    folder = root / "data/fineweb10B"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder
