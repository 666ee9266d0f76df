"""Constants computed without running the script: strings that are put together or decoded.

Only operations whose result is small are carried out; everything else is "not known".
"""

from __future__ import annotations

import ast
import base64
import binascii
import codecs
import operator
import re
import zlib
from collections.abc import Callable
from typing import Any

MAX_LENGTH = 1 << 18
MAX_INTEGER_BITS = 256


class NotKnownError(Exception):
    """The result cannot be computed here, or is too large."""


_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
    ast.Invert: operator.invert,
}
# A width or precision of three digits or more could make a string of any size.
_LARGE_SPEC = re.compile(r"\d{3}|[{}]")
_LARGE_FIELD = re.compile(r"\{[^{}]*(?:\d{3}|\{)|%[^a-zA-Z%]*(?:\d{3}|\*)")
# `{0.x}` and `{0[x]}` reach into objects; only plain fields are filled in.
_REACHING_FIELD = re.compile(r"\{[^{}:!]*[.\[]")
MAX_WORK = 1 << 22

TEXT_METHODS = frozenset(
    [
        "capitalize",
        "casefold",
        "decode",
        "encode",
        "format",
        "format_map",
        "hex",
        "join",
        "lower",
        "lstrip",
        "partition",
        "removeprefix",
        "removesuffix",
        "replace",
        "rpartition",
        "rsplit",
        "rstrip",
        "split",
        "splitlines",
        "strip",
        "swapcase",
        "title",
        "translate",
        "upper",
        "zfill",
        "count",
        "find",
        "index",
        "startswith",
        "endswith",
    ]
)


def binary(op: ast.operator, left: Any, right: Any) -> Any:
    """left op right; raises NotKnownError."""
    function = _BINARY.get(type(op))
    if function is None or not (_plain(left) and _plain(right)):
        raise NotKnownError
    if isinstance(op, ast.Mult):
        for text, times in ((left, right), (right, left)):
            repeats = times if isinstance(times, int) else 0
            if isinstance(text, str | bytes) and len(text) * repeats > MAX_LENGTH:
                raise NotKnownError
    if isinstance(op, ast.LShift | ast.Pow):
        if not (isinstance(right, int | float) and abs(right) <= MAX_INTEGER_BITS):
            raise NotKnownError
        if isinstance(op, ast.Pow) and isinstance(left, int) and left.bit_length() > 16:
            raise NotKnownError
    if isinstance(op, ast.Mod) and isinstance(left, str | bytes):
        if _LARGE_FIELD.search(left if isinstance(left, str) else left.decode("latin-1")):
            raise NotKnownError
        _affordable(left, [right])
    return guarded(lambda: function(left, right))


def unary(op: ast.unaryop, operand: Any) -> Any:
    """op operand; raises NotKnownError."""
    return guarded(lambda: _UNARY[type(op)](operand))


def formatted(value: Any, conversion: int, spec: str) -> str:
    """One field of an f-string; raises NotKnownError."""
    if _LARGE_SPEC.search(spec):
        raise NotKnownError
    conversions: dict[int, Callable[[Any], str]] = {115: str, 114: repr, 97: ascii}
    convert = conversions.get(conversion)
    shown = value if convert is None else convert(value)
    return str(guarded(lambda: format(shown, spec)))


def method(owner: Any, name: str, args: list[Any], keywords: dict[str, Any]) -> Any:
    """owner.name(*args) for a string or bytes; raises NotKnownError."""
    if not isinstance(owner, str | bytes) or name not in TEXT_METHODS:
        raise NotKnownError
    if name in ("format", "format_map", "zfill"):
        template = owner if isinstance(owner, str) else ""
        if _LARGE_FIELD.search(template) or _REACHING_FIELD.search(template) or name == "zfill":
            raise NotKnownError
    _affordable(owner, [*args, *keywords.values()])
    if name == "decode" and args and not _text_codec(args[0]):
        return decode(owner, args[0])
    return guarded(lambda: getattr(owner, name)(*args, **keywords))


def _affordable(owner: str | bytes, args: list[Any]) -> None:
    """Raises NotKnownError where the result could be far larger than what it is made of."""
    longest = sum(_size(arg) for arg in args)
    if longest > MAX_LENGTH or (len(owner) + 1) * longest > MAX_WORK:
        raise NotKnownError


