"""Who vouches: allowed signers found and read, Sigstore bundles, what a person is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from harness.errors import EvidenceError, UnfitError, UsageError
from harness.git_settings import git_setting
from harness.publish import bundle_digest
from harness.sigstore_check import check_sigstore
from harness.terminal import Terminal
from harness.vouching import (
    FOLDER,
    Vouching,
    claimed_digest,
    default_allowed_signers,
    principals_of,
    show_vouching,
    statement,
    who_vouches,
)
from tests.support.keys import NEEDS_SSH_KEYGEN, allowed_line, make_key, write_signature
from tests.support.tamper import Copy


@pytest.fixture
def copy(accepted: Path, tmp_path: Path) -> Copy:
    return Copy(accepted, tmp_path)


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is no repository, for a user who has told git nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    return tmp_path


def shown(vouching: Vouching, capsys: pytest.CaptureFixture[str]) -> list[str]:
    show_vouching(vouching, Terminal())
    return capsys.readouterr().err.splitlines()


def test_the_digest_is_the_one_that_submit_printed(copy: Copy) -> None:
    verdict = copy.judge()
    assert claimed_digest(copy.root, verdict) == bundle_digest(verdict)
    copy.path("verdict.json").unlink()
    assert claimed_digest(copy.root, verdict) == bundle_digest(verdict)
    assert statement("ab") == b"speedrun bundle\nsha256:ab\n"


def test_without_a_signature_nobody_vouches_and_no_process_starts(
    copy: Copy, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", None)
    found = who_vouches(copy.root, copy.judge())
    assert (found.signatures, found.differences) == ((), ())
    lines = shown(found, capsys)
    assert lines[0] == "vouched  by nobody (speedrun sign adds a signature)"
    assert "not that nobody wrote the whole bundle by hand" in lines[1]


@NEEDS_SSH_KEYGEN
def test_what_a_person_is_told(
    copy: Copy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alice, bob = make_key(tmp_path, "alice"), make_key(tmp_path, "bob")
    signers = tmp_path / "signers"
    signers.write_text(allowed_line("alice@x.org,a@y.org", alice, 'namespaces="speedrun-*"'))
    write_signature(copy, alice, "alice@x.org")
    write_signature(copy, bob, "bob@x.org")
    copy.write(f"{FOLDER}/readme.txt", "x")
    lines = shown(who_vouches(copy.root, copy.judge(), signers), capsys)
    assert lines[0].startswith("vouched  alice@x.org, a@y.org  (ED25519 SHA256:")
    assert str(signers) in lines[0]
    assert "bob@x.org.sig: a good signature by an unknown key, ED25519 SHA256:" in lines[1]
    assert "readme.txt: no signature" in lines[2]
    copy.write(f"{FOLDER}/bob@x.org.sig", "-----BEGIN SSH SIGNATURE-----\n\x1b[2J")
    found = who_vouches(copy.root, copy.judge(), signers)
    lines = shown(found, capsys)
    assert lines[1].startswith("  ✗ signatures/bob@x.org.sig: not a signature over")
    assert "a signature in it is false" in lines[-2]
    assert found.document()["signatures"][1]["standing"] == "bad"  # type: ignore[index]


@NEEDS_SSH_KEYGEN
def test_without_ssh_keygen_a_signature_is_said_to_be_unchecked(
    copy: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_signature(copy, make_key(tmp_path, "alice"), "alice@x.org")
    monkeypatch.setenv("PATH", str(tmp_path))
    found = who_vouches(copy.root, copy.judge(), tmp_path / "alice.pub")
    assert found.differences == ()
    assert "not checked: there is no ssh-keygen" in shown(found, capsys)[0]


def test_no_file_of_allowed_signers(copy: Copy, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        who_vouches(copy.root, copy.judge(), tmp_path / "none")
    assert caught.value.exit_code == 2


def test_where_allowed_signers_are_looked_for(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.places.repository", lambda: alone)
    assert default_allowed_signers() is None
    mine = alone / "mine"
    mine.touch()
    (alone / ".gitconfig").write_text('[gpg "ssh"]\n\tallowedSignersFile = ~/mine\n')
    assert default_allowed_signers() == mine
    ours = alone / "results" / "allowed_signers"
    ours.parent.mkdir()
    ours.touch()
    assert default_allowed_signers() == ours


def test_what_git_was_told(alone: Path) -> None:
    assert git_setting("user", "email") == ""
    (alone / ".gitconfig").write_text("[user]\n\temail = me@example.org\n")
    assert git_setting("user", "email") == "me@example.org"
    assert git_setting("user", "signingkey") == ""
    (alone / ".gitconfig").write_bytes(b"[user\n\xff\0")
    assert git_setting("user", "email") == ""


def test_names_in_a_file_of_allowed_signers(tmp_path: Path) -> None:
    path = tmp_path / "signers"
    path.write_bytes(
        b"# comment\n\nA@x.org,b@x.org ssh-ed25519 AAAA\n*@y.org,!c@y.org cert-authority ssh-rsa B"
        b'\n"d@x.org" ssh-ed25519 AAAA\n\xff\n'
    )
    assert {"a@x.org", "b@x.org", "d@x.org"} <= principals_of(path)
    assert not any("y.org" in name for name in principals_of(path))
    assert principals_of(None) == principals_of(tmp_path / "none") == frozenset()


class FakeName:
    value = "https://github.com/o/r/.github/workflows/nightly.yml@refs/heads/main"


class FakeError(Exception):
    pass


class FakeVerifier:
    """What of the package is used, with a verdict of our own."""

    payload: ClassVar[bytes] = b"{}"
    signed: ClassVar[bytes] = b""

    @classmethod
    def production(cls, *, offline: bool) -> FakeVerifier:
        assert offline, "verify asks nobody"
        return cls()

    def verify_artifact(self, signed: bytes, bundle: Any, policy: Any) -> None:
        if signed != self.signed:
            raise FakeError("Signature is invalid for input\nmore")

    def verify_dsse(self, bundle: Any, policy: Any) -> tuple[str, bytes]:
        return "application/vnd.in-toto+json", self.payload


@pytest.fixture
def fake_sigstore(monkeypatch: pytest.MonkeyPatch) -> type[FakeVerifier]:
    class FakeBundle:
        signing_certificate = object()

        @classmethod
        def from_json(cls, raw: bytes) -> FakeBundle:
            if not raw.startswith(b"{"):
                raise FakeError("failed to load bundle")
            return cls()

    modules: dict[str, dict[str, Any]] = {
        "sigstore": {},
        "sigstore.errors": {"Error": FakeError},
        "sigstore.models": {"Bundle": FakeBundle},
        "sigstore.verify": {"Verifier": FakeVerifier},
        "sigstore.verify.policy": {"UnsafeNoOp": object},
    }
    for name, members in modules.items():
        module = ModuleType(name)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(
        "harness.sigstore_check._identity", lambda _: (FakeName.value, "https://issuer")
    )
    return FakeVerifier


def test_a_sigstore_bundle_names_who_made_it(
    copy: Copy, fake_sigstore: type[FakeVerifier], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    copy.path(FOLDER).mkdir()
    copy.write(f"{FOLDER}/nightly.sigstore.json", "{}")
    signed = statement(claimed_digest(copy.root, copy.judge()))
    monkeypatch.setattr(fake_sigstore, "signed", signed)
    found = who_vouches(copy.root, copy.judge())
    assert found.differences == ()
    assert (
        shown(found, capsys)[0]
        == f"vouched  {FakeName.value}  (Sigstore, issued by https://issuer)"
    )
    monkeypatch.setattr(fake_sigstore, "signed", b"another bundle's")
    (difference,) = who_vouches(copy.root, copy.judge()).differences
    assert difference.endswith("(Signature is invalid for input)")


def test_an_attestation_must_be_of_this_statement(
    fake_sigstore: type[FakeVerifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = b'{"dsseEnvelope": {}}'
    digest = "0a1c6fb7ddc5ba9c48e8e0d29f58a2b5e2a4f1ee1f2e0ef5d5a0a2a9c0a4d2f1"
    for payload in (
        b'{"subject": [{"digest": {"sha256": "%s"}}]}' % digest.encode(),
        b'{"subject": []}',
        b"[]",
        b"junk",
    ):
        monkeypatch.setattr(fake_sigstore, "payload", payload)
        with pytest.raises(EvidenceError):
            check_sigstore(b"statement", raw)
    import hashlib

    own = hashlib.sha256(b"statement").hexdigest().encode()
    monkeypatch.setattr(
        fake_sigstore, "payload", b'{"subject": [{"digest": {"sha256": "%s"}}]}' % own
    )
    assert check_sigstore(b"statement", raw)[0] == FakeName.value


def test_without_the_package_a_sigstore_bundle_is_said_to_be_unchecked(
    copy: Copy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sigstore.errors", None)
    copy.path(FOLDER).mkdir()
    copy.write(f"{FOLDER}/nightly.sigstore.json", "{}")
    found = who_vouches(copy.root, copy.judge())
    assert found.differences == ()
    assert (
        "a Sigstore signature is there; not checked: pip install speedrun[sign]"
        in shown(found, capsys)[0]
    )


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"junk", b'{"dsseEnvelope": 1}', b"\xff\0"])
def test_the_real_package_refuses_what_is_no_bundle(
    raw: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sigstore", reason="sigstore is not installed (extra `sign`)")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(EvidenceError):
        check_sigstore(b"statement", raw)


def test_roots_that_cannot_be_loaded_are_no_ones_crime(
    fake_sigstore: type[FakeVerifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*, offline: bool) -> FakeVerifier:
        raise OSError("read-only cache")

    monkeypatch.setattr(fake_sigstore, "production", closed)
    with pytest.raises(UnfitError):
        check_sigstore(b"statement", b"{}")
