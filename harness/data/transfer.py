"""HTTP downloads that resume where they stopped.

huggingface_hub has dropped this: since 2.x it writes to a file of its own for each call and
deletes it on failure, so a killed 200 MB download starts again. Here the bytes stay in one
partial file, and the next attempt, in this process or a later one, asks for the rest with a
`Range` header. Whether the whole is right is not decided here: the caller hashes it.
"""

from __future__ import annotations

import http.client
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from harness import __version__
from harness.data.files import cannot_write
from harness.data.retry import TransferEndedError, reason_of, status_of, with_patience
from harness.data.source import OnBytes, Say
from harness.errors import UnfitError

TIMEOUT_S = 30.0  # for each read, not for the whole
PIECE_BYTES = 1 << 20


class _SameHostCredentials(urllib.request.HTTPRedirectHandler):
    """Follows redirects; a token for the hub is not handed to the storage host it points to."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and origin(newurl) != origin(req.full_url):
            request.remove_header("Authorization")
        return request


@dataclass(frozen=True, slots=True)
class Web:
    """Opens URLs of one source. `headers` may carry a token."""

    headers: Mapping[str, str]

    def open(self, url: str, method: str = "GET", **extra: str) -> Any:
        """Response for a URL; raises urllib.error.URLError, HTTPError, OSError."""
        headers = {
            "User-Agent": f"speedrun/{__version__}",
            "Accept-Encoding": "identity",  # a compressed body has other lengths and ranges
            **self.headers,
            **extra,
        }
        request = urllib.request.Request(url, headers=headers, method=method)
        opener = urllib.request.build_opener(_SameHostCredentials)
        return opener.open(request, timeout=TIMEOUT_S)

    def small_file(self, url: str, limit_bytes: int, say: Say) -> bytes | None:
        """A small file's bytes, None where the server says there is none (403, 404, 410)."""

        def read() -> bytes:
            with self.open(url) as response:
                return bytes(response.read(limit_bytes + 1))

        try:
            raw = with_patience(read, lambda: 0, say)
        except (OSError, http.client.HTTPException) as error:
            if status_of(error) in (403, 404, 410):
                return None
            raise unreachable(url, error) from error
        if len(raw) > limit_bytes:
            raise UnfitError("the file is too large", where=shown(url), why=f"over {limit_bytes} B")
        return raw

    def size(self, url: str, say: Say) -> int | None:
        """Content-Length of a file, None if unstated; raises UnfitError where it is absent."""

        def head() -> int | None:
            with self.open(url, "HEAD") as response:
                return _integer(response.headers.get("Content-Length"))

        try:
            return with_patience(head, lambda: 0, say)
        except (OSError, http.client.HTTPException) as error:
            if status_of(error) in (405, 501):  # a server without HEAD
                return None
            raise unreachable(url, error) from error

    def download(
        self, url: str, partial: Path, size: int | None, on_bytes: OnBytes, say: Say
    ) -> None:
        """Append what is lacking to `partial`. Raises UnfitError; what has come stays."""

        def gained() -> int:
            return partial.stat().st_size if partial.exists() else 0

        try:
            with_patience(lambda: self._rest(url, partial, size, on_bytes), gained, say)
        except (OSError, http.client.HTTPException) as error:
            raise unreachable(url, error) from error

    def _rest(self, url: str, partial: Path, size: int | None, on_bytes: OnBytes) -> None:
        have = partial.stat().st_size if partial.exists() else 0
        if size is not None and have == size:
            return
        if size is not None and have > size:
            partial.unlink()
            on_bytes(-have)
            have = 0
        extra = {"Range": f"bytes={have}-"} if have else {}
        try:
            response = self.open(url, **extra)
        except urllib.error.HTTPError as error:
            if error.code == 416 and have:  # the server's file is no longer than what is here
                partial.unlink()
                on_bytes(-have)
                raise TransferEndedError(
                    "the server's file is not the one begun; from the start"
                ) from None
            raise
        with response:
            start, total = _position(response, have)
            total = size if total is None else total
            if size is not None and total != size:
                raise UnfitError(
                    f"the server's file has {total} bytes, its listing says {size}",
                    where=shown(url),
                    fix="the source changed or is broken: try again later, or another source",
                )
            if start != have:  # it ignored the range and sends all
                on_bytes(-have)
            _append(response, partial, start, on_bytes)
        got = partial.stat().st_size
        if total is not None and got != total:
            raise TransferEndedError(f"the transfer ended after {got:,} of {total:,} bytes")


def _append(response: Any, partial: Path, start: int, on_bytes: OnBytes) -> None:
    """Write the body from `start` on; what follows in the partial file is cut off first."""
    try:
        file = partial.open("r+b" if partial.exists() else "xb", buffering=0)
    except OSError as error:
        raise cannot_write(partial, error) from error
    with file:
        file.truncate(start)
        file.seek(start)
        # read1: what has come is on disk at once, so a kill loses nothing.
        while piece := response.read1(PIECE_BYTES):
            write_all(file, piece, partial)
            on_bytes(len(piece))


def write_all(file: Any, piece: bytes, path: Path) -> None:
    """Every byte of `piece`; raises UnfitError where the disk takes no more."""
    view = memoryview(piece)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError as error:
        raise cannot_write(path, error) from error


def _position(response: Any, asked: int) -> tuple[int, int | None]:
    """(first byte of the body, size of the whole file or None) of an answer to a range request."""
    length = _integer(response.headers.get("Content-Length"))
    if response.status != 206:
        return 0, length
    match = re.fullmatch(
        r"bytes (\d+)-\d+/(\d+|\*)", (response.headers.get("Content-Range") or "").strip()
    )
    if match is None or int(match[1]) != asked:
        raise TransferEndedError("the server answers another range than was asked")
    return asked, None if match[2] == "*" else int(match[2])


def unreachable(url: str, error: Exception) -> UnfitError:
    """A source that gave up, in the user's words."""
    status = status_of(error)
    fix = "check the network, then run the same command again: it resumes"
    if status in (404, 410):
        fix = "check the address, the track and the revision"
    elif status in (401, 403):
        fix = "check that you may read it (for the hub: `hf auth login`)"
    return UnfitError(
        "the source does not have this file" if status in (404, 410) else "the source fails",
        where=shown(url),
        why=reason_of(error),
        fix=fix,
    )


def shown(url: str) -> str:
    """The URL without user, password, query: what may be printed and kept."""
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    netloc = host + (f":{parts.port}" if parts.port else "")
    return urllib.parse.urlunsplit((parts.scheme, netloc, parts.path, "", ""))


def origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _integer(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None
