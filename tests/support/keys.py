"""SSH keys of tests, made by ssh-keygen; and files of allowed signers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from harness.runner.ssh_keygen import sign
from harness.vouching import FOLDER, NAMESPACE, claimed_digest, statement
from tests.support.tamper import Copy

NEEDS_SSH_KEYGEN = pytest.mark.skipif(
    not shutil.which("ssh-keygen"), reason="there is no ssh-keygen (OpenSSH) on the path"
)


def make_key(folder: Path, name: str) -> Path:
    """An ed25519 key without a passphrase; its public half lies beside it as .pub."""
    path = folder / name
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path


def allowed_line(principal: str, key: Path, options: str = "") -> str:
    kind, data, *_ = Path(f"{key}.pub").read_text().split()
    return " ".join(part for part in (principal, options, kind, data) if part) + "\n"


def write_signature(
    copy: Copy, key: Path, name: str, *, digest: str = "", namespace: str = NAMESPACE
) -> Path:
    """A signature as a cheat would put it there, over any digest and for any purpose."""
    signed = statement(digest or claimed_digest(copy.root, copy.judge()))
    path = copy.path(f"{FOLDER}/{name}.sig")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(sign(signed, key, namespace))
    return path
