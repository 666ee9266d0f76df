"""Run a helper program once and take what it says: no shell, no terminal, a limit on its time."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UnfitError


@dataclass(frozen=True, slots=True)
class Done:
    """Exit code, stdout and stderr."""

    code: int
    out: str
    err: str


def find_program(name: str) -> str | None:
    """Its path, None where it is not installed."""
    return shutil.which(name)


def run_program(command: Sequence[str], *, cwd: Path, text: str, timeout_s: float) -> Done:
    """Run it with `text` on its stdin. Raises UnfitError when it cannot start or does not end."""
    try:
        done = subprocess.run(
            list(command), cwd=cwd, input=text, capture_output=True, text=True,
            encoding="utf-8", errors="replace", timeout=timeout_s, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnfitError(
            f"{Path(command[0]).name} did not answer", where=command[0], why=str(error)
        ) from None
    return Done(done.returncode, done.stdout, done.stderr)
