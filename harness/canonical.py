"""One way to write JSON and one way to hash it, so that the same facts give the same bytes.

Keys sorted, UTF-8, two-space indent for files a person reads, no spaces for lines that are hashed.
NaN and infinities are not JSON; they are refused here and written as `null` by `finite`.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any


def dumps(value: Any) -> str:
    """Pretty canonical JSON with a trailing newline; raises ValueError on NaN or infinity."""
    return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def dumps_line(value: Any) -> str:
    """One-line canonical JSON without a newline: the form that the ledger's hash chain covers."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def sha256_text(text: str) -> str:
    """Hex sha256 of the UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file, read in 1 MiB pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while piece := handle.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def finite(value: float | None, digits: int = 10) -> float | None:
    """`value` rounded to significant digits, None if it is NaN or infinite.

    Ten digits: derived statistics come out of BLAS and libm, whose last bits differ between
    platforms; a verdict must not.
    """
    if value is None or not math.isfinite(value):
        return None
    # + 0.0: a negative zero would be written as -0.0.
    return float(f"{value:.{digits - 1}e}") + 0.0
