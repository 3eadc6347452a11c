"""The keys that sign checkpoints: PEM files in a folder of their own, numbered, the newest signs. Blocking."""

import uuid
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from chassis.private_files import write_private
from lineal.notes import Rotation, Signer

_ORIGIN = "origin"


class KeysDamaged(RuntimeError):
    """A key file cannot be used."""


class Keys:
    """All keys that this log has signed with."""

    def __init__(self, folder: Path, origin: str | None = None) -> None:
        """Read the keys of a folder; an empty one gets its first key, and the log its name."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        named = folder / _ORIGIN
        if not named.exists():
            write_private(named, (origin or f"lineal.local/{uuid.uuid4().hex[:12]}").encode())
        self.origin = named.read_text(encoding="utf-8").strip()
        if origin and origin != self.origin:
            raise KeysDamaged(f"this log is named {self.origin}, not {origin}: a log keeps its name")
        self.signers = [self._read(path) for path in sorted(folder.glob("*.pem"))]
        if not self.signers:
            self._add(Ed25519PrivateKey.generate())
        self._notes = {int(path.name[:4]): path for path in sorted(folder.glob("*.note"))}
        missing = [number for number in range(2, len(self.signers) + 1) if number not in self._notes]
        if missing:
            raise KeysDamaged(f"{folder} lacks the notes that vouch for keys {missing}")

    @property
    def current(self) -> Signer:
        """Return the key that signs."""
        return self.signers[-1]

    @property
    def rotations(self) -> list[str]:
        """Return the note that vouches for each key but the first."""
        return [self._notes[number].read_text(encoding="utf-8") for number in range(2, len(self.signers) + 1)]

    def rotate(self, request_id: str) -> tuple[Signer, str]:
        """Sign with a new key from now on; return it and the note that vouches for it.

        The same request id gives the same key.
        """
        request_id = str(uuid.UUID(request_id))
        for number, path in self._notes.items():
            if path.name[5:].startswith(request_id) and number <= len(self.signers):
                return self.signers[number - 1], path.read_text(encoding="utf-8")
        before, private = self.current, Ed25519PrivateKey.generate()
        note = before.sign(Rotation(self.origin, Signer(self.origin, private).public).text())
        number = len(self.signers) + 1
        # The note first: without its key it is replaced by the next one, while a key without its note is not trusted.
        if number in self._notes:
            self._notes[number].unlink()
        self._notes[number] = self._folder / f"{number:04}.{request_id}.note"
        write_private(self._notes[number], note.encode())
        self._add(private)
        return self.current, note

    def _add(self, private: Ed25519PrivateKey) -> None:
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_private(self._folder / f"{len(self.signers) + 1:04}.pem", pem)
        self.signers.append(Signer(self.origin, private))

    def _read(self, path: Path) -> Signer:
        try:
            key = load_pem_private_key(path.read_bytes(), password=None)
        except ValueError as error:
            raise KeysDamaged(f"{path} is no private key: {error}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise KeysDamaged(f"{path} is no Ed25519 key")
        return Signer(self.origin, key)
