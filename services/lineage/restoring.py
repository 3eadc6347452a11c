"""Restores a backup into an empty place, byte for byte: `python -m services.lineage restore <backup>`."""

import argparse
import json
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec

from chassis.artifacts import ArtifactStore, artifact_store
from chassis.errors import LinealError, RuleViolated
from lineal import merkle
from lineal.api.lineage.v1.record_pb2 import EventRecord
from lineal.backup_files import Manifest, artifact_name, artifacts, check, checked, records
from lineal.errors import LinealError as ClientError
from lineal.merkle import Node
from lineal.notes import Checkpoint, NoteWrong, PublicKey
from lineal.places import Place, place_at
from services.lineage.checkpoint_files import LATEST
from services.lineage.keys import Keys
from services.lineage.settings import Settings
from services.lineage.store import EventStore
from services.lineage.store_writer import StoreWriter
from services.lineage.tables import Stored
from services.lineage.tree import TILE_LEVELS, Tree

_GROUP = 1000


class NotEmpty(RuleViolated):
    """There is a log already where one is to be restored."""


class KeysOfAnother(RuleViolated):
    """The keys are not those that signed the backup's log."""


def restore(settings: Settings, place: Place, trusted: PublicKey | None, keys: Path | None) -> Checkpoint:
    """Restore a backup and return its checkpoint, which the restored log has been compared with. Blocking.

    The backup is read whole before anything is written. `keys` is a copy of the log's folder of keys: with it the log
    goes on under its name, without it a new name and key are made when it starts. Raises BackupDamaged, NotEmpty and
    KeysOfAnother.
    """
    manifest = check(place, trusted, lambda _read, _all: None)
    signed = manifest.signed(trusted)
    own_keys = settings.keys_dir or settings.service_dir / "keys"
    if keys is not None:
        _check_keys(keys, manifest)
    store_root = artifact_store(settings.artifacts, settings.service_dir / "cache")
    store = EventStore(settings.database, store_root)
    try:
        writer = store.open_writer()
        try:
            if writer.newest() != (0, 0) or own_keys.exists():
                raise NotEmpty(
                    f"there is a log in {settings.database} or a key in {own_keys}: restore to an empty place"
                )
            _restore_artifacts(place, manifest, store_root)
            _write(writer, records(place, manifest))
        finally:
            writer.close()
        if Tree(store).root(signed.size) != signed.root:
            raise RuntimeError("the restored log has another root than the backup: nothing of it may be used")
    finally:
        store.close()
    if keys is not None:
        shutil.copytree(keys, own_keys)
        _leave_checkpoint(settings, manifest.checkpoint)
    return signed


def _check_keys(folder: Path, manifest: Manifest) -> None:
    found = Keys(folder) if (folder / "origin").is_file() and any(folder.glob("*.pem")) else None
    if found is None or found.origin != manifest.origin or str(found.signers[0].public) != manifest.keys[0]:
        raise KeysOfAnother(f"{folder} does not hold the keys of the log {manifest.origin}")


def _restore_artifacts(place: Place, manifest: Manifest, store: ArtifactStore) -> None:
    for digest in artifacts(place, manifest):
        with checked(place, artifact_name(digest), digest) as path:
            store.put_file(path)


def _write(writer: StoreWriter, stored: Iterator[bytes]) -> None:
    tree = merkle.Growing()
    group: list[Stored] = []
    nodes: list[tuple[Node, bytes]] = []
    for data in stored:
        row = _row(data)
        group.append(row)
        nodes += tree.add(row.leaf_hash, TILE_LEVELS)
        if len(group) == _GROUP:
            writer.commit(group, nodes)
            group, nodes = [], []
    if group:
        writer.commit(group, nodes)


def _row(data: bytes) -> Stored:
    record = EventRecord.FromString(data)
    recorded = record.recorded_time.seconds * 1_000_000 + record.recorded_time.nanos // 1000
    leaf = merkle.leaf_hash(data)
    key = uuid.UUID(record.event_id).bytes
    return Stored(record.position, record.stream, record.revision, key, record.type, recorded, data, leaf)


def _leave_checkpoint(settings: Settings, note: str) -> None:
    """Let the restored log be compared with the backup's checkpoint each time it starts."""
    files, folder = fsspec.core.url_to_fs(settings.checkpoints_url or str(settings.service_dir / "checkpoints"))
    if not files.exists(f"{folder}/{LATEST}"):
        files.makedirs(folder, exist_ok=True)
        files.pipe_file(f"{folder}/{LATEST}", note.encode())


def main(arguments: list[str]) -> int:
    """Restore as the command line says; print the checkpoint as JSON, or why there is none."""
    parser = argparse.ArgumentParser(prog="python -m services.lineage restore")
    parser.add_argument("backup")
    parser.add_argument("--key", help="public key that is trusted")
    parser.add_argument("--keys", type=Path, help="folder of the log's private keys")
    given = parser.parse_args(arguments)
    try:
        trusted = PublicKey.parse(given.key) if given.key else None
        found = restore(Settings(), place_at(given.backup), trusted, given.keys)
    except (ClientError, LinealError, NoteWrong) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps({"origin": found.origin, "size": found.size, "root": found.root.hex()}) + "\n")
    return 0
