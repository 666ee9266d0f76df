"""Sign a bundle: one file under signatures/, beside the evidence and outside its digest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from harness.bundle import BundlePaths, is_bundle
from harness.errors import EvidenceError, UnfitError, UsageError
from harness.git_settings import git_setting
from harness.vouching import (
    FOLDER,
    NAMESPACE,
    SSH_SUFFIX,
    claimed_digest,
    statement,
)

IDENTITY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}")
DEFAULT_KEYS: Final = ("id_ed25519_sk", "id_ed25519", "id_ecdsa_sk", "id_ecdsa", "id_rsa")


def digest_to_sign(root: Path) -> str:
    """The digest of a finished bundle whose claim follows from its evidence.

    Raises UsageError for what is none or is being written, EvidenceError where they differ.
    """
    from harness.verification import verify_bundle

    if not root.is_dir() or not is_bundle(root):
        raise UsageError(f"{root} is no bundle", fix="give a folder that speedrun submit made")
    paths = BundlePaths(root)
    if paths.lock.exists() or not paths.verdict.is_file():
        raise UsageError(
            "the bundle is not finished",
            where=str(root),
            why="a series is writing into it" if paths.lock.exists() else "it claims no verdict",
            fix=f"speedrun submit --resume {root}",
        )
    result = verify_bundle(root)
    if result.differences:
        raise EvidenceError(
            "the claimed verdict does not follow from the evidence",
            where=str(root),
            why="; ".join(result.differences[:3]),
            fix=f"speedrun verify {root} names every difference; nobody should vouch for them",
        )
    return claimed_digest(root, result.verdict)


def sign_bundle(root: Path, key: Path | None = None, identity: str = "") -> tuple[Path, str]:
    """Write signatures/<identity>.sig; returns its path and the digest.

    An earlier one of the name is replaced.

    key       private key, or the .pub of one in the agent; default: git's user.signingkey, else
              the usual names in ~/.ssh
    identity  the name the file gets; default: git's user.email

    Raises UsageError, EvidenceError, UnfitError.
    """
    from harness.report.write import replace_file
    from harness.runner.ssh_keygen import sign

    digest = digest_to_sign(root)
    key = (key or default_key()).expanduser()
    if not key.is_file():
        raise UsageError(
            "no key to sign with", where=str(key), why="there is no such file",
            fix="give a private key, or the .pub of a key in your agent, with --key",
        )  # fmt: skip
    identity = identity or git_setting("user", "email")
    if not IDENTITY.fullmatch(identity):
        raise UsageError(
            "a signature needs a name" if not identity else "this cannot be a signature's name",
            why=f"{identity!r}: letters, digits and . _ @ + - only, up to 100" if identity else "",
            fix="give --identity you@host, the name that allowed signers list your key under",
        )
    target = root / FOLDER / f"{identity}{SSH_SUFFIX}"
    if (root / FOLDER).is_symlink() or target.is_symlink():
        raise EvidenceError("a link where a signature should be", where=str(target))
    armoured = sign(statement(digest), key, NAMESPACE)
    try:
        replace_file(target, armoured.decode())
    except OSError as error:
        raise UnfitError(
            "the signature cannot be written", where=str(target), why=str(error.strerror or error)
        ) from None
    return target, digest


def default_key() -> Path:
    """The key git signs with, if it is a file; else the first of the usual ones."""
    told = git_setting("user", "signingkey")
    if told and git_setting("gpg", "format") == "ssh" and not told.startswith(("key::", "ssh-")):
        return Path(told).expanduser()
    folder = Path.home() / ".ssh"
    for name in DEFAULT_KEYS:
        for path in (folder / name, folder / f"{name}.pub"):
            if path.is_file():
                return path
    raise UsageError(
        "no key to sign with",
        where=str(folder),
        why=f"none of {', '.join(DEFAULT_KEYS)}, and git names no user.signingkey",
        fix="give one with --key; ssh-keygen -t ed25519 makes one",
    )
