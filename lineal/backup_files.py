"""What a backup consists of, and whether it is whole.

    backup.json              which files, their SHA-256, the signed checkpoint that they lead to, the public keys
    records/<first>.parquet  stored records, byte for byte
    artifacts.txt            digests of the artifacts, one a line
    artifacts/ab/<digest>    the artifacts
    vault/<sha256>.arrow     protected attributes, which neither the log nor an artifact has; only the newest one counts

`backup.json` is written last, so that a backup that was cut off is the one before, and the next run goes on from there.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow as pa

from lineal import merkle, record_files
from lineal.errors import LinealError
from lineal.notes import Checkpoint, NoteWrong, PublicKey, trusted_keys, verified
from lineal.places import Place

FORMAT = "lineal-backup-v1"
MANIFEST = "backup.json"
ARTIFACTS = "artifacts.txt"
# Reading, with how many events are read and how many there are.
Told = Callable[[int, int], None]


class BackupDamaged(LinealError):
    """A file of a backup is not what was written."""


@dataclass(frozen=True)
class RecordsFile:
    """A file of records and its SHA-256."""

    name: str
    first: int
    last: int
    sha256: str


@dataclass
class Manifest:
    """`peaks` are those of the Merkle tree over all records; a backup that is not complete has no checkpoint yet."""

    origin: str
    keys: list[str]
    rotations: list[str]
    size: int = 0
    peaks: list[str] = field(default_factory=list)
    records: list[RecordsFile] = field(default_factory=list)
    checkpoint: str = ""
    # The artifacts that the events up to here name are all there.
    artifacts_until: int = 0
    artifacts: int = 0
    artifacts_sha256: str = ""
    # Whether a dataset with protected attributes was ever declared, and the vault's file; empty while nothing is in it.
    vaulted: bool = False
    vault_sha256: str = ""

    def save(self, place: Place) -> None:
        """Write the manifest."""
        put(place, MANIFEST, (json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n").encode())

    @classmethod
    def load(cls, place: Place) -> "Manifest | None":
        """Read the manifest, None when there is none. Raises BackupDamaged."""
        data = place.read(MANIFEST)
        if data is None:
            return None
        try:
            values = json.loads(data)
            if values.pop("format") != FORMAT:
                raise BackupDamaged(f"{MANIFEST}: is of another format than {FORMAT}")
            values["records"] = [RecordsFile(**each) for each in values["records"]]
            return cls(**values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BackupDamaged(f"{MANIFEST}: was changed, it cannot be read: {error}") from error

    def tree(self) -> merkle.Growing:
        """Return the tree over all records, ready to grow."""
        return merkle.Growing(self.size, [bytes.fromhex(peak) for peak in self.peaks])

    def signed(self, trusted: PublicKey | None = None) -> Checkpoint:
        """Return the checkpoint; `trusted` is a key of the log, the first that the backup has by default."""
        try:
            first = trusted or PublicKey.parse(self.keys[0])
            found = Checkpoint.parse(verified(self.checkpoint, trusted_keys(first, self.origin, self.rotations)))
        except (NoteWrong, IndexError) as error:
            raise BackupDamaged(f"{MANIFEST}: its checkpoint was changed or is missing: {error}") from error
        if (found.origin, found.size) != (self.origin, self.size):
            raise BackupDamaged(f"{MANIFEST}: its checkpoint is of {found.size} events of {found.origin}")
        return found


def artifact_name(digest: str) -> str:
    """Return where an artifact lies in a backup."""
    return f"artifacts/{digest[:2]}/{digest}"


def vault_name(sha256: str) -> str:
    """Return where the vault lies in a backup."""
    return f"vault/{sha256}.arrow"


def put(place: Place, name: str, data: bytes) -> None:
    """Store bytes under a name."""
    with tempfile.TemporaryDirectory(prefix="lineal-backup-") as folder:
        path = Path(folder) / "file"
        path.write_bytes(data)
        place.write(name, path)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def checked(place: Place, name: str, sha256: str) -> Iterator[Path]:
    """Yield a file to read from. Raises BackupDamaged, with its name, when it is missing or was changed."""
    try:
        with place.local(name) as path:
            if sha256_of(path) != sha256:
                raise BackupDamaged(f"{name}: was changed, its SHA-256 is another one")
            yield path
    except FileNotFoundError:
        raise BackupDamaged(f"{name}: is missing") from None


def records(place: Place, manifest: Manifest, after: int = 0) -> Iterator[bytes]:
    """Yield the records of the files that reach beyond a position. Raises BackupDamaged."""
    for each in manifest.records:
        if each.last > after:
            with checked(place, each.name, each.sha256) as path:
                try:
                    yield from record_files.read(path)
                except (pa.ArrowException, OSError) as error:
                    raise BackupDamaged(f"{each.name}: cannot be read: {error}") from error


def artifacts(place: Place, manifest: Manifest) -> list[str]:
    """Return the digests of all artifacts. Raises BackupDamaged."""
    if not manifest.artifacts_sha256:
        return []
    with checked(place, ARTIFACTS, manifest.artifacts_sha256) as path:
        return path.read_text(encoding="ascii").split()


def check(place: Place, trusted: PublicKey | None, told: Told) -> Manifest:
    """Read a whole backup but for the artifacts and return its manifest. Raises BackupDamaged with the file's name."""
    manifest = Manifest.load(place)
    if manifest is None:
        raise BackupDamaged(f"{MANIFEST}: is missing; this is no backup, or its first run was cut off")
    signed = manifest.signed(trusted)
    tree = merkle.Growing()
    for record in records(place, manifest):
        tree.add(merkle.leaf_hash(record))
        if tree.size % 1000 == 0:
            told(tree.size, manifest.size)
    if (tree.size, tree.root()) != (signed.size, signed.root):
        raise BackupDamaged(f"records: the {tree.size} events do not lead to the root that was signed")
    if manifest.vault_sha256:
        with checked(place, vault_name(manifest.vault_sha256), manifest.vault_sha256):
            pass
    return manifest
