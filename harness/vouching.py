"""Who vouches for a bundle: the signatures beside its evidence.

`signatures/<name>.sig` is an SSH signature, `signatures/<name>.sigstore.json` a Sigstore bundle,
each over the statement that names the bundle's digest. They lie outside what the digest covers.
Who is known stands in an allowed-signers file (ssh-keygen(1)) of whoever verifies; a bundle cannot
bring its own.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from harness.bundle_files import files_below, safe_path, safe_text
from harness.errors import EvidenceError, UnfitError, UsageError
from harness.publish import bundle_digest
from harness.verdict_schema import Verdict

if TYPE_CHECKING:
    from harness.terminal import Terminal

FOLDER: Final = "signatures"
NAMESPACE: Final = "speedrun-bundle"
SSH_SUFFIX: Final = ".sig"
SIGSTORE_SUFFIX: Final = ".sigstore.json"
MAX_SIGNATURES: Final = 32
SIGNATURE_LIMIT_BYTES: Final = 256 << 10
"""An SSH signature has 0.3 to 3 kB, a Sigstore bundle 4 to 40 kB."""

Standing = Literal["known", "named", "unknown", "bad", "unchecked"]

LIMITS: Final = (
    "hashes and signatures show that nothing changed since, and who says so; not that nobody wrote "
    "the whole bundle by hand, nor that no other series was thrown away: docs/limits.md"
)


@dataclass(frozen=True, slots=True)
class Signature:
    """One file under signatures/.

    standing  known      good, and the key is an allowed signer's
              named      good, and Sigstore's certificate names who made it
              unknown    good, by a key that no allowed signer has
              bad        no good signature over this bundle's digest, or in somebody else's name
              unchecked  what it takes to check it is not here
    who       principal, identity; empty if nobody knows
    key       type and fingerprint, or the issuer of the identity
    detail    why it is bad or unchecked
    """

    file: str
    standing: Standing
    who: str = ""
    key: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Vouching:
    """Who vouches for a bundle.

    digest           what was signed: plan, ledger (and through it every log) and claimed verdict
    allowed_signers  the file that says whose key is whose; None if there is none
    """

    digest: str
    signatures: tuple[Signature, ...]
    allowed_signers: Path | None

    @property
    def differences(self) -> tuple[str, ...]:
        """What is signed and does not fit this bundle; empty when all signatures hold."""
        return tuple(f"{s.file}: {s.detail}" for s in self.signatures if s.standing == "bad")

    def document(self) -> dict[str, object]:
        """The same for `--json`."""
        return {
            "digest": self.digest,
            "allowed_signers": None if self.allowed_signers is None else str(self.allowed_signers),
            "signatures": [
                {"file": s.file, "standing": s.standing, "who": s.who, "key": s.key,
                 "detail": s.detail}
                for s in self.signatures
            ],
        }  # fmt: skip


def claimed_digest(root: Path, verdict: Verdict) -> str:
    """The digest as `submit` printed it: over the verdict that the bundle claims, so that it stays
    what it was when a later harness writes the same verdict otherwise; over the recomputed one
    where nothing is claimed."""
    claimed = os.path.lexists(root / "verdict.json")
    return bundle_digest(verdict, safe_text(root, "verdict.json") if claimed else None)


def statement(digest: str) -> bytes:
    """The bytes that are signed."""
    return f"speedrun bundle\nsha256:{digest}\n".encode()


def who_vouches(root: Path, verdict: Verdict, allowed_signers: Path | None = None) -> Vouching:
    """Check every signature of a bundle whose verdict was recomputed.

    `allowed_signers` defaults to `default_allowed_signers`. Nothing outside the bundle is read but
    that file. Raises UsageError if the given one is no file, EvidenceError for an unreadable claim.
    """
    if allowed_signers is not None and not allowed_signers.is_file():
        raise UsageError(
            "no file of allowed signers",
            where=str(allowed_signers),
            fix='give one; a line is: you@host namespaces="speedrun-bundle" ssh-ed25519 AAAA…',
        )
    digest = claimed_digest(root, verdict)
    files = signature_files(root)
    if files and allowed_signers is None:
        allowed_signers = default_allowed_signers()
    signed = statement(digest)
    checked = [_check(root, name, signed, allowed_signers) for name in files[:MAX_SIGNATURES]]
    if len(files) > MAX_SIGNATURES:
        detail = f"more than {MAX_SIGNATURES} signatures; the rest is not looked at"
        checked.append(Signature(f"{FOLDER}/{files[MAX_SIGNATURES]}", "bad", detail=detail))
    return Vouching(digest, tuple(checked), allowed_signers)


def signature_files(root: Path) -> list[str]:
    """Everything under signatures/, as names below it, hidden files aside. What stands in the
    folder's place and is none (a link) is one entry without a name."""
    folder = root / FOLDER
    if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
        return [""]
    return [name for name in files_below(root, FOLDER) if not name.startswith(".")]