def _size(value: Any) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, tuple | list):
        return sum(_size(item) for item in value)
    if isinstance(value, dict):
        return sum(_size(item) for item in value.values())
    return 8


def decode(data: Any, codec: Any) -> Any:
    """codecs.decode; raises NotKnownError."""
    if codec in ("zlib", "zip", "zlib_codec"):
        return inflate(data)
    if codec in ("bz2", "bz2_codec"):
        raise NotKnownError
    return guarded(lambda: codecs.decode(data, codec))


def inflate(data: Any) -> bytes:
    """zlib.decompress, bounded; raises NotKnownError."""

    def run() -> bytes:
        machine = zlib.decompressobj()
        result = machine.decompress(data, MAX_LENGTH)
        if machine.unconsumed_tail:
            raise NotKnownError
        return result

    return bytes(guarded(run))


def _text_codec(name: Any) -> bool:
    try:
        return bool(codecs.lookup(name)._is_text_encoding)
    except (LookupError, TypeError, ValueError):
        return False


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "builtins.abs": abs,
    "builtins.ascii": ascii,
    "builtins.bool": bool,
    "builtins.bytearray": bytes,
    "builtins.bytes": bytes,
    "builtins.chr": chr,
    "builtins.float": float,
    "builtins.hex": hex,
    "builtins.int": int,
    "builtins.len": len,
    "builtins.max": max,
    "builtins.min": min,
    "builtins.oct": oct,
    "builtins.ord": ord,
    "builtins.repr": repr,
    "builtins.round": round,
    "builtins.str": str,
    "builtins.str.maketrans": str.maketrans,
    "builtins.bytes.fromhex": bytes.fromhex,
    "builtins.bytearray.fromhex": bytes.fromhex,
    "base64.b16decode": base64.b16decode,
    "base64.b32decode": base64.b32decode,
    "base64.b64decode": base64.b64decode,
    "base64.b85decode": base64.b85decode,
    "base64.a85decode": base64.a85decode,
    "base64.decodebytes": base64.decodebytes,
    "base64.standard_b64decode": base64.standard_b64decode,
    "base64.urlsafe_b64decode": base64.urlsafe_b64decode,
    "binascii.a2b_base64": binascii.a2b_base64,
    "binascii.a2b_hex": binascii.a2b_hex,
    "binascii.unhexlify": binascii.unhexlify,
    "codecs.decode": decode,
    "zlib.decompress": inflate,
}
"""Functions that are carried out on constants."""

for _path in ("posixpath.join", "os.path.join"):
    FUNCTIONS[_path] = lambda *parts: "/".join(str(part) for part in parts)
for _path in ("pathlib.Path", "pathlib.PurePath", "pathlib.PosixPath", "os.fspath"):
    FUNCTIONS[_path] = lambda *parts: "/".join(str(part) for part in parts)


def call(path: str, args: list[Any], keywords: dict[str, Any]) -> Any:
    """A function of FUNCTIONS on constants; raises NotKnownError."""
    function = FUNCTIONS.get(path)
    if function is None:
        raise NotKnownError
    if path in ("builtins.bytes", "builtins.bytearray") and args and isinstance(args[0], int):
        raise NotKnownError
    return guarded(lambda: function(*args, **keywords))


def guarded(compute: Callable[[], Any]) -> Any:
    """The result if it is plain and small; raises NotKnownError for everything else."""
    try:
        result = compute()
    except NotKnownError:
        raise
    except Exception:
        # Whatever the operation raises, it would raise in the script too: there is no value.
        raise NotKnownError from None
    if not _plain(result):
        raise NotKnownError
    return result


def _plain(value: Any) -> bool:
    if isinstance(value, str | bytes):
        return len(value) <= MAX_LENGTH
    if isinstance(value, bool | float | complex) or value is None or value is ...:
        return True
    if isinstance(value, int):
        return value.bit_length() <= MAX_INTEGER_BITS
    if isinstance(value, tuple | list):
        return len(value) <= 4096 and all(_plain(item) for item in value)
    if isinstance(value, dict):
        return len(value) <= 4096
    return isinstance(value, slice)
