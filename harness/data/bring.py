"""One file from its source to its final name: download, prove, put in place."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from harness.data.files import STAGING, cannot_write, put_in_place
from harness.data.manifest import ShardEntry, today_utc
from harness.data.progress import ByteBar, megabytes
from harness.data.shard import ShardFacts, inspect_shard
from harness.data.source import Listing, RemoteFile, Source
from harness.data.stream import stated_hashes, token_rule
from harness.errors import EvidenceError
from harness.tracks.track import Track

State = Literal["fetched", "replaced", "here"]


def bring(
    folder: Path,
    file: RemoteFile,
    listing: Listing,
    source: Source | None,
    track: Track,
    bar: ByteBar,
) -> tuple[State, ShardEntry]:
    """Download, prove, and put one file in place; how it got there, and its manifest entry.

    A file that comes out wrong is brought once more from its first byte: a partial file may have
    been begun from other bytes. Raises EvidenceError when it is wrong again, UnfitError when the
    source fails or the disk is full.
    """
    assert source is not None, "a file is lacking, so a source was opened"
    key = file.sha256 or hashlib.sha256(f"{listing.source}|{file.bytes}".encode()).hexdigest()
    partial = folder / STAGING / f"{file.name}.{key[:12]}.part"
    stated = file.sha256 or stated_hashes(track).get(file.name)
    final = folder / file.name

    def say(text: str) -> None:
        bar.warn(f"  {file.name}: {text}")

    for last in (False, True):
        if partial.exists():
            had = partial.stat().st_size
            bar.advance(had)
            say(f"going on after {megabytes(had)}")
        source.download(file, partial, bar.advance, say)
        if not partial.exists():  # an empty file has no first byte
            partial.touch()
        facts = inspect_shard(partial, token_rule(track))
        fault = _fault(facts, stated, "the source states" if file.sha256 else "the rules state")
        if not fault:
            break
        bar.advance(-facts.bytes)
        partial.unlink()
        if last:
            raise EvidenceError(
                f"the source's {file.name} is refused",
                where=listing.source,
                why=f"{fault} (after a second download)",
                fix="nothing was put in place; try another --revision or another source",
            )
        say(f"{fault}; once more from the start")
    try:
        state: State = "replaced" if final.exists() else "fetched"
        if final.exists():
            aside = _free_name(final)
            final.replace(aside)
            say(f"was not what the source has, and is kept as {aside.name}")
        put_in_place(partial, final)
        for stale in (folder / STAGING).glob(f"{file.name}.*.part"):
            stale.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(final, error) from error
    return state, ShardEntry(
        name=file.name,
        bytes=facts.bytes,
        sha256=facts.sha256,
        tokens=facts.tokens,
        source=listing.source,
        revision=listing.revision,
        date_utc=today_utc(),
        vouched_by=file.vouched_by if file.sha256 else "rules" if stated else "this machine",
    )


def _fault(facts: ShardFacts, stated: str | None, says: str) -> str:
    if stated is not None and facts.sha256 != stated:
        return f"its sha256 is {facts.sha256[:16]}…, {says} {stated[:16]}…"
    return facts.faults[0] if facts.faults else ""


def _free_name(final: Path) -> Path:
    """NAME.replaced, or NAME.replaced-2, … : nothing that was kept is overwritten."""
    aside, number = final.with_name(f"{final.name}.replaced"), 1
    while aside.exists():
        number += 1
        aside = final.with_name(f"{final.name}.replaced-{number}")
    return aside
