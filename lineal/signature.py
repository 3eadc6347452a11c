"""Signatures over the files of a bundle, as `model_signing verify key` reads them.

A Sigstore bundle (JSON) holds a DSSE envelope, which holds an in-toto statement that names each file with its SHA-256;
the key is ECDSA P-256. The bundle's manifest is among the files as `bundle.json`, so its digest is signed, too.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

MANIFEST_FILE = "bundle.json"
_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_SERIALIZATION = {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
_ALGORITHM = ECDSA(SHA256())


class SignatureWrong(ValueError):
    """A signature cannot be read, or is not of the key that it should be of."""


def signed_files(bundle_digest: str, files: Mapping[str, str]) -> dict[str, str]:
    """Return the digests by name that a bundle's signature must have. Raises SignatureWrong for a taken name."""
    if MANIFEST_FILE in files:
        raise SignatureWrong(f"a file of the bundle is named {MANIFEST_FILE}, which is its manifest's name")
    return {**files, MANIFEST_FILE: bundle_digest}


def public_pem(private: EllipticCurvePrivateKey) -> str:
    """Return the public key of a private one, in PEM."""
    return _pem(private.public_key())


def key_id(pem: str) -> str:
    """Return a public key's id: the SHA-256 of its PEM, in hex."""
    return hashlib.sha256(pem.encode()).hexdigest()


def sign(private: EllipticCurvePrivateKey, name: str, files: Mapping[str, str]) -> bytes:
    """Return a signature over the digests of files by their names; `name` is for people."""
    payload = json.dumps(_statement(name, files), indent=2).encode()
    value = {
        "mediaType": _MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": key_id(public_pem(private))}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": _PAYLOAD_TYPE,
            "signatures": [
                {"sig": base64.b64encode(private.sign(_encoded(payload), _ALGORITHM)).decode(), "keyid": ""}
            ],
        },
    }
    return json.dumps(value).encode()


@dataclass(frozen=True)
class Signature:
    """A signature as it was read; nothing of it holds before it is verified."""

    key_id: str
    payload: bytes
    value: bytes

    @classmethod
    def parse(cls, data: bytes) -> "Signature":
        """Read a signature. Raises SignatureWrong."""
        try:
            outer = json.loads(data)
            envelope = outer["dsseEnvelope"]
            (signature,) = envelope["signatures"]
            if outer["mediaType"] != _MEDIA_TYPE or envelope["payloadType"] != _PAYLOAD_TYPE:
                raise SignatureWrong("the signature is of a kind that this version does not know")
            return cls(
                str(outer["verificationMaterial"]["publicKey"]["hint"]),
                base64.b64decode(envelope["payload"], validate=True),
                base64.b64decode(signature["sig"], validate=True),
            )
        except SignatureWrong:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise SignatureWrong(f"the signature cannot be read: {error}") from error

    def verify(self, pem: str, files: Mapping[str, str]) -> None:
        """Raise SignatureWrong unless the key has signed exactly these digests by these names."""
        if self.key_id != key_id(pem):
            raise SignatureWrong(f"it was signed by key {self.key_id[:12]}, not {key_id(pem)[:12]}")
        try:
            _public(pem).verify(self.value, _encoded(self.payload), _ALGORITHM)
        except InvalidSignature:
            raise SignatureWrong(f"key {self.key_id[:12]} has not signed this: it was changed or forged") from None
        try:
            statement = json.loads(self.payload)
            signed = {entry["name"]: entry["digest"] for entry in statement["predicate"]["resources"]}
            # Which paths the signer passed over says nothing of those that it signed.
            statement["predicate"]["serialization"].pop("ignore_paths", None)
            same = _statement(statement["subject"][0]["name"], files) == statement
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise SignatureWrong(f"the signed statement cannot be read: {error}") from error
        if not same:
            names = sorted(name for name in {*signed, *files} if signed.get(name) != files.get(name))
            raise SignatureWrong(f"it is the signature of other files: {', '.join(names) or 'the statement differs'}")


def voucher_text(pem: str, expire_time: datetime) -> bytes:
    """Return what the key before signs, to vouch for a key that counts until then."""
    return f"lineal signs bundles with\n{pem}until {expire_time.isoformat()}\n".encode()


def vouch(private: EllipticCurvePrivateKey, pem: str, expire_time: datetime) -> bytes:
    """Return the voucher of a key for the one after it."""
    return private.sign(voucher_text(pem, expire_time), _ALGORITHM)


def vouches(pem: str, voucher: bytes, following: str, expire_time: datetime) -> bool:
    """Tell whether a key vouches for another one."""
    try:
        _public(pem).verify(voucher, voucher_text(following, expire_time), _ALGORITHM)
    except (InvalidSignature, SignatureWrong):
        return False
    return True


def _statement(name: str, files: Mapping[str, str]) -> dict[str, Any]:
    resources = [{"algorithm": "sha256", "digest": files[each], "name": each} for each in sorted(files)]
    root = hashlib.sha256(b"".join(bytes.fromhex(files[each]) for each in sorted(files))).hexdigest()
    return {
        "_type": _STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": _PREDICATE_TYPE,
        "predicate": {"serialization": _SERIALIZATION, "resources": resources},
    }


def _encoded(payload: bytes) -> bytes:
    # DSSE's pre-authentication encoding.
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE.encode(), len(payload), payload)


def _pem(public: EllipticCurvePublicKey) -> str:
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _public(pem: str) -> EllipticCurvePublicKey:
    try:
        key = load_pem_public_key(pem.encode())
    except ValueError as error:
        raise SignatureWrong(f"the public key cannot be read: {error}") from error
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise SignatureWrong("the public key is not for ECDSA P-256")
    return key
