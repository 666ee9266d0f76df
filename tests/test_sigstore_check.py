"""Sigstore bundles checked by the real package, against roots of our own and the public ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import EvidenceError
from harness.sigstore_check import check_sigstore
from harness.vouching import FOLDER, claimed_digest, statement, who_vouches
from tests.support.tamper import Copy

pytest.importorskip("sigstore", reason="sigstore is not installed (extra `sign`)")
if TYPE_CHECKING:
    from tests.support.own_sigstore import OwnSigstore

SIGNED = b"speedrun bundle\nsha256:00\n"


@pytest.fixture(scope="module")
def own() -> OwnSigstore:
    from tests.support.own_sigstore import OwnSigstore

    return OwnSigstore()


@pytest.fixture
def trusted(own: OwnSigstore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OwnSigstore:
    """Our roots in place of the public ones."""
    from sigstore.models import TrustedRoot
    from sigstore.verify import Verifier

    path = tmp_path / "trusted_root.json"
    path.write_text(own.trusted_root())

    def production(*, offline: bool) -> Verifier:
        assert offline, "verify asks nobody"
        return Verifier(trusted_root=TrustedRoot.from_file(str(path)))

    monkeypatch.setattr(Verifier, "production", production)
    return own


@pytest.mark.parametrize("kind", ["sign", "attest"])
def test_a_good_one_names_workflow_and_issuer(kind: str, trusted: OwnSigstore) -> None:
    from tests.support.own_sigstore import IDENTITY, ISSUER

    raw = getattr(trusted, kind)(SIGNED)
    assert check_sigstore(SIGNED, raw) == (IDENTITY, ISSUER)


@pytest.mark.parametrize("kind", ["sign", "attest"])
def test_one_over_other_bytes_is_refused(kind: str, trusted: OwnSigstore) -> None:
    with pytest.raises(EvidenceError):
        check_sigstore(SIGNED, getattr(trusted, kind)(SIGNED.replace(b"00", b"11")))


def edits(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all strings in a document."""
    if isinstance(value, dict):
        return [found for key in value for found in edits(value[key], (*path, key))]
    if isinstance(value, list):
        return [found for i, item in enumerate(value) for found in edits(item, (*path, i))]
    return [path]


@pytest.mark.parametrize("kind", ["sign", "attest"])
def test_every_field_of_it_counts(kind: str, trusted: OwnSigstore) -> None:
    """A character changed anywhere is found; but for a hint that verification does not read."""
    document = json.loads(getattr(trusted, kind)(SIGNED))
    free = []
    for path in edits(document):
        changed = json.loads(json.dumps(document))
        holder = changed
        for key in path[:-1]:
            holder = holder[key]
        text = str(holder[path[-1]])
        middle = len(text) // 2
        other = "A" if text[middle : middle + 1] != "A" else "B"
        holder[path[-1]] = text[:middle] + other + text[middle + 1 :]
        try:
            check_sigstore(SIGNED, json.dumps(changed).encode())
            free.append(path[-1])
        except EvidenceError:
            pass
    assert set(free) <= {"keyid"}


def test_another_authoritys_is_refused(trusted: OwnSigstore) -> None:
    from tests.support.own_sigstore import OwnSigstore

    with pytest.raises(EvidenceError):
        check_sigstore(SIGNED, OwnSigstore().sign(SIGNED))


def test_the_public_roots_do_not_know_ours(
    own: OwnSigstore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(EvidenceError):
        check_sigstore(SIGNED, own.sign(SIGNED))


def test_in_a_bundle(accepted: Path, trusted: OwnSigstore, tmp_path: Path) -> None:
    from tests.support.own_sigstore import IDENTITY

    copy = Copy(accepted, tmp_path)
    copy.path(FOLDER).mkdir()
    path = copy.path(f"{FOLDER}/nightly.sigstore.json")
    path.write_bytes(trusted.sign(statement(claimed_digest(copy.root, copy.judge()))))
    (one,) = who_vouches(copy.root, copy.judge()).signatures
    assert (one.standing, one.who) == ("named", IDENTITY)
    copy.edit("verdict.json", "0.9", "0.8")
    (one,) = who_vouches(copy.root, copy.judge()).signatures
    assert one.standing == "bad"