def default_allowed_signers() -> Path | None:
    """results/allowed_signers of the repository this runs in, else the one git is told of.

    The first is the verifier's own checkout, never the bundle's.
    """
    from harness.git_settings import git_setting
    from harness.places import repository

    here = repository()
    if here is not None and (here / "results" / "allowed_signers").is_file():
        return here / "results" / "allowed_signers"
    told = git_setting("gpg.ssh", "allowedSignersFile")
    path = Path(told).expanduser() if told else None
    return path if path is not None and path.is_file() else None


def _check(root: Path, name: str, signed: bytes, allowed_signers: Path | None) -> Signature:
    file = f"{FOLDER}/{name}".rstrip("/")
    if not name:
        return Signature(file, "bad", detail="is no folder")
    if not name.endswith((SSH_SUFFIX, SIGSTORE_SUFFIX)):
        return Signature(file, "unchecked", detail="no signature: neither .sig nor .sigstore.json")
    try:
        raw = safe_path(root, file, SIGNATURE_LIMIT_BYTES).read_bytes()
    except EvidenceError as error:
        return Signature(file, "bad", detail=error.what.removeprefix(f"{file} "))
    except OSError as error:
        return Signature(file, "bad", detail=f"cannot be read: {error.strerror}")
    if name.endswith(SIGSTORE_SUFFIX):
        return _check_sigstore(file, raw, signed)
    return _check_ssh(file, name.removesuffix(SSH_SUFFIX), raw, signed, allowed_signers)


def _check_ssh(
    file: str, claimed: str, raw: bytes, signed: bytes, allowed_signers: Path | None
) -> Signature:
    from harness.runner.ssh_keygen import check_signature

    try:
        found = check_signature(signed, raw, NAMESPACE, allowed_signers)
    except UnfitError as error:
        return Signature(file, "unchecked", detail=f"not checked: {error.what}")
    if not found.good:
        detail = f"not a signature over this bundle's digest ({found.why})"
        return Signature(file, "bad", detail=detail)
    if found.principals:
        return Signature(file, "known", ", ".join(found.principals), found.key)
    if claimed.casefold() in principals_of(allowed_signers):
        detail = (
            f"in the name of {claimed}, by a key that is not theirs ({found.key}; "
            f"{allowed_signers} has another)"
        )
        return Signature(file, "bad", key=found.key, detail=detail)
    detail = "" if found.why.startswith("No principal matched") else found.why
    return Signature(file, "unknown", key=found.key, detail=detail)


def principals_of(allowed_signers: Path | None) -> frozenset[str]:
    """Names in an allowed-signers file, in lower case: the first field of each line, separated by
    commas.

    Patterns (`*@example.org`) are names of nobody in particular and are left out.
    """
    if allowed_signers is None:
        return frozenset()
    try:
        lines = allowed_signers.read_bytes().decode("utf-8", "replace").splitlines()
    except OSError:
        return frozenset()
    fields = [line.split(maxsplit=1)[0] for line in lines if line.strip()]
    names = {name.strip('"') for field in fields if field[0] != "#" for name in field.split(",")}
    return frozenset(name.casefold() for name in names if not set(name) & set("*?!"))


def _check_sigstore(file: str, raw: bytes, signed: bytes) -> Signature:
    from harness.sigstore_check import check_sigstore

    try:
        identity, issuer = check_sigstore(signed, raw)
    except UnfitError as error:
        detail = f"a Sigstore signature is there; not checked: {error.fix}"
        return Signature(file, "unchecked", detail=detail)
    except EvidenceError as error:
        detail = f"not a Sigstore signature over this bundle's digest ({error.what})"
        return Signature(file, "bad", detail=detail)
    return Signature(file, "named", identity, issuer)


def show_vouching(vouching: Vouching, terminal: Terminal) -> None:
    """Who vouches, and what nobody can vouch for, in a few lines."""
    from harness.terminal import hanging

    for one in vouching.signatures:
        if one.standing == "known":
            where = vouching.allowed_signers
            terminal.success(f"vouched  {one.who}  ({one.key}; {where})")
        elif one.standing == "named":
            terminal.success(f"vouched  {one.who}  (Sigstore, issued by {one.key})")
        elif one.standing == "unknown":
            terminal.warning(
                f"signed   {one.file}: a good signature by an unknown key, {one.key}"
                + (f" ({one.detail})" if one.detail else "")
            )
        elif one.standing == "unchecked":
            terminal.warning(f"signed   {one.file}: {one.detail}")
        else:
            terminal.failure(f"  ✗ {one.file}: {one.detail}")
    if vouching.differences:
        terminal.failure("a signature in it is false: believe no name that this bundle bears")
    elif not any(one.standing in ("known", "named") for one in vouching.signatures):
        known = " whom the allowed signers know" if vouching.signatures else ""
        terminal.info(f"vouched  by nobody{known} (speedrun sign adds a signature)")
    terminal.info(f"limits   {hanging(LIMITS, 9, terminal.columns)}")
