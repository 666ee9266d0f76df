"""Any web server that serves the shards under their own names.

If it has a `manifest.json` (ours) or a `SHA256SUMS` (of sha256sum) beside them, each file is held
against it; otherwise names are the field's numbers and only header and tokens can be checked.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Mapping
from pathlib import Path

from harness.data.manifest import (
    MANIFEST,
    MANIFEST_LIMIT_BYTES,
    NAME_PATTERN,
    Manifest,
    parse_manifest,
)
from harness.data.source import Listing, OnBytes, RemoteFile, Say
from harness.data.transfer import Web, shown
from harness.errors import UnfitError, UsageError

SUMS = "SHA256SUMS"


class WebMirror:
    """`base` is the folder of the shards: `base`/fineweb_val_000000.bin is a file."""

    def __init__(self, base: str, say: Say) -> None:
        parts = urllib.parse.urlsplit(base)
        if parts.username or parts.password or parts.query or parts.fragment or not parts.hostname:
            raise UsageError(
                "--from takes a plain address",
                where=shown(base),
                why="it has a user, a password, a query or no host",
                fix="--from https://host/folder, where the folder holds the .bin files",
            )
        self.base = base.rstrip("/") + "/"
        self._web = Web({})
        self._say = say

    def listing(self) -> Listing:
        raw = self._web.small_file(self.base + MANIFEST, MANIFEST_LIMIT_BYTES, self._say)
        if raw is not None:
            manifest = parse_manifest(raw, shown(self.base + MANIFEST))
            return mirror_listing(shown(self.base), manifest)
        raw = self._web.small_file(self.base + SUMS, MANIFEST_LIMIT_BYTES, self._say)
        title = shown(self.base)
        if raw is None:
            return Listing(f"{title} (no manifest, no {SUMS})", title, None, {}, complete=False)
        sums = parse_sums(raw)
        files = {name: RemoteFile(name, None, sums[name], "mirror SHA256SUMS") for name in sums}
        return Listing(f"{title} ({SUMS})", title, None, files)

    def describe(self, name: str) -> RemoteFile:
        return RemoteFile(name, self._web.size(self.base + name, self._say), None, "this machine")

    def download(self, file: RemoteFile, partial: Path, on_bytes: OnBytes, say: Say) -> None:
        self._web.download(self.base + file.name, partial, file.bytes, on_bytes, say)


def mirror_listing(place: str, manifest: Manifest) -> Listing:
    """What a mirror's own manifest says it has, with the hub's revision if all share one."""
    revisions = {shard.revision for shard in manifest.shards}
    revision = revisions.pop() if len(revisions) == 1 else None
    named = f" (copy of {revision[:12]})" if revision else ""
    files: Mapping[str, RemoteFile] = {
        shard.name: RemoteFile(shard.name, shard.bytes, shard.sha256, "mirror manifest")
        for shard in manifest.shards
    }
    return Listing(f"{place}{named}", place, revision, files)


def parse_sums(raw: bytes) -> dict[str, str]:
    """File name -> sha256 from `sha256sum`'s output; lines about anything else are passed over.

    The sums may have been made elsewhere: of a path the last part counts. Raises UnfitError where
    no line is such a sum, or two of them contradict each other.
    """
    found: dict[str, str] = {}
    for line in raw.decode("utf-8", errors="replace").splitlines():
        match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](?:.*/)?([^/]+)", line.strip())
        if match and re.fullmatch(NAME_PATTERN, match[2]):
            sha256 = match[1].lower()
            if found.setdefault(match[2], sha256) != sha256:
                raise UnfitError(f"the mirror's {SUMS} has two sums of {match[2]}")
    if not found:
        raise UnfitError(
            f"the mirror's {SUMS} holds no sums",
            why="no line is `<64 hex digits>  <name>`",
            fix="ask whoever keeps the mirror, or use another source",
        )
    return found
