"""GPT-2's byte-pair encoding, from a rank file or from what tiktoken keeps.

A rank file (`gpt2.tiktoken`) has a line a token: base64 of its bytes, a space, its rank. Nothing
is downloaded when one is given.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.data.shard import GPT2, TokenRule
from harness.errors import UnfitError, UsageError

# The word pattern of GPT-2 (Radford et al. 2019), as its encoder states it.
PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
RANK_FILE_LIMIT_BYTES = 64 << 20
INSTALL = 'pip install "speedrun[data]"  (or: pip install tiktoken)'


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """`identity` names the ranks: a hash of the file, or the name tiktoken knows them by."""

    identity: str
    rule: TokenRule
    encoding: Any

    def encode(self, texts: Sequence[str], threads: int) -> list[list[int]]:
        """Token ids of each text. Marks like <|endoftext|> inside a text are plain text."""
        return [
            list(ids) for ids in self.encoding.encode_ordinary_batch(texts, num_threads=threads)
        ]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens that were encoded from one; invalid UTF-8 shows as U+FFFD."""
        return str(self.encoding.decode(tokens))


def load_vocabulary(path: Path | None) -> Vocabulary:
    """From a rank file, or tiktoken's own GPT-2 from its cache. Raises UnfitError, UsageError."""
    tiktoken = _tiktoken()
    if path is None:
        try:
            return Vocabulary("tiktoken's gpt2", GPT2, tiktoken.get_encoding("gpt2"))
        except Exception as error:  # its loader raises whatever its HTTP library does
            raise UnfitError(
                "no GPT-2 vocabulary is at hand",
                why=f"tiktoken has none in its cache and cannot fetch one: {type(error).__name__}",
                fix="give a rank file with --vocab gpt2.tiktoken, or set TIKTOKEN_CACHE_DIR",
            ) from error
    try:
        with path.open("rb") as file:
            raw = file.read(RANK_FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"no vocabulary at {path}", why=error.strerror or str(error), fix="--vocab PATH"
        ) from error
    ranks = parse_ranks(raw, str(path))
    encoding = tiktoken.Encoding(
        name="gpt2-ranks",
        pat_str=PATTERN,
        mergeable_ranks=ranks,
        special_tokens={"<|endoftext|>": GPT2.bos},
    )
    return Vocabulary(f"ranks {hashlib.sha256(raw).hexdigest()[:16]}", GPT2, encoding)


def parse_ranks(raw: bytes, where: str) -> dict[bytes, int]:
    """Token bytes -> rank; raises UsageError naming the line at fault.

    Every single byte must be a token (or some text could not be encoded), ranks are unique and
    below BOS.
    """
    ranks: dict[bytes, int] = {}
    if len(raw) > RANK_FILE_LIMIT_BYTES:
        raise _bad(where, f"larger than {RANK_FILE_LIMIT_BYTES >> 20} MiB")
    for number, line in enumerate(raw.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise _bad(f"{where}:{number}", "not `<base64> <rank>`") from None
    bare = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if bare:
        raise _bad(where, f"{len(bare)} single bytes are no tokens, the first 0x{bare[0]:02x}")
    values = set(ranks.values())
    if len(values) < len(ranks) or min(values) < 0 or max(values) >= GPT2.bos:
        raise _bad(where, f"ranks must be unique and in 0…{GPT2.bos - 1}; {GPT2.bos} is BOS")
    return ranks


def _tiktoken() -> Any:
    try:
        return importlib.import_module("tiktoken")
    except ImportError as error:
        raise UnfitError(
            "packing text needs the package tiktoken", why=str(error), fix=INSTALL
        ) from error


def _bad(where: str, why: str) -> UsageError:
    return UsageError(
        "the vocabulary is no rank file",
        where=where,
        why=why,
        fix="a file of `<base64 of the token's bytes> <rank>` lines, such as gpt2.tiktoken",
    )
