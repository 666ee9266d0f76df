"""The file behind a log: opened with care, read in blocks of whole lines, never more than allowed.

A path in somebody's record folder can be anything. Pipes and devices are refused before they are
opened (reading one may never return), compressed and UTF-16 files are told apart from logs, and a
file without line ends cannot fill the memory.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Final

from harness.errors import LogError

DEFAULT_MAX_BYTES: Final = 64 << 20
"""The largest log of the field has 0.3 MB; thirty runs of 10,000 printed steps have 16 MB."""

BLOCK_BYTES: Final = 1 << 17

_COMPRESSED: Final = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"PK\x03\x04": ("zip", "unzip"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
    b"\xfd7zXZ\x00": ("xz", "unxz"),
    b"BZh": ("bzip2", "bunzip2"),
}
_UTF16: Final = (b"\xff\xfe", b"\xfe\xff")
_BOM: Final = b"\xef\xbb\xbf"


def line_too_long(limit: int) -> LogError:
    return LogError(
        f"a line is longer than {limit:,} characters",
        why="no result line is; a log may not be a dump",
        fix="give the text that the script printed, with its line ends",
    )


class LogFile:
    """One file of text. `notes` fills while `blocks()` is read."""

    def __init__(self, path: Path, *, max_bytes: int, max_line_chars: int) -> None:
        self.path = path
        self.notes: list[str] = []
        self._max_bytes = max_bytes
        self._max_line_chars = max_line_chars

    def blocks(self) -> Iterator[str]:
        """Blocks of whole lines, each ending with a newline; raises LogError."""
        try:
            with os.fdopen(self._open(), "rb", buffering=0) as file:
                yield from self._read(file)
        except OSError as error:
            raise LogError(
                "the log cannot be read",
                why=os.strerror(error.errno) if error.errno else str(error),
                fix="check the path and its permissions",
            ) from None

    def _open(self) -> int:
        if "\0" in str(self.path):
            raise LogError("the log cannot be read", why="its path contains a NUL character")
        self._require_regular(self.path.stat())
        # O_NONBLOCK: should a pipe have taken the file's place since, opening it does not wait.
        descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            self._require_regular(status)
            if status.st_size > self._max_bytes:
                raise LogError(
                    "the file is too large for a log",
                    why=f"it has {status.st_size:,} bytes; the limit is {self._max_bytes:,}",
                    fix="split it into its runs, or cut what is not the run's own output",
                )
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    @staticmethod
    def _require_regular(status: os.stat_result) -> None:
        mode = status.st_mode
        if stat.S_ISDIR(mode):
            raise LogError(
                "the path is a folder, not a log", fix="give one file of it, or verify the folder"
            )
        if not stat.S_ISREG(mode):
            kind = "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
            raise LogError(
                f"the path is a {kind}, not a file",
                why="what it would deliver may never end",
                fix="save its output to a file first",
            )

    def _read(self, file: FileIO) -> Iterator[str]:
        rest = b""
        total = 0
        while chunk := file.read(BLOCK_BYTES):
            if total == 0:
                chunk = self._checked_start(chunk)
            total += len(chunk)
            if total > self._max_bytes:
                raise LogError(
                    "the file is too large for a log",
                    why=f"it grew past {self._max_bytes:,} bytes while being read",
                    fix="wait until the run has ended",
                )
            data = rest + chunk
            end = data.rfind(b"\n") + 1 or data.rfind(b"\r") + 1
            if end:
                yield self._text(data[:end])
            rest = data[end:]
            # A character has at most four bytes in UTF-8.
            if len(rest) > 4 * self._max_line_chars:
                raise line_too_long(self._max_line_chars)
        if total == 0:
            raise LogError("the log is empty", fix="was the run started? did the disk fill up?")
        if rest:
            self.notes.append("no-final-newline: the last line has no line end")
            yield self._text(rest + b"\n")

    def _checked_start(self, chunk: bytes) -> bytes:
        for magic, (name, tool) in _COMPRESSED.items():
            if chunk.startswith(magic):
                raise LogError(f"the file is compressed ({name})", fix=f"unpack it: {tool}")
        if chunk.startswith(_UTF16):
            raise LogError(
                "the file is UTF-16 text, not UTF-8",
                why="it begins with a UTF-16 byte order mark, as PowerShell's > writes",
                fix="convert it: iconv -f UTF-16 -t UTF-8",
            )
        if chunk.startswith(_BOM):
            self._note("bom: the file begins with a UTF-8 byte order mark")
            return chunk[len(_BOM) :]
        return chunk

    def _text(self, data: bytes) -> str:
        if b"\r\n" in data:
            self._note("crlf: lines end with CR LF")
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            self._note("not-utf8: bytes that are not UTF-8 were replaced")
            text = data.decode("utf-8", errors="replace")
        if not text.endswith("\n"):
            text += "\n" if not text.endswith("\r") else ""
        if len(text) > self._max_line_chars and max(map(len, text.split("\n"))) > (
            self._max_line_chars
        ):
            raise line_too_long(self._max_line_chars)
        return text

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)
