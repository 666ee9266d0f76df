"""Own text to shards: each document is BOS and its tokens; no document is cut.

The validation shard takes documents until it has enough tokens, then train shards are filled in
turn; a shard ends with the document that reaches its size. So every shard begins with BOS, and
validation shares no document with training. The same files and vocabulary give the same bytes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.data.documents import Form, documents
from harness.data.files import STAGING, cannot_write, make_folder, only_writer, put_in_place
from harness.data.manifest import (
    NAME_PATTERN,
    Manifest,
    ShardEntry,
    read_manifest,
    today_utc,
    write_manifest,
)
from harness.data.progress import ByteBar
from harness.data.shard import HEADER_BYTES, inspect_shard, shard_header
from harness.data.vocabulary import Vocabulary
from harness.errors import UsageError

BATCH_DOCUMENTS = 256
MAX_TOKENS = (1 << 31) - 1  # the header's int32


@dataclass(frozen=True, slots=True)
class PackRequest:
    """`name` is the shards' stem: name_val_000000.bin, name_train_000001.bin, …"""

    files: tuple[Path, ...]
    out: Path
    name: str
    form: Form
    field: str
    shard_tokens: int
    val_tokens: int


@dataclass(frozen=True, slots=True)
class PackResult:
    folder: Path
    shards: tuple[ShardEntry, ...]
    documents: int

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "folder": str(self.folder),
            "documents": self.documents,
            "tokens": sum(shard.tokens for shard in self.shards),
            "shards": [shard.model_dump(mode="json") for shard in self.shards],
            "exit_code": 0,
        }


class ShardWriter:
    """A shard under way: tokens are appended, the header is written when the count is known."""

    def __init__(self, partial: Path) -> None:
        self.path = partial
        self.tokens = 0
        try:
            self._file = partial.open("w+b")
            self._file.write(bytes(HEADER_BYTES))
        except OSError as error:
            raise cannot_write(partial, error) from error

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if kind is not None:
            self.path.unlink(missing_ok=True)

    def add(self, tokens: Sequence[int]) -> None:
        """Append one document's tokens, BOS included. Raises UnfitError on a full disk."""
        import numpy as np

        try:
            self._file.write(np.array(tokens, dtype="<u2").tobytes())
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self.tokens += len(tokens)

    def close(self) -> None:
        """Write the header; the file is a shard from here on."""
        try:
            self._file.seek(0)
            self._file.write(shard_header(self.tokens))
            self._file.close()
        except OSError as error:
            raise cannot_write(self.path, error) from error


def pack(request: PackRequest, vocabulary: Vocabulary, bar: ByteBar) -> PackResult:
    """Write the shards and their manifest. Raises UsageError, UnfitError.

    Existing shards of the same name are refused, never overwritten.
    """
    _check(request)
    folder = make_folder(request.out)

    def waiting() -> None:
        bar.warn(f"another process is writing to {folder}; waiting for it")

    with only_writer(folder, waiting):
        taken = sorted(path.name for path in folder.glob(f"{request.name}_*.bin"))
        if taken:
            raise UsageError(
                f"there are {request.name} shards already",
                where=str(folder / taken[0]),
                fix="another folder with --out, or another name with --name",
            )
        finished: list[tuple[Path, str]] = []
        try:
            count = _fill(request, vocabulary, folder, bar, finished)
            return PackResult(folder, _place(request, vocabulary, folder, finished), count)
        finally:
            for path, _ in finished:
                path.unlink(missing_ok=True)


def _fill(
    request: PackRequest,
    vocabulary: Vocabulary,
    folder: Path,
    bar: ByteBar,
    finished: list[tuple[Path, str]],
) -> int:
    """Write shards into the staging folder, each entered in `finished`; number of documents."""
    count = 0
    stream = _encoded(request, vocabulary, bar)
    total = sum(path.stat().st_size for path in request.files)
    with bar.over(total, "packing"):
        upcoming = next(stream, None)
        while upcoming is not None:
            # A request without validation tokens begins with the first train shard.
            number = len(finished) + (0 if request.val_tokens else 1)
            kind = "train" if number else "val"
            wanted = request.shard_tokens if number else request.val_tokens
            name = f"{request.name}_{kind}_{number:06d}.bin"
            with ShardWriter(folder / STAGING / f"{name}.{os.getpid()}.part") as writer:
                while upcoming is not None and writer.tokens < wanted:
                    writer.add(upcoming)
                    count += 1
                    upcoming = next(stream, None)
                short = request.val_tokens and not number and upcoming is None
                writer.close()
            finished.append((writer.path, name))
            if short:
                raise UsageError(
                    "the text is too short: nothing is left to train on",
                    why=f"{writer.tokens:,} tokens in all, --val-tokens wants {wanted:,} first",
                    fix="more text, or a smaller --val-tokens",
                )
    if not finished:
        raise UsageError("no document in these files", fix="see --documents for how they are cut")
    return count


def _place(
    request: PackRequest, vocabulary: Vocabulary, folder: Path, finished: list[tuple[Path, str]]
) -> tuple[ShardEntry, ...]:
    """Read back what was written, give it its names, write the manifest."""
    manifest = read_manifest(folder) or Manifest()
    entries = []
    for path, name in finished:
        facts = inspect_shard(path, vocabulary.rule)
        entry = ShardEntry(
            name=name,
            bytes=facts.bytes,
            sha256=facts.sha256,
            tokens=facts.tokens,
            source=f"packed from {len(request.files)} files with {vocabulary.identity}",
            date_utc=today_utc(),
            vouched_by="this machine",
        )
        entries.append(entry)
        manifest = manifest.with_entry(entry)
    try:
        for path, name in finished:
            put_in_place(path, folder / name)
        write_manifest(folder, manifest)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return tuple(entries)


def _encoded(request: PackRequest, vocabulary: Vocabulary, bar: ByteBar) -> Iterator[list[int]]:
    """Documents as BOS and tokens, in the order of the files; batches use every core."""
    threads = os.cpu_count() or 1
    for path in request.files:
        bar.named(path.name)
        texts = documents(path, request.form, request.field)
        while batch := list(islice(texts, BATCH_DOCUMENTS)):
            for tokens in vocabulary.encode(batch, threads):
                yield [vocabulary.rule.bos, *tokens]
            bar.advance(sum(len(text) for text in batch))


def _check(request: PackRequest) -> None:
    for path in request.files:
        if not path.is_file():
            raise UsageError(f"no file at {path}", fix="give text files")
    if not re.fullmatch(NAME_PATTERN, request.name) or len(request.name) > 100:
        raise UsageError(
            f"--name {request.name!r} cannot begin a file name", fix="letters, digits, . _ -"
        )
    for option, value in (
        ("--shard-tokens", request.shard_tokens),
        ("--val-tokens", request.val_tokens),
    ):
        if not 0 <= value <= MAX_TOKENS // 2 or (option == "--shard-tokens" and not value):
            raise UsageError(
                f"{option} {value} is out of range",
                why=f"a shard's header counts to {MAX_TOKENS:,}",
            )
