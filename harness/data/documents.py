"""Documents out of text files, one after the other, in bounded memory where the form allows it."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from harness.errors import UsageError

Form = Literal["auto", "file", "blank-line", "endoftext", "jsonl"]
FORMS: tuple[Form, ...] = ("auto", "file", "blank-line", "endoftext", "jsonl")
MARK = "<|endoftext|>"
PIECE_CHARS = 1 << 20
BLANK_LINE = re.compile(r"\n[ \t]*\n")


def documents(path: Path, form: Form, field: str = "text") -> Iterator[str]:
    """Texts of the documents in a file, without their separators; empty ones are left out.

    form    file: all of it is one document. blank-line, endoftext: separated by those. jsonl: one
            JSON object a line, the text under `field`. auto: jsonl by the name's ending, endoftext
            where the mark occurs, else one document.
    Raises UsageError: unreadable, not UTF-8, a line that is no such object.
    """
    chosen = _form(path) if form == "auto" else form
    if chosen == "jsonl":
        texts = _json_lines(path, field)
    elif chosen == "endoftext":
        texts = _split(path, re.compile(re.escape(MARK)))
    elif chosen == "blank-line":
        texts = (text.strip() for text in _split(path, BLANK_LINE))
    else:
        texts = iter(["".join(_pieces(path))])
    return (text for text in texts if text.strip())


def _form(path: Path) -> Form:
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return "jsonl"
    tail = ""
    for piece in _pieces(path):
        if MARK in tail + piece:
            return "endoftext"
        tail = piece[-len(MARK) :]
    return "file"


def _pieces(path: Path) -> Iterator[str]:
    """The file's text in pieces of about a million characters, newlines as \\n."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    position = 0
    carriage = ""
    try:
        with path.open("rb") as file:
            while raw := file.read(PIECE_CHARS):
                text = carriage + decoder.decode(raw)
                carriage = "\r" if text.endswith("\r") else ""
                yield text[: len(text) - len(carriage)].replace("\r\n", "\n").replace("\r", "\n")
                position += len(raw)
            yield (carriage + decoder.decode(b"", final=True)).replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path.name} is not UTF-8 text",
            where=f"{path}, near byte {position:,}",
            why=error.reason,
            fix="convert it: iconv -t UTF-8",
        ) from None
    except OSError as error:
        raise UsageError(
            f"{path.name} cannot be read", where=str(path), why=error.strerror or str(error)
        ) from error


def _split(path: Path, separator: re.Pattern[str]) -> Iterator[str]:
    """Texts between separators. The text after the last one seen waits for the next piece."""
    waiting: list[str] = []
    for piece in _pieces(path):
        # A separator may straddle two pieces: the last line or so is looked at again with the next.
        text = (waiting.pop() if waiting else "") + piece
        parts = separator.split(text)
        if len(parts) > 1:
            waiting.append(parts[0])
            yield "".join(waiting)
            yield from parts[1:-1]
            waiting = []
        cut = max(len(parts[-1]) - 256, 0)
        waiting += [parts[-1][:cut], parts[-1][cut:]]
    yield "".join(waiting)


def _json_lines(path: Path, field: str) -> Iterator[str]:
    line_number = 0
    for line in _lines(path):
        line_number += 1
        if not line.strip():
            continue
        try:
            text = json.loads(line)[field]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            why = f"no field {error}" if isinstance(error, KeyError) else str(error)
            raise _bad_line(path, line_number, field, why) from None
        if not isinstance(text, str):
            raise _bad_line(path, line_number, field, f"{field!r} is no string")
        yield text


def _lines(path: Path) -> Iterator[str]:
    """Lines at \\n alone: str.splitlines would also cut at U+2028, which JSON strings may hold."""
    waiting: list[str] = []
    for piece in _pieces(path):
        *whole, rest = piece.split("\n")
        for line in whole:
            yield "".join((*waiting, line))
            waiting = []
        waiting.append(rest)
    yield "".join(waiting)


def _bad_line(path: Path, line_number: int, field: str, why: str) -> UsageError:
    return UsageError(
        f"{path.name} is not JSON lines with a text",
        where=f"{path}:{line_number}",
        why=why,
        fix=f'each line an object like {{"{field}": "…"}}; another field: --field NAME',
    )
