"""What a track reads: the root of its data, the shards' names and order, vocabulary, hashes."""

from __future__ import annotations

import fnmatch
import os
from pathlib import Path

from harness.data.shard import GPT2, TokenRule
from harness.places import cache_root
from harness.tracks.track import Track


def data_root(track: Track, asked: Path | None, default: Path | None = None) -> Path:
    """What DATA_PATH names: `asked`, else DATA_PATH, else `default`; synthetic data: the cache."""
    if track.data.kind == "synthetic":
        return (asked or cache_root() / "data").absolute()
    return (asked or Path(os.environ.get("DATA_PATH") or default or ".")).absolute()


def data_folder(track: Track, root: Path) -> Path:
    """The folder that holds the track's shards."""
    return root / track.data.folder


def token_rule(track: Track) -> TokenRule:
    """The vocabulary of the track's tokens: GPT-2's, or the synthetic language's."""
    if track.data.kind == "synthetic":
        from harness.synthetic import BOS, VOCAB_SIZE

        return TokenRule(vocab_size=VOCAB_SIZE, bos=BOS)
    return GPT2


def stated_hashes(track: Track) -> dict[str, str]:
    """File name -> sha256 that the rules state; empty where they state none."""
    stated = dict(track.data.sha256)
    if track.data.kind == "synthetic":
        from harness.synthetic import TRAIN_FILE, TRAIN_SHA256, VAL_FILE, VAL_SHA256

        stated = {TRAIN_FILE: TRAIN_SHA256, VAL_FILE: VAL_SHA256} | stated
    return {name: sha256 for name, sha256 in stated.items() if sha256}


def is_train_shard(track: Track, name: str) -> bool:
    """Whether a run would read a file of this name as training data."""
    return fnmatch.fnmatchcase(name, track.data.train_glob) and name != track.data.validation_file


def is_shard(track: Track, name: str) -> bool:
    """Whether a run would read a file of this name at all."""
    return name == track.data.validation_file or is_train_shard(track, name)


def shards_here(track: Track, folder: Path) -> list[str]:
    """Names of the shards a run could read in `folder`: validation first, then in reading order."""
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    found = [name for name in names if is_train_shard(track, name)]
    return [name for name in names if name == track.data.validation_file] + found


def numbered_names(track: Track, count: int) -> list[str]:
    """The field's names of the first `count` train shards: the glob's `*` is 000001, 000002, …"""
    return [track.data.train_glob.replace("*", f"{i:06d}", 1) for i in range(1, count + 1)]
