"""Bring the shards that are missing, prove each, and write down what it is.

A file gets its final name only after its hash, header and token ids are right. Until then it is a
partial file in `.fetch/` that the next attempt continues. What was there under that name and was
wrong is kept aside as NAME.replaced.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.data.bring import State, bring
from harness.data.files import STAGING, cannot_write, make_folder, only_writer
from harness.data.folder_mirror import FolderMirror
from harness.data.hash_cache import cached_sha256
from harness.data.hub import DEFAULT_REVISION, Hub, is_url
from harness.data.manifest import (
    Manifest,
    ShardEntry,
    read_manifest,
    today_utc,
    write_manifest,
)
from harness.data.progress import ByteBar, megabytes
from harness.data.shard import inspect_shard, read_header
from harness.data.source import Listing, RemoteFile, Source, choose_files
from harness.data.stream import data_folder, numbered_names, stated_hashes, token_rule
from harness.data.web_mirror import WebMirror
from harness.errors import EvidenceError, UnfitError, UsageError
from harness.tracks.track import Track

SPARE_BYTES = 64 << 20  # left free beside the shards


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """`origin` is `--from`: a folder, a web address, or None for the hub."""

    track: Track
    root: Path
    train_shards: int
    revision: str | None = None
    origin: str | None = None


@dataclass(frozen=True, slots=True)
class FetchedShard:
    """`state`: here (was right already), fetched, replaced (a wrong one is kept aside)."""

    name: str
    bytes: int
    tokens: int
    sha256: str
    state: State
    vouched_by: str


@dataclass(frozen=True, slots=True)
class FetchResult:
    folder: Path
    source: str
    revision: str | None
    shards: tuple[FetchedShard, ...]

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        shards = [asdict(shard) for shard in self.shards]
        return {
            "folder": str(self.folder),
            "source": self.source,
            "revision": self.revision,
            "shards": shards,
            "tokens": sum(shard.tokens for shard in self.shards),
            "exit_code": 0,
        }


def fetch(request: FetchRequest, bar: ByteBar) -> FetchResult:
    """Make sure that the validation shard and the first train shards are here and right.

    Raises UnfitError (unreachable, no room), EvidenceError (a source's file is not what it should
    be), UsageError (fewer shards than asked for, an unknown revision).
    """
    folder = make_folder(data_folder(request.track, request.root))

    def waiting() -> None:
        bar.warn(f"another process is writing to {folder}; waiting for it")

    with only_writer(folder, waiting):
        try:
            return _fetch(request, folder, bar)
        except KeyboardInterrupt:
            bar.warn("the same command goes on where this one stopped")
            raise


def _fetch(request: FetchRequest, folder: Path, bar: ByteBar) -> FetchResult:
    manifest = read_manifest(folder) or Manifest()
    source, listing, files = _wanted(request, manifest, bar)
    _hold_against_rules(request.track, listing, files)
    with bar.over(None, "hashing what is here"):
        keep = {f.name: _right_here(folder, f, listing, manifest, request.track) for f in files}
    lacking = [file for file in files if keep[file.name] is None]
    bar.say(f"{listing.title}\n→ {folder}: {_amount(folder, files, lacking)}")
    _check_room(folder, listing, lacking)
    total = sum(file.bytes or 0 for file in lacking) if _sized(lacking) else None
    shards = []
    with bar.over(total, "fetching"):
        for number, file in enumerate(files, 1):
            entry = keep[file.name]
            state: State = "here"
            started_s = time.monotonic()
            if entry is None:
                bar.named(f"{file.name} ({number} of {len(files)})")
                state, entry = bring(folder, file, listing, source, request.track, bar)
            if manifest.entry(file.name) != entry:
                manifest = manifest.with_entry(entry)
                _write(folder, manifest)
            shards.append(_report(entry, state, time.monotonic() - started_s, bar))
    return FetchResult(folder, listing.source, listing.revision, tuple(shards))


def open_source(request: FetchRequest, revision: str, say: Callable[[str], None]) -> Source:
    """The hub, a web mirror or a folder. Raises UsageError, UnfitError."""
    if request.origin is None:
        return Hub(revision, say)
    if request.revision is not None:
        raise UsageError(
            "--revision is the hub's; --from takes what the mirror has",
            fix="leave one of the two out",
        )
    if is_url(request.origin):
        return WebMirror(request.origin, say)
    return FolderMirror(Path(request.origin), request.track)


def _wanted(
    request: FetchRequest, manifest: Manifest, bar: ByteBar
) -> tuple[Source | None, Listing, list[RemoteFile]]:
    """Which files, as whom to ask. All of them known and here: nobody is asked."""
    track, folder = request.track, data_folder(request.track, request.root)
    entries = [shard for shard in manifest.shards if shard.vouched_by == "hub"]
    commits = {shard.revision for shard in entries}
    pinned = commits.pop() if len(commits) == 1 else None
    if request.origin is None and pinned and request.revision in (None, pinned):
        names = [track.data.validation_file, *numbered_names(track, request.train_shards)]
        known = {shard.name: shard for shard in entries}
        if all(name in known and (folder / name).is_file() for name in names):
            files = [RemoteFile(n, known[n].bytes, known[n].sha256, "hub") for n in names]
            listing = Listing(f"as fetched before at {pinned[:12]}", entries[0].source, pinned)
            if all(_right_here(folder, file, listing, manifest, track) for file in files):
                return None, listing, files
    source = open_source(request, request.revision or pinned or DEFAULT_REVISION, bar.warn)
    listing = source.listing()
    return source, listing, choose_files(track, listing, source, request.train_shards)


def _hold_against_rules(track: Track, listing: Listing, files: list[RemoteFile]) -> None:
    stated = stated_hashes(track)
    for file in files:
        expected = stated.get(file.name)
        if expected and file.sha256 and file.sha256 != expected:
            raise EvidenceError(
                f"the source's {file.name} is not the track's",
                where=listing.source,
                why=f"its sha256 is {file.sha256[:16]}…, the track's rules state {expected[:16]}…",
                fix="another --revision or another source",
            )


def _right_here(
    folder: Path, file: RemoteFile, listing: Listing, manifest: Manifest, track: Track
) -> ShardEntry | None:
    """The manifest's entry for a file that is here and right; None if it must be brought.

    One that was here before, with the source's bytes, is entered as the source's.
    """
    path = folder / file.name
    if not path.is_file():
        return None
    known = manifest.entry(file.name)
    expected = file.sha256 or stated_hashes(track).get(file.name)
    try:
        if expected is None:
            facts = inspect_shard(path, token_rule(track))
            right = not facts.faults and file.bytes in (None, facts.bytes)
            right = right and (known is None or known.sha256 == facts.sha256)
            sha256, tokens = facts.sha256, facts.tokens
        else:
            sha256 = cached_sha256(path)
            header = read_header(path)
            right, tokens = sha256 == expected, header.tokens if header else 0
        size = path.stat().st_size
    except OSError:
        return None
    if not right:
        return None
    if known is not None and known.sha256 == sha256:
        return known
    return ShardEntry(
        name=file.name,
        bytes=size,
        sha256=sha256,
        tokens=tokens,
        source=listing.source,
        revision=listing.revision,
        date_utc=today_utc(),
        vouched_by=file.vouched_by,
    )


def _sized(files: list[RemoteFile]) -> bool:
    return all(file.bytes is not None for file in files)


def _amount(folder: Path, files: list[RemoteFile], lacking: list[RemoteFile]) -> str:
    if not lacking:
        return f"all {len(files)} shards are here"
    size = (
        megabytes(sum(file.bytes or 0 for file in lacking)) if _sized(lacking) else "size unknown"
    )
    return f"{len(lacking)} of {len(files)} shards to fetch, {size}"


def _check_room(folder: Path, listing: Listing, lacking: list[RemoteFile]) -> None:
    """Raises UnfitError before the first byte where the disk cannot take the last."""
    partials = sum(part.stat().st_size for part in (folder / STAGING).glob("*.part"))
    wanted = sum(file.bytes or 0 for file in lacking) - partials
    free = shutil.disk_usage(folder).free
    if lacking and wanted + SPARE_BYTES > free:
        raise UnfitError(
            "too little free disk for the shards",
            where=str(folder),
            why=f"{megabytes(wanted)} to fetch and {megabytes(SPARE_BYTES)} to spare, "
            f"{megabytes(free)} free",
            fix="make room, fetch fewer with --shards, or choose another disk with --dir",
        )


def _write(folder: Path, manifest: Manifest) -> None:
    try:
        write_manifest(folder, manifest)
    except OSError as error:
        raise cannot_write(folder, error) from error


def _report(entry: ShardEntry, state: State, seconds: float, bar: ByteBar) -> FetchedShard:
    shard = FetchedShard(
        entry.name, entry.bytes, entry.tokens, entry.sha256, state, entry.vouched_by
    )
    word = "already here" if state == "here" else f"{seconds:.1f} s"
    bar.say(
        f"  ✓ {shard.name}  {shard.tokens:,} tokens  {megabytes(shard.bytes)}  "
        f"sha256 {shard.sha256[:12]}  {word}"
    )
    return shard
