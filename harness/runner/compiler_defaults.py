"""What the compiler is told by nobody: its configuration in an untouched interpreter."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

SHIM = Path(__file__).with_name("audit_shim.py")
TIMEOUT_S = 120


def compiler_defaults(
    python: str,
    folder: Path,
    environment: Mapping[str, str],
    wrap: Callable[[Sequence[str]], Sequence[str]] = list,
) -> dict[str, dict[str, str]]:
    """Module -> option -> value as text; empty where the interpreter cannot say.

    folder       working folder of the run that is compared: some defaults name it
    environment  of that run: some defaults come from it
    wrap         what makes of the command the one that is started: the run may have left packages
                 in its HOME, which this interpreter then loads
    """
    try:
        done = subprocess.run(
            list(wrap([python, str(SHIM), "--defaults"])),
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        values = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
