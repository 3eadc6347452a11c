"""Signatures over a bundle's files, beside one that the tool `model_signing` 1.1.1 has made (`sign key`)."""

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, generate_private_key

from lineal.api.registry.v1.events_pb2 import SigningKeyAdded, SigningKeyRevoked
from lineal.signature import Signature, SignatureWrong, key_id, public_pem, sign, signed_files, vouch
from lineal.signing_keys import SigningKeys

FILES = {"model.cbm": "a" * 64, "card.md": "b" * 64, "bundle.json": "c" * 64}
NOW = datetime(2026, 11, 23, tzinfo=UTC)
LIFE = timedelta(days=365)
KEY = generate_private_key(SECP256R1())


def test_a_signature_holds_for_its_files_and_key_alone() -> None:
    signature = Signature.parse(sign(KEY, "delay", FILES))
    signature.verify(public_pem(KEY), FILES)
    with pytest.raises(SignatureWrong, match=r"other files: model\.cbm"):
        signature.verify(public_pem(KEY), FILES | {"model.cbm": "d" * 64})
    with pytest.raises(SignatureWrong, match=r"other files: more"):
        signature.verify(public_pem(KEY), FILES | {"more": "d" * 64})
    with pytest.raises(SignatureWrong, match="signed by key"):
        signature.verify(public_pem(generate_private_key(SECP256R1())), FILES)


def test_every_changed_byte_of_a_signature_is_refused_or_changes_nothing() -> None:
    data = sign(KEY, "delay", FILES)
    whole = Signature.parse(data)
    for at in range(0, len(data), 7):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        try:
            found = Signature.parse(changed)
            found.verify(public_pem(KEY), FILES)
        except SignatureWrong:
            continue
        # What nobody reads, such as the names of what this version does not use.
        assert found == whole


def test_a_signature_of_model_signing_is_read_and_made_alike() -> None:
    stored = json.loads((Path(__file__).parent / "model_signing.json").read_text(encoding="utf-8"))
    theirs = Signature.parse(json.dumps(stored["signature"]).encode())
    theirs.verify(stored["public_key"], stored["files"])
    own = json.loads(sign(KEY, "m", stored["files"]))
    statement = json.loads(theirs.payload)
    del statement["predicate"]["serialization"]["ignore_paths"]
    assert json.loads(base64.b64decode(own["dsseEnvelope"]["payload"])) == statement
    assert own.keys() == stored["signature"].keys()
    assert own["dsseEnvelope"].keys() == stored["signature"]["dsseEnvelope"].keys()
    assert own["verificationMaterial"].keys() == stored["signature"]["verificationMaterial"].keys()


def test_no_file_takes_the_name_of_the_manifest() -> None:
    with pytest.raises(SignatureWrong, match=r"bundle\.json"):
        signed_files("a" * 64, {"bundle.json": "b" * 64})


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b"\xff", b'{"dsseEnvelope": 1}'])
def test_what_is_no_signature_is_refused(data: bytes) -> None:
    with pytest.raises(SignatureWrong):
        Signature.parse(data)


def added(pem: str, voucher: bytes = b"", expire_time: datetime = NOW + LIFE) -> SigningKeyAdded:
    event = SigningKeyAdded(public_key=pem, voucher=voucher)
    event.expire_time.FromDatetime(expire_time)
    return event


def test_trust_goes_from_key_to_key_and_not_past_an_end() -> None:
    keys, following, stranger = SigningKeys(), generate_private_key(SECP256R1()), generate_private_key(SECP256R1())
    first, second, other = public_pem(KEY), public_pem(following), public_pem(stranger)
    keys.apply(added(first), NOW)
    keys.apply(added(other), NOW)
    keys.apply(added(second, vouch(KEY, second, NOW + LIFE)), NOW)
    assert keys.public_key(key_id(second), NOW) == second
    with pytest.raises(SignatureWrong, match=f"LINEAL_SERVING_TRUSTED_KEYS={key_id(other)}"):
        keys.public_key(key_id(other), NOW)
    with pytest.raises(SignatureWrong, match="had expired"):
        keys.public_key(key_id(first), NOW + LIFE)
    keys.apply(SigningKeyRevoked(key_id=key_id(first), reason="stolen"), NOW)
    with pytest.raises(SignatureWrong, match=r"revoked \(stolen\)"):
        keys.public_key(key_id(first), NOW)
    # It vouched while it counted.
    assert keys.public_key(key_id(second), NOW) == second
    late = public_pem(generate_private_key(SECP256R1()))
    keys.apply(added(late, vouch(KEY, late, NOW + LIFE)), NOW)
    with pytest.raises(SignatureWrong, match="no trusted key vouches"):
        keys.public_key(key_id(late), NOW)


def test_a_voucher_is_for_one_key_and_one_end() -> None:
    keys, following = SigningKeys(), public_pem(generate_private_key(SECP256R1()))
    keys.apply(added(public_pem(KEY)), NOW)
    keys.apply(added(following, vouch(KEY, following, NOW + LIFE), NOW + 2 * LIFE), NOW)
    with pytest.raises(SignatureWrong, match="no trusted key vouches"):
        keys.public_key(key_id(following), NOW)


def test_a_trusted_id_stands_in_for_the_first_key() -> None:
    pem, other = public_pem(KEY), public_pem(generate_private_key(SECP256R1()))
    keys = SigningKeys([key_id(pem)])
    keys.apply(added(other), NOW)
    keys.apply(added(pem), NOW)
    assert keys.public_key(key_id(pem), NOW) == pem
    with pytest.raises(SignatureWrong, match="no trusted key vouches"):
        keys.public_key(key_id(other), NOW)


def test_another_curve_is_no_key() -> None:
    pem = public_pem(generate_private_key(SECP384R1()))
    with pytest.raises(SignatureWrong, match="P-256"):
        Signature(key_id(pem), b"", b"").verify(pem, {})
