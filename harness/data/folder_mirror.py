"""A folder that already holds shards: another disk, a shared mount. They are copied and proved."""

from __future__ import annotations

import re
from pathlib import Path

from harness.data.files import cannot_write
from harness.data.manifest import NAME_PATTERN, read_manifest
from harness.data.source import Listing, OnBytes, RemoteFile, Say
from harness.data.stream import data_folder, is_shard, shards_here
from harness.data.transfer import write_all
from harness.data.web_mirror import SUMS, mirror_listing, parse_sums
from harness.errors import UnfitError, UsageError
from harness.tracks.track import Track

PIECE_BYTES = 4 << 20
SUMS_LIMIT_BYTES = 4 << 20


class FolderMirror:
    """`place` is the folder of the shards, or a root that holds the track's data folder."""

    def __init__(self, place: Path, track: Track) -> None:
        if not place.is_dir():
            raise UsageError(f"no folder at {place}", fix="give a folder or an address with --from")
        below = data_folder(track, place)
        self.folder = (below if below.is_dir() else place).absolute()
        self._track = track

    def listing(self) -> Listing:
        """The shards that are here, with the hashes that its manifest or SHA256SUMS states."""
        stated: dict[str, RemoteFile] = {}
        title, revision = str(self.folder), None
        manifest = read_manifest(self.folder)
        if manifest is not None:
            listing = mirror_listing(str(self.folder), manifest)
            title, revision, stated = listing.title, listing.revision, dict(listing.files)
        elif (self.folder / SUMS).is_file():
            with (self.folder / SUMS).open("rb") as file:
                sums = parse_sums(file.read(SUMS_LIMIT_BYTES))
            stated = {n: RemoteFile(n, None, s, "mirror SHA256SUMS") for n, s in sums.items()}
        files = {}
        for name in shards_here(self._track, self.folder):
            path = self.folder / name
            # A FIFO of that name would never end.
            if path.is_file() and re.fullmatch(NAME_PATTERN, name):
                size = path.stat().st_size
                files[name] = stated.get(name) or RemoteFile(name, size, None, "this machine")
        files |= {n: f for n, f in stated.items() if n not in files and is_shard(self._track, n)}
        return Listing(title, str(self.folder), revision, files)

    def describe(self, name: str) -> RemoteFile:
        try:
            return RemoteFile(name, (self.folder / name).stat().st_size, None, "this machine")
        except OSError as error:
            raise self._unreadable(name, error) from error

    def download(self, file: RemoteFile, partial: Path, on_bytes: OnBytes, say: Say) -> None:
        """Copy from where the partial file ends: the caller hashes the whole in any case."""
        try:
            reader = (self.folder / file.name).open("rb", buffering=0)
        except OSError as error:
            raise self._unreadable(file.name, error) from error
        with reader:
            try:
                writer = partial.open("ab", buffering=0)
            except OSError as error:
                raise cannot_write(partial, error) from error
            with writer:
                reader.seek(writer.tell())
                while piece := reader.read(PIECE_BYTES):
                    write_all(writer, piece, partial)
                    on_bytes(len(piece))

    def _unreadable(self, name: str, error: OSError) -> UnfitError:
        return UnfitError(
            f"the mirror's {name} cannot be read",
            where=str(self.folder),
            why=error.strerror or str(error),
            fix="its own list names it: repair the mirror, or use another source",
        )
