"""`sign_bundle`: which key, whose name, which bundles."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import EvidenceError, UsageError
from harness.signing import default_key, digest_to_sign, sign_bundle
from harness.vouching import FOLDER, who_vouches
from tests.support.keys import NEEDS_SSH_KEYGEN, allowed_line, make_key
from tests.support.tamper import Copy


@pytest.fixture
def copy(accepted: Path, tmp_path: Path) -> Copy:
    return Copy(accepted, tmp_path / "bundles")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    monkeypatch.chdir(home)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return home


@NEEDS_SSH_KEYGEN
def test_the_key_and_the_name_that_git_knows(copy: Copy, home: Path) -> None:
    key = make_key(home, "mine")
    (home / ".gitconfig").write_text(
        "[user]\n\temail = me@example.org\n\tsigningkey = ~/mine\n[gpg]\n\tformat = ssh\n"
    )
    path, digest = sign_bundle(copy.root)
    assert digest == digest_to_sign(copy.root)
    assert path == copy.path(f"{FOLDER}/me@example.org.sig")
    signers = home / "signers"
    signers.write_text(allowed_line("me@example.org", key))
    (one,) = who_vouches(copy.root, copy.judge(), signers).signatures
    assert (one.standing, one.who) == ("known", "me@example.org")
    assert sign_bundle(copy.root) == (path, digest), "signing again replaces"


@NEEDS_SSH_KEYGEN
def test_the_usual_keys_in_their_order(home: Path) -> None:
    with pytest.raises(UsageError, match="no key to sign with"):
        default_key()
    for name in ("id_rsa", "id_ed25519.pub", "id_ed25519"):
        (home / ".ssh" / name).touch()
        assert default_key() == home / ".ssh" / name
    # An OpenPGP key is no SSH key.
    (home / ".gitconfig").write_text("[user]\n\tsigningkey = 0xDEADBEEF\n")
    assert default_key().name == "id_ed25519"


@NEEDS_SSH_KEYGEN
@pytest.mark.parametrize("identity", ["../up", "a/b", "a b", "-a", "é@x", "a" * 101, "a\n"])
def test_a_name_is_a_file_name(copy: Copy, home: Path, identity: str) -> None:
    with pytest.raises(UsageError, match="cannot be a signature's name"):
        sign_bundle(copy.root, make_key(home, "k"), identity)
    assert not copy.path(FOLDER).exists()


@NEEDS_SSH_KEYGEN
def test_without_a_name_it_is_asked_for(copy: Copy, home: Path) -> None:
    with pytest.raises(UsageError, match="needs a name"):
        sign_bundle(copy.root, make_key(home, "k"))


@NEEDS_SSH_KEYGEN
def test_a_key_that_is_none(copy: Copy, home: Path) -> None:
    with pytest.raises(UsageError, match="no key to sign with"):
        sign_bundle(copy.root, home / "none", "a@b")
    (home / "junk").write_text("junk")
    with pytest.raises(UsageError, match="ssh-keygen did not sign"):
        sign_bundle(copy.root, home / "junk", "a@b")
    key = make_key(home, "k")
    key.unlink()
    with pytest.raises(UsageError, match="ssh-keygen did not sign"):
        sign_bundle(copy.root, Path(f"{key}.pub"), "a@b")  # no agent holds it
    assert not copy.path(FOLDER).exists()


def test_what_nobody_should_vouch_for(copy: Copy, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no bundle"):
        digest_to_sign(tmp_path)
    copy.path(".lock").touch()
    with pytest.raises(UsageError, match="not finished"):
        digest_to_sign(copy.root)
    copy.path(".lock").unlink()
    claimed = copy.text("verdict.json")
    copy.edit("verdict.json", '"decision": "accepted"', '"decision": "unfit"')
    with pytest.raises(EvidenceError, match="does not follow"):
        digest_to_sign(copy.root)
    copy.path("verdict.json").unlink()
    with pytest.raises(UsageError, match="not finished"):
        digest_to_sign(copy.root)
    copy.write("verdict.json", claimed)
    assert len(digest_to_sign(copy.root)) == 64


@NEEDS_SSH_KEYGEN
def test_no_link_is_written_through(copy: Copy, home: Path) -> None:
    (home / "elsewhere").mkdir()
    copy.path(FOLDER).symlink_to(home / "elsewhere")
    with pytest.raises(EvidenceError, match="a link"):
        sign_bundle(copy.root, make_key(home, "k"), "a@b")
    assert not any((home / "elsewhere").iterdir())
