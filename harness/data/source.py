"""Where shards come from: the one shape that the hub, a web mirror and a local folder share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from harness.data.manifest import NAME_PATTERN, Voucher
from harness.data.stream import is_train_shard, numbered_names
from harness.errors import UnfitError, UsageError
from harness.tracks.track import Track

OnBytes = Callable[[int], None]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A shard as its source describes it; None for what the source does not say."""

    name: str
    bytes: int | None
    sha256: str | None
    vouched_by: Voucher


@dataclass(frozen=True, slots=True)
class Listing:
    """What a source has.

    title      for people: "kjj0/fineweb10B-gpt2 at 1a2b3c4d5e6f"
    source     for the manifest, without credentials
    complete   False where a source cannot be listed and names must be guessed
    """

    title: str
    source: str
    revision: str | None
    files: Mapping[str, RemoteFile] = field(default_factory=dict)
    complete: bool = True


class Source(Protocol):
    """A place that holds shards."""

    def listing(self) -> Listing:
        """Ask what is there. Raises UnfitError where it cannot be reached."""

    def describe(self, name: str) -> RemoteFile:
        """One file that the listing lacks, or lists without a size. Raises UnfitError: absent."""

    def download(self, file: RemoteFile, partial: Path, on_bytes: OnBytes, say: Say) -> None:
        """Bring the rest of `file` into `partial`, going on from the bytes that are there.

        Raises UnfitError when the source gives up; what has come stays in `partial`.
        """


def choose_files(track: Track, listing: Listing, source: Source, count: int) -> list[RemoteFile]:
    """The validation shard and the first `count` train shards, in reading order.

    Raises UsageError where the source has fewer, UnfitError where it has not even the validation.
    """
    if not re.fullmatch(NAME_PATTERN, track.data.train_glob.replace("*", "1")):
        raise UsageError(
            "the track's shards have names that cannot be fetched",
            where=f"track {track.name}: data.train_glob",
            why=track.data.train_glob,
            fix="one plain file name with one `*` for the number",
        )
    if not listing.complete:
        names = [track.data.validation_file, *numbered_names(track, count)]
        return [listing.files.get(name) or source.describe(name) for name in names]
    validation = listing.files.get(track.data.validation_file)
    train = sorted(name for name in listing.files if is_train_shard(track, name))
    if validation is None or not train:
        lacking = track.data.validation_file if validation is None else track.data.train_glob
        raise UnfitError(
            f"the source does not have the shards of track {track.name}",
            where=listing.source,
            why=f"no {lacking} among its {len(listing.files)} shards",
            fix="name the right place with --from, or the right track with --track",
        )
    if len(train) < count:
        raise UsageError(
            f"the source has {len(train)} train shards, {count} are wanted",
            where=listing.source,
            fix=f"--shards {len(train)}, or another source",
        )
    chosen = [validation, *(listing.files[name] for name in train[:count])]
    # SHA256SUMS states no sizes; without them neither the disk's room nor the bar could be told.
    return [
        replace(file, bytes=source.describe(file.name).bytes) if file.bytes is None else file
        for file in chosen
    ]
