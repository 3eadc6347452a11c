"""The keys that sign bundles: PEM files in a folder of their own, numbered, the newest signs. Blocking."""

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from chassis.ids import check_request_id, new_request_id
from chassis.private_files import write_private
from lineal.signature import key_id, public_pem


class KeysDamaged(RuntimeError):
    """A key file cannot be used."""


@dataclass(frozen=True)
class KeyFile:
    """A private key, and the command that made it."""

    request_id: str
    private: EllipticCurvePrivateKey

    @property
    def public_key(self) -> str:
        """Return the public key, in PEM."""
        return public_pem(self.private)

    @property
    def key_id(self) -> str:
        """Return the public key's id."""
        return key_id(self.public_key)


class Keys:
    """All keys that this registry has signed with: `<number>.<request id>.pem`."""

    def __init__(self, folder: Path) -> None:
        """Read the keys of a folder; an empty one gets its first key. Raises KeysDamaged."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._files = [_read(path) for path in sorted(folder.glob("*.pem"))]
        if not self._files:
            self.add(new_request_id())

    @property
    def current(self) -> KeyFile:
        """Return the key that signs."""
        return self._files[-1]

    def add(self, request_id: str) -> KeyFile:
        """Sign with a new key from now on; the same request id gives the same key."""
        request_id = check_request_id(request_id)
        for file in self._files:
            if file.request_id == request_id:
                return file
        added = KeyFile(request_id, generate_private_key(SECP256R1()))
        pem = added.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_private(self._folder / f"{len(self._files) + 1:04}.{request_id}.pem", pem)
        self._files.append(added)
        return added

    def before(self, key: KeyFile) -> KeyFile | None:
        """Return the key that signed before another one, None before the first."""
        number = self._files.index(key)
        return self._files[number - 1] if number else None


def _read(path: Path) -> KeyFile:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
        request_id = check_request_id(path.name[5:].removesuffix(".pem"))
    except ValueError as error:
        raise KeysDamaged(f"{path} is no private key: {error}") from error
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise KeysDamaged(f"{path} is no key for ECDSA P-256")
    return KeyFile(request_id, key)
