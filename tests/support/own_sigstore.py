"""A Sigstore of our own, in memory: an authority, a certificate log, a transparency log.

Makes what `sigstore sign` and GitHub's attestations leave (bundle format 0.3, one entry of a log of
size one), so that the real `sigstore` package can verify it against our roots instead of the public
ones. Formats: RFC 6962 (certificate timestamps, Merkle leaves), Sigstore's protobuf-specs, DSSE.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

NOW = datetime.now(UTC).replace(microsecond=0)
IDENTITY = "https://github.com/o/r/.github/workflows/nightly.yml@refs/heads/main"
ISSUER = "https://token.actions.githubusercontent.com"
TIMESTAMPS = ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
FULCIO_ISSUER = ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
PAYLOAD_TYPE = "application/vnd.in-toto+json"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def der(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def signed(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    return key.sign(data, ec.ECDSA(hashes.SHA256()))


def short_der(tag: int, content: bytes) -> bytes:
    """A DER value of less than 64 kB."""
    if len(content) < 128:
        return bytes([tag, len(content)]) + content
    return struct.pack("!BBH", tag, 0x82, len(content)) + content


class OwnSigstore:
    """Keys of the authority and both logs; `trusted_root` says that they are to be trusted."""

    def __init__(self) -> None:
        self.ca, self.ct, self.rekor = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "own")])
        self.root = (
            self._builder(name, name, self.ca)
            .add_extension(x509.BasicConstraints(True, None), critical=True)
            .add_extension(_usage(key_cert_sign=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self.ca.public_key()), critical=False
            )
            .sign(self.ca, hashes.SHA256())
        )

    def _builder(
        self, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
    ) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer)
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        before, after = NOW - timedelta(minutes=5), NOW + timedelta(minutes=5)
        return builder.not_valid_before(before).not_valid_after(after)

    def trusted_root(self) -> str:
        """The roots as JSON, in place of those that Sigstore publishes."""
        valid = {"start": (NOW - timedelta(days=1)).isoformat().replace("+00:00", "Z")}

        def log(key: ec.EllipticCurvePrivateKey, url: str) -> dict[str, Any]:
            return {
                "baseUrl": url,
                "hashAlgorithm": "SHA2_256",
                "publicKey": {
                    "rawBytes": b64(der(key)),
                    "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                    "validFor": valid,
                },
                "logId": {"keyId": b64(hashlib.sha256(der(key)).digest())},
            }

        root = self.root.public_bytes(serialization.Encoding.DER)
        return json.dumps(
            {
                "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
                "tlogs": [log(self.rekor, "https://rekor.example.org")],
                "ctlogs": [log(self.ct, "https://ct.example.org")],
                "certificateAuthorities": [
                    {
                        "subject": {"organization": "own", "commonName": "own"},
                        "uri": "https://fulcio.example.org",
                        "certChain": {"certificates": [{"rawBytes": b64(root)}]},
                        "validFor": valid,
                    }
                ],
                "timestampAuthorities": [],
            }
        )

    def certificate(self, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
        """A short-lived certificate for IDENTITY, logged."""
        builder = (
            self._builder(x509.Name([]), self.root.subject, key)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False
            )
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(IDENTITY)]),
                critical=True,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.ca.public_key()),
                critical=False,
            )
            .add_extension(
                x509.UnrecognizedExtension(FULCIO_ISSUER, short_der(0x0C, ISSUER.encode())),
                critical=False,
            )
        )
        bare = builder.sign(self.ca, hashes.SHA256()).tbs_certificate_bytes
        at = int(NOW.timestamp() * 1000)
        entry = hashlib.sha256(der(self.ca)).digest() + struct.pack("!I", len(bare))[1:] + bare
        signature = signed(
            self.ct, struct.pack("!BBQH", 0, 0, at, 1) + entry + struct.pack("!H", 0)
        )
        stamp = b"\0" + hashlib.sha256(der(self.ct)).digest() + struct.pack("!QH", at, 0)
        stamp += b"\x04\x03" + struct.pack("!H", len(signature)) + signature
        stamps = struct.pack("!HH", len(stamp) + 2, len(stamp)) + stamp
        extension = x509.UnrecognizedExtension(TIMESTAMPS, short_der(0x04, stamps))
        return builder.add_extension(extension, critical=False).sign(self.ca, hashes.SHA256())

    def sign(self, statement: bytes) -> bytes:
        """What `sigstore sign` leaves of these bytes."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate, signature = self.certificate(key), signed(key, statement)
        digest = hashlib.sha256(statement)
        body = {
            "apiVersion": "0.0.1",
            "kind": "hashedrekord",
            "spec": {
                "data": {"hash": {"algorithm": "sha256", "value": digest.hexdigest()}},
                "signature": {
                    "content": b64(signature),
                    "publicKey": {"content": _pem(certificate)},
                },
            },
        }
        content = {
            "messageSignature": {
                "messageDigest": {"algorithm": "SHA2_256", "digest": b64(digest.digest())},
                "signature": b64(signature),
            }
        }
        return self._bundle(certificate, body, content)

    def attest(self, statement: bytes) -> bytes:
        """What GitHub's attestation leaves: an in-toto statement with the bytes' hash."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.certificate(key)
        subject = {"name": "bundle", "digest": {"sha256": hashlib.sha256(statement).hexdigest()}}
        payload = json.dumps(
            {
                "_type": "https://in-toto.io/Statement/v1",
                "subject": [subject],
                "predicateType": "https://slsa.dev/provenance/v1",
                "predicate": {},
            }
        ).encode()
        pae = b"DSSEv1 %d %s %d %s" % (
            len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload,
        )  # fmt: skip
        signature = b64(signed(key, pae))
        envelope = {
            "payload": b64(payload),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": signature, "keyid": ""}],
        }
        body = {
            "apiVersion": "0.0.1",
            "kind": "dsse",
            "spec": {
                "envelopeHash": {
                    "algorithm": "sha256",
                    "value": hashlib.sha256(json.dumps(envelope).encode()).hexdigest(),
                },
                "payloadHash": {
                    "algorithm": "sha256",
                    "value": hashlib.sha256(payload).hexdigest(),
                },
                "signatures": [{"signature": signature, "verifier": _pem(certificate)}],
            },
        }
        return self._bundle(certificate, body, {"dsseEnvelope": envelope})

    def _bundle(
        self, certificate: x509.Certificate, body: dict[str, Any], content: dict[str, Any]
    ) -> bytes:
        """The bundle, its entry the only one of the log."""
        canonical = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
        log_id = hashlib.sha256(der(self.rekor)).digest()
        root = hashlib.sha256(b"\0" + canonical).digest()
        note = f"rekor.example.org - 1\n1\n{b64(root)}\n"
        note_signature = b64(log_id[:4] + signed(self.rekor, note.encode()))
        at = int(NOW.timestamp())
        promised = {
            "body": b64(canonical), "integratedTime": at, "logID": log_id.hex(), "logIndex": 0,
        }  # fmt: skip
        promise = json.dumps(promised, sort_keys=True, separators=(",", ":")).encode()
        entry = {
            "logIndex": "0",
            "logId": {"keyId": b64(log_id)},
            "kindVersion": {"kind": body["kind"], "version": body["apiVersion"]},
            "integratedTime": str(at),
            "inclusionPromise": {"signedEntryTimestamp": b64(signed(self.rekor, promise))},
            "inclusionProof": {
                "logIndex": "0",
                "rootHash": b64(root),
                "treeSize": "1",
                "hashes": [],
                "checkpoint": {
                    "envelope": f"{note}\n\N{EM DASH} rekor.example.org {note_signature}\n"
                },
            },
            "canonicalizedBody": b64(canonical),
        }
        raw = certificate.public_bytes(serialization.Encoding.DER)
        return json.dumps(
            {
                "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
                "verificationMaterial": {
                    "certificate": {"rawBytes": b64(raw)},
                    "tlogEntries": [entry],
                },
                **content,
            }
        ).encode()


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature, False, False, False, False, key_cert_sign, False, False, False
    )


def _pem(certificate: x509.Certificate) -> str:
    return b64(certificate.public_bytes(serialization.Encoding.PEM))
