"""Signed notes as C2SP writes them."""

import base64
import itertools

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lineal.notes import Checkpoint, NoteWrong, PublicKey, Rotation, Signer, trusted_keys, verified

# A key in the wild: the Go checksum database's.
_SUM_KEY = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
_SIGNER = Signer("lineal.test/log", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
_CHECKPOINT = Checkpoint("lineal.test/log", 7, bytes(range(32)))


def test_a_known_key_reads_and_writes_the_same() -> None:
    key = PublicKey.parse(_SUM_KEY)
    assert key.name == "sum.golang.org"
    assert str(key) == _SUM_KEY


def test_a_note_of_a_stranger_says_nothing() -> None:
    with pytest.raises(NoteWrong, match="none of the trusted keys"):
        verified(_SIGNER.sign(_CHECKPOINT.text()), [PublicKey.parse(_SUM_KEY)])


def test_a_checkpoint_comes_back() -> None:
    note = _SIGNER.sign(_CHECKPOINT.text())
    assert Checkpoint.parse(verified(note, [_SIGNER.public])) == _CHECKPOINT
    assert note.split("\n")[0:2] == ["lineal.test/log", "7"]
    assert note.split("\n")[4].startswith("— lineal.test/log ")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_byte_of_a_note_can_be_changed(data: st.DataObject) -> None:
    note = _SIGNER.sign(_CHECKPOINT.text()).encode()
    place = data.draw(st.integers(0, len(note) - 1))
    changed = bytearray(note)
    changed[place] ^= data.draw(st.integers(1, 255))
    try:
        text = bytes(changed).decode()
    except UnicodeDecodeError:
        return
    with pytest.raises(NoteWrong):
        Checkpoint.parse(verified(text, [_SIGNER.public]))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "lineal",
        "lineal+00000000+",
        _SUM_KEY.replace("033de0ae", "033de0af"),
        _SUM_KEY.replace("sum", "sun"),
        "x+00000000+" + base64.b64encode(b"\x02" + bytes(32)).decode(),
    ],
)
def test_a_key_that_was_changed_is_refused(text: str) -> None:
    with pytest.raises(NoteWrong):
        PublicKey.parse(text)


@pytest.mark.parametrize(
    "text", ["", "a\n", "a\n1\n", "a\n01\nAAAA\n", "a\n-1\n" + _CHECKPOINT.text().split("\n")[2] + "\n"]
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(NoteWrong):
        Checkpoint.parse(text)


def test_trust_follows_rotations_from_any_key_on() -> None:
    signers = [Signer("log", Ed25519PrivateKey.generate()) for _ in range(4)]
    notes = [before.sign(Rotation("log", after.public).text()) for before, after in itertools.pairwise(signers)]
    public = [signer.public for signer in signers]
    assert trusted_keys(public[0], "log", notes) == public
    assert trusted_keys(public[2], "log", notes) == public[2:]
    # Without a link, what comes after it is not trusted.
    assert trusted_keys(public[0], "log", notes[1:]) == public[:1]
    stranger = Signer("log", Ed25519PrivateKey.generate())
    forged = stranger.sign(Rotation("log", stranger.public).text())
    assert trusted_keys(public[0], "log", [forged]) == public[:1]
