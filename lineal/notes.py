"""Signed notes and checkpoints, as C2SP's signed-note and tlog-checkpoint have them, with Ed25519.

A note is a text, an empty line, and one line per signature: an em dash, the key's name, and in base64 the key's id (4
bytes) with the signature over the text. A checkpoint's text says which log, how many leaves, and the root over them.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from lineal.merkle import HASH_BYTES

_ED25519 = b"\x01"
_KEY_BYTES = 32
_DASH = "— "


class NoteWrong(ValueError):
    """A note cannot be read, or nobody who is trusted has signed it."""


@dataclass(frozen=True)
class PublicKey:
    """Whose signatures are trusted."""

    name: str
    key: bytes

    @classmethod
    def parse(cls, text: str) -> "PublicKey":
        """Read a key as `name+id+base64`. Raises NoteWrong."""
        name, _, rest = text.strip().partition("+")
        identity, _, encoded = rest.partition("+")
        try:
            data = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            data = b""
        if not name or data[:1] != _ED25519 or len(data) != 1 + _KEY_BYTES:
            raise NoteWrong("a public key reads `name+id+base64` and is for Ed25519; `lineal keys` prints it")
        found = cls(name, data[1:])
        if found.identity.hex() != identity:
            raise NoteWrong(f"the public key of {name} has been changed: its id does not fit it")
        return found

    @property
    def identity(self) -> bytes:
        """Return the 4 bytes that a signature names its key by."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.key).digest()[:4]

    def __str__(self) -> str:
        """Return the key as `parse` reads it."""
        return f"{self.name}+{self.identity.hex()}+{base64.b64encode(_ED25519 + self.key).decode()}"


@dataclass(frozen=True)
class Signer:
    """A key that signs."""

    name: str
    private: Ed25519PrivateKey

    @property
    def public(self) -> PublicKey:
        """Return what others check its signatures with."""
        return PublicKey(self.name, self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    def sign(self, text: str) -> str:
        """Return the note of a text, which ends with a line feed."""
        signature = self.public.identity + self.private.sign(text.encode())
        return f"{text}\n{_DASH}{self.name} {base64.b64encode(signature).decode()}\n"


@dataclass(frozen=True)
class Checkpoint:
    """What a log was at a moment: its name, its size in leaves, the root over them."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """Return the text that is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> "Checkpoint":
        """Read the text of a note. Raises NoteWrong."""
        lines = text.split("\n")
        try:
            origin, size, root = lines[0], int(lines[1]), base64.b64decode(lines[2], validate=True)
        except (IndexError, ValueError):
            raise NoteWrong("the note is no checkpoint: it must say origin, size and root") from None
        found = cls(origin, size, root)
        if size < 0 or len(root) != HASH_BYTES or found.text() != text:
            raise NoteWrong("the checkpoint is not written as checkpoints are")
        return found


@dataclass(frozen=True)
class Rotation:
    """What the key before says of the key that a log signs with from now on."""

    origin: str
    key: PublicKey

    def text(self) -> str:
        """Return the text that is signed."""
        return f"{self.origin} rotates its key\n{self.key}\n"

    @classmethod
    def parse(cls, text: str, origin: str) -> "Rotation":
        """Read the text of a note. Raises NoteWrong."""
        found = cls(origin, PublicKey.parse(text.partition("\n")[2]))
        if found.text() != text:
            raise NoteWrong(f"the note does not rotate the key of {origin}")
        return found


def trusted_keys(first: PublicKey, origin: str, rotations: Iterable[str]) -> list[PublicKey]:
    """Return a trusted key and those that follow from it, each vouched for by the one before.

    Notes of keys before the trusted one say nothing and are passed over. Raises NoteWrong.
    """
    keys = [first]
    for note in rotations:
        if _is_signed_by(note, keys[-1]):
            keys.append(Rotation.parse(verified(note, [keys[-1]]), origin).key)
    return keys


def verified(note: str, trusted: Iterable[PublicKey]) -> str:
    """Return the text of a note that one of the trusted keys has signed. Raises NoteWrong."""
    text, separator, signatures = note.rpartition("\n\n")
    if not separator or not signatures.endswith("\n"):
        raise NoteWrong("the note has no signatures")
    text += "\n"
    keys = {(key.name, key.identity): key for key in trusted}
    signed = False
    for line in signatures.removesuffix("\n").split("\n"):
        name, identity, signature = _parsed(line)
        key = keys.get((name, identity))
        if key is None:
            continue  # who is not known says nothing
        try:
            Ed25519PublicKey.from_public_bytes(key.key).verify(signature, text.encode())
        except InvalidSignature:
            raise NoteWrong(f"the signature of {name} does not fit the note: one of them was changed") from None
        signed = True
    if not signed:
        raise NoteWrong(f"none of the trusted keys has signed the note: {', '.join(map(str, keys.values()))}")
    return text


def _is_signed_by(note: str, key: PublicKey) -> bool:
    lines = note.rpartition("\n\n")[2].removesuffix("\n").split("\n")
    return any(_parsed(line)[:2] == (key.name, key.identity) for line in lines)


def _parsed(line: str) -> tuple[str, bytes, bytes]:
    name, _, encoded = line.removeprefix(_DASH).partition(" ")
    try:
        data = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        data = b""
    # A text that decodes but is not written as we write it would let two notes pass for one.
    if not line.startswith(_DASH) or not name or len(data) < 5 or base64.b64encode(data).decode() != encoded:
        raise NoteWrong("a signature line of the note cannot be read")
    return name, data[:4], data[4:]
