"""A Sigstore bundle over a statement: whose keyless signature it is. Offline, with `sigstore`.

Trust comes from the roots that the `sigstore` package carries (Fulcio, Rekor, the time stamps);
the identity is what Fulcio's certificate names: an e-mail address, or for a workflow its file and
ref. Two forms are read: a signature over the statement itself (`sigstore sign`), and an in-toto
attestation whose subject has the statement's hash (GitHub's attestations).
"""

from __future__ import annotations

import hashlib
import json
import logging
from typing import Any

from harness.errors import EvidenceError, UnfitError

ISSUERS = ("1.3.6.1.4.1.57264.1.8", "1.3.6.1.4.1.57264.1.1")
"""Fulcio's certificate extensions for the OIDC issuer: DER string, and the older plain one."""


def check_sigstore(statement: bytes, raw: bytes) -> tuple[str, str]:
    """(identity, issuer) of a good bundle over the statement.

    Raises UnfitError where the `sigstore` package is not installed or cannot load its roots of
    trust, EvidenceError with the reason where the bundle is not good.
    """
    try:
        from sigstore.errors import Error
        from sigstore.models import Bundle
        from sigstore.verify import Verifier
        from sigstore.verify.policy import UnsafeNoOp
    except ImportError:
        raise UnfitError(
            "a Sigstore signature cannot be checked here", fix="pip install speedrun[sign]"
        ) from None
    logging.getLogger("sigstore").setLevel(logging.CRITICAL)
    try:
        verifier = Verifier.production(offline=True)
    except Exception as error:
        raise UnfitError(
            "Sigstore's roots of trust cannot be loaded",
            why=str(error).split("\n")[0][:200],
            fix="its cache must be readable; pip install -U speedrun[sign]",
        ) from None
    try:
        bundle = Bundle.from_json(raw)
        # Any identity is taken: who it is is told, and left to the reader.
        if "dsseEnvelope" in json.loads(raw):
            _, payload = verifier.verify_dsse(bundle, UnsafeNoOp())
            _require_subject(payload, statement)
        else:
            verifier.verify_artifact(statement, bundle, UnsafeNoOp())
        return _identity(bundle.signing_certificate)
    except EvidenceError:
        raise
    except Error as error:
        raise EvidenceError(str(error).splitlines()[0][:200] or "refused") from None
    except Exception as error:
        # The package parses a stranger's certificates and log entries: whatever it stumbles over,
        # the bundle is not good.
        raise EvidenceError(f"unreadable ({type(error).__name__})") from None


def _require_subject(payload: bytes, statement: bytes) -> None:
    wanted = hashlib.sha256(statement).hexdigest()
    subjects = json.loads(payload).get("subject", [])
    if not any(subject.get("digest", {}).get("sha256") == wanted for subject in subjects):
        raise EvidenceError("it attests to other bytes")


def _identity(certificate: Any) -> tuple[str, str]:
    from cryptography.x509 import ObjectIdentifier, SubjectAlternativeName

    names = certificate.extensions.get_extension_for_class(SubjectAlternativeName).value
    identity = ", ".join(str(getattr(name, "value", name)) for name in names)
    issuer = ""
    for oid in ISSUERS:
        found = [e for e in certificate.extensions if e.oid == ObjectIdentifier(oid)]
        if found:
            value = bytes(found[0].value.value)
            # The newer one is a DER UTF8String of fewer than 128 bytes: tag, length, text.
            text = value[2:] if oid == ISSUERS[0] else value
            issuer = text.decode("utf-8", "replace")
            break
    return identity, issuer
