"""Backs up a running log and the artifacts that it names, over gRPC; a run after the first adds what is new."""

import hashlib
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pyarrow as pa

from lineal import merkle, record_files
from lineal.api.ingest.v1 import vault_service_pb2 as vault_api
from lineal.api.ingest.v1.dataset_pb2 import Sensitivity
from lineal.api.ingest.v1.events_pb2 import DatasetRegistered
from lineal.api.lineage.v1 import lineage_service_pb2 as lineage_api
from lineal.api.lineage.v1 import proof_service_pb2 as proof_api
from lineal.api.lineage.v1.record_pb2 import EventRecord, StoredRecord
from lineal.artifacts import fetch
from lineal.backup_files import (
    ARTIFACTS,
    Manifest,
    RecordsFile,
    artifact_name,
    artifacts,
    put,
    records,
    sha256_of,
    vault_name,
)
from lineal.calls import Services
from lineal.errors import LinealError, call_failed
from lineal.notes import Checkpoint
from lineal.places import Place

# A digest as protobuf has it, after its length of 64, or as JSON has it.
DIGEST = re.compile(rb'[@"]([0-9a-f]{64})')
# What is longer is data, not a manifest that names other artifacts.
MANIFEST_BYTES = 4 * 1024 * 1024
_FILE_RECORDS = 16_384
_FILE_BYTES = 64 * 1024 * 1024
_DECLARATION = DatasetRegistered.DESCRIPTOR.full_name.encode()
_VAULT_SECONDS = 600.0
# What is being done, how much of it is done, and how much there is.
Told = Callable[[str, int, int], None]


class BackupRefused(LinealError):
    """What lies in the place is no backup of this log."""


@dataclass(frozen=True)
class BackedUp:
    """What a run has done. `missing` are digests that the log names and that are no artifacts."""

    checkpoint: Checkpoint
    events: int
    artifacts: int
    copied: int
    missing: int


def run(services: Services, place: Place, told: Told) -> BackedUp:
    """Back up all that is there now. Raises CallFailed, BackupRefused and BackupDamaged."""
    keys = services.proofs.call("ListKeys", proof_api.ListKeysRequest())
    manifest = Manifest.load(place) or Manifest(keys.origin, [], [])
    if manifest.origin != keys.origin:
        raise BackupRefused(f"the place has a backup of the log {manifest.origin}, this one is {keys.origin}")
    before = manifest.size
    note = services.proofs.call("GetCheckpoint", proof_api.GetCheckpointRequest()).checkpoint
    goal = Manifest(keys.origin, list(keys.keys), list(keys.rotations), checkpoint=note)
    goal.size = Checkpoint.parse(note.split("\n\n")[0] + "\n").size
    signed = goal.signed()
    if signed.size < before:
        raise BackupRefused(f"the log has {signed.size} events, the backup {before}: back it up to another place")
    manifest.keys, manifest.rotations = goal.keys, goal.rotations
    _add_records(services, place, manifest, signed.size, told)
    if manifest.tree().root() != signed.root:
        raise BackupRefused(
            "the log is not the one that was backed up before: its events do not lead to the signed root; "
            "`lineal doctor --verify` looks for what was changed"
        )
    copied, missing = _add_artifacts(services, place, manifest, told)
    # After the checkpoint: a batch's facts are in the vault before its event is in the log.
    manifest.vault_sha256 = _add_vault(services, place) if manifest.vaulted else ""
    manifest.checkpoint, manifest.artifacts_until = note, signed.size
    manifest.save(place)
    return BackedUp(signed, signed.size - before, manifest.artifacts, copied, missing)


