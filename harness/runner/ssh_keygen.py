"""`ssh-keygen -Y`: sign bytes, and ask whose signature this is. OpenSSH 8.2 (2020) or newer.

The format is PROTOCOL.sshsig of OpenSSH. A signature to be checked comes from a stranger: it is
handed over as a copy in a folder of our own, and the program gets none of our environment.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.errors import UnfitError, UsageError

PROGRAM: Final = "ssh-keygen"
CHECK_TIMEOUT_S: Final = 20.0
SIGN_TIMEOUT_S: Final = 180.0
"""A passphrase is typed, a hardware key is touched."""

_GOOD = re.compile(r'^Good "[^"\n]*" signature (?:for .* )?with (\S+) key (SHA256:\S+)\s*$', re.M)
_SIGNING_VARIABLES = (
    "HOME", "SSH_AUTH_SOCK", "SSH_ASKPASS", "SSH_ASKPASS_REQUIRE", "SSH_SK_HELPER", "DISPLAY",
    "WAYLAND_DISPLAY", "TERM",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SshSignature:
    """What ssh-keygen says of one signature.

    key         type and fingerprint, "ED25519 SHA256:…"; empty if it is not good
    principals  who of the allowed signers has that key, for this namespace and now
    why         ssh-keygen's reason where it is not good, or why no allowed signer matched
    """

    key: str
    principals: tuple[str, ...] = ()
    why: str = ""

    @property
    def good(self) -> bool:
        return bool(self.key)


def ssh_keygen_there() -> bool:
    """Is there an ssh-keygen on the path?"""
    return shutil.which(PROGRAM) is not None


def check_signature(
    message: bytes, signature: bytes, namespace: str, allowed_signers: Path | None
) -> SshSignature:
    """Is this a good signature of these bytes, made for this purpose, and whose?

    Raises UnfitError where there is no ssh-keygen that can say.
    """
    with tempfile.TemporaryDirectory(prefix="speedrun-") as folder:
        file = str(Path(folder) / "signature")
        Path(file).write_bytes(signature)
        done = _check(["check-novalidate", "-n", namespace, "-s", file], message)
        good = _GOOD.search(done.stdout) if done.returncode == 0 else None
        if good is None:
            if "unknown option" in done.stderr or "illegal option" in done.stderr:
                raise UnfitError(
                    "ssh-keygen cannot check signatures",
                    why="it knows no -Y; OpenSSH 8.2 does",
                    fix="install a newer OpenSSH",
                )
            return SshSignature("", why=_last_line(done.stderr) or "ssh-keygen refuses it")
        key = f"{good[1]} {good[2]}"
        if allowed_signers is None:
            return SshSignature(key)
        listed = str(allowed_signers.absolute())
        found = _check(["find-principals", "-s", file, "-f", listed], b"")
        # A line of the file may name several, and older versions print them as they stand there.
        listed_names = found.stdout.replace(",", "\n").splitlines()
        names = list(dict.fromkeys(listed_names)) if found.returncode == 0 else []
        why = _last_line(found.stderr)
        principals: list[str] = []
        for name in names[:100]:
            # An entry may be limited to other namespaces or to a time: only this asks.
            command = ["verify", "-f", listed, "-I", name, "-n", namespace, "-s", file]
            done = _check(command, message)
            if done.returncode == 0:
                principals.append(name)
            else:
                why = _last_line(done.stderr)
        return SshSignature(key, tuple(principals), "" if principals else why)


def sign(message: bytes, key: Path, namespace: str) -> bytes:
    """An armoured signature with a private key file, or with an agent's key by its .pub file.

    ssh-keygen asks for a passphrase or a touch by itself. Raises UsageError where it cannot sign,
    UnfitError without an ssh-keygen.
    """
    environment = {name: os.environ[name] for name in _SIGNING_VARIABLES if name in os.environ}
    command = ["sign", "-f", str(key.absolute()), "-n", namespace]
    try:
        done = _run(command, message, environment, SIGN_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise UsageError(
            "signing took too long", where=str(key), why=f"no answer within {SIGN_TIMEOUT_S:g} s",
            fix="have the passphrase or the hardware key at hand",
        ) from None  # fmt: skip
    if done.returncode != 0 or "BEGIN SSH SIGNATURE" not in done.stdout:
        raise UsageError(
            "ssh-keygen did not sign",
            where=str(key),
            why=_last_line(done.stderr),
            fix="give a private key, or the .pub of a key in your agent, with --key",
        )
    return done.stdout.encode()


def _check(command: Sequence[str], message: bytes) -> subprocess.CompletedProcess[str]:
    try:
        return _run(command, message, {}, CHECK_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise UnfitError(
            "ssh-keygen does not answer", why=f"no answer within {CHECK_TIMEOUT_S:g} s"
        ) from None


def _run(
    command: Sequence[str], message: bytes, environment: dict[str, str], timeout_s: float
) -> subprocess.CompletedProcess[str]:
    program = shutil.which(PROGRAM)
    if program is None:
        raise UnfitError(
            "there is no ssh-keygen", why="it is not on the path", fix="install OpenSSH"
        )
    base = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    try:
        done = subprocess.run(
            [program, "-Y", *command],
            input=message, capture_output=True, env=base | environment, timeout=timeout_s,
            check=False, cwd="/",
        )  # fmt: skip
    except OSError as error:
        raise UnfitError(
            "ssh-keygen cannot be started", where=program, why=str(error.strerror or error)
        ) from None
    return subprocess.CompletedProcess(
        done.args, done.returncode,
        done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"),
    )  # fmt: skip


def _last_line(text: str) -> str:
    """The reason: ssh-keygen's last words but the one that only says that it failed."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith("Could not verify signature")]
    return (told or lines or [""])[-1][:200]
