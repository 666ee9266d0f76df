"""What the compiler is told by nobody: its configuration in an untouched interpreter."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

SHIM = Path(__file__).with_name("audit_shim.py")
TIMEOUT_S = 120


def compiler_defaults(
    python: str, folder: Path, environment: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """Module -> option -> value as text; empty where the interpreter cannot say.

    folder       working folder of the run that is compared: some defaults name it
    environment  of that run: some defaults come from it
    """
    try:
        done = subprocess.run(
            [python, str(SHIM), "--defaults"],
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
