"""`speedrun sign` and what `speedrun verify` says of it, as a person and as a program call them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.vouching import FOLDER
from tests.cli.test_verify import run
from tests.support.keys import NEEDS_SSH_KEYGEN, allowed_line, make_key, write_signature
from tests.support.tamper import Copy


@pytest.fixture
def copy(accepted: Path, tmp_path: Path) -> Copy:
    return Copy(accepted, tmp_path)


@NEEDS_SSH_KEYGEN
def test_sign_then_verify(copy: Copy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = make_key(tmp_path, "key")
    signers = tmp_path / "signers"
    signers.write_text(allowed_line("me@example.org", key))
    arguments = ("sign", copy.root, "--key", key, "--identity", "me@example.org")
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (0, "")
    again = json.loads(run(capsys, *arguments, "--json")[1])
    assert again["file"].endswith(f"{FOLDER}/me@example.org.sig")
    assert again["statement"] == f"speedrun bundle\nsha256:{again['digest']}\n"
    assert f"{FOLDER}/me@example.org.sig" in err
    code, out, err = run(capsys, "verify", copy.root, "--allowed-signers", signers, "--json")
    assert code == 0
    assert "vouched  me@example.org  (ED25519 SHA256:" in err
    document = json.loads(out)["vouching"]
    assert document["signatures"][0]["standing"] == "known"
    assert document["allowed_signers"] == str(signers)


@NEEDS_SSH_KEYGEN
def test_a_false_signature_breaks_a_rule(
    copy: Copy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_signature(copy, make_key(tmp_path, "key"), "me@example.org", digest="0" * 64)
    code, out, err = run(capsys, "verify", copy.root, "--json")
    assert code == json.loads(out)["exit_code"] == 3
    assert "✗ signatures/me@example.org.sig" in err
    assert "a signature in it is false" in err


def test_nobody_vouches_and_what_hashes_cannot_prove(
    copy: Copy, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "verify", copy.root, "--json")
    assert code == 0
    assert "vouched  by nobody" in err
    assert "docs/limits.md" in err
    document = json.loads(out)["vouching"]
    assert document["signatures"] == []
    assert f"digest   {document['digest']}" in err


def test_the_statement_to_be_signed_elsewhere(
    copy: Copy, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "sign", copy.root, "--statement")
    digest = json.loads(run(capsys, "verify", copy.root, "--json")[1])["vouching"]["digest"]
    assert (code, out) == (0, f"speedrun bundle\nsha256:{digest}\n")


def test_no_signers_file_and_no_bundle(
    copy: Copy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "verify", copy.root, "--allowed-signers", tmp_path / "none")
    assert code == 2
    assert "no file of allowed signers" in err
    code, _, err = run(capsys, "sign", tmp_path)
    assert code == 2
    assert "is no bundle" in err