def _add_records(services: Services, place: Place, manifest: Manifest, until: int, told: Told) -> None:
    with _subscribed(services, manifest.size) as stored:
        while manifest.size < until:
            tree, first, size = manifest.tree(), manifest.size + 1, 0
            with tempfile.TemporaryDirectory(prefix="lineal-backup-") as folder:
                path = Path(folder) / "records.parquet"
                with record_files.RecordFileWriter(path) as file:
                    while tree.size < min(until, first - 1 + _FILE_RECORDS) and size < _FILE_BYTES:
                        record = next(stored).record
                        file.add(record)
                        tree.add(merkle.leaf_hash(record))
                        size += len(record)
                name = f"records/{first:020}.parquet"
                place.write(name, path)
                manifest.records.append(RecordsFile(name, first, tree.size, sha256_of(path)))
            manifest.size, manifest.peaks = tree.size, [peak.hex() for peak in tree.hashes]
            # Not complete until there is a checkpoint of this size, but what is there need not be sent again.
            manifest.checkpoint = ""
            manifest.save(place)
            told("events", manifest.size, until)


@contextmanager
def _subscribed(services: Services, after: int) -> Iterator[Iterator[StoredRecord]]:
    lineage = services.lineage
    responses = lineage.stub.Subscribe(lineage_api.SubscribeRequest(after_position=after))
    try:
        yield (stored for response in responses for stored in response.records)
    except grpc.RpcError as error:
        raise call_failed(error, lineage.name, lineage.address) from error
    finally:
        responses.cancel()


def _add_artifacts(services: Services, place: Place, manifest: Manifest, told: Told) -> tuple[int, int]:
    """Copy the artifacts that new events name, and those that these name; return how many, and how many are none."""
    there = set(artifacts(place, manifest))
    seen: set[str] = set()
    copied = missing = 0
    new: set[str] = set()
    for record in records(place, manifest, manifest.artifacts_until):
        new |= _named([record])
        manifest.vaulted = manifest.vaulted or _declares_protected(record)
    queue = list(new)
    while queue:
        digest = queue.pop()
        if digest in seen:
            continue
        seen.add(digest)
        name = artifact_name(digest)
        size = place.size(name)
        if size is None:
            size = _copied(services, place, digest)
            if size is None:
                missing += 1
                continue
            copied += 1
        there.add(digest)
        if size <= MANIFEST_BYTES:
            queue += _named([place.read(name) or b""])
        told("artifacts", len(seen), len(seen) + len(queue))
    listed = "".join(f"{digest}\n" for digest in sorted(there)).encode()
    put(place, ARTIFACTS, listed)
    manifest.artifacts, manifest.artifacts_sha256 = len(there), hashlib.sha256(listed).hexdigest()
    return copied, missing


def _declares_protected(record: bytes) -> bool:
    if _DECLARATION not in record:
        return False
    event = EventRecord.FromString(record)
    if event.type != _DECLARATION.decode():
        return False
    fields = DatasetRegistered.FromString(event.payload).dataset.fields
    return any(field.sensitivity == Sensitivity.SENSITIVITY_PROTECTED_ATTRIBUTE for field in fields)


def _add_vault(services: Services, place: Place) -> str:
    """Copy the vault and return its SHA-256, nothing where it is empty."""
    vault = services.vault
    with tempfile.TemporaryDirectory(prefix="lineal-backup-") as folder:
        path = Path(folder) / "vault"

        def attempt(left: float) -> None:
            with path.open("wb") as file:
                for response in vault.stub.ExportVault(vault_api.ExportVaultRequest(), timeout=left):
                    file.write(response.arrow)

        vault.patiently(attempt, _VAULT_SECONDS)
        with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
            if not any(batch.num_rows for batch in reader):
                return ""
        sha256 = sha256_of(path)
        if place.size(vault_name(sha256)) is None:
            place.write(vault_name(sha256), path)
        return sha256


def _named(texts: Iterable[bytes]) -> set[str]:
    return {found.decode() for text in texts for found in DIGEST.findall(text)}


def _copied(services: Services, place: Place, digest: str) -> int | None:
    """Copy an artifact and return its size, None when there is none of that digest."""
    with tempfile.TemporaryDirectory(prefix="lineal-backup-") as folder:
        path = Path(folder) / "artifact"
        if not fetch(services, digest, path):
            return None
        place.write(artifact_name(digest), path)
        return path.stat().st_size
