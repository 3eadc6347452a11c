"""Restores the vault of a backup into an empty one: `python -m services.ingest restore <backup>`."""

import sys

import pyarrow as pa

from chassis.databases import open_database
from lineal.backup_files import BackupDamaged, Manifest, checked, vault_name
from lineal.errors import LinealError
from lineal.places import Place, place_at
from services.ingest.settings import Settings
from services.ingest.vault import Vault


def restore(settings: Settings, place: Place) -> int:
    """Write the vault of a backup and return how many facts it has. Blocking. Raises BackupDamaged."""
    manifest = Manifest.load(place)
    if manifest is None:
        raise BackupDamaged("backup.json: is missing; this is no backup, or its first run was cut off")
    if not manifest.vault_sha256:
        return 0
    database = open_database(settings.database, synchronous="FULL")
    try:
        with (
            checked(place, vault_name(manifest.vault_sha256), manifest.vault_sha256) as path,
            pa.OSFile(str(path)) as file,
            pa.ipc.open_stream(file) as reader,
        ):
            return Vault(database).restore(pa.Table.from_batches([batch]) for batch in reader)
    finally:
        database.close()


def main(arguments: list[str]) -> int:
    """Restore as the command line says; print how many facts there are, or why there are none."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m services.ingest restore <backup>\n")
        return 2
    try:
        facts = restore(Settings(), place_at(arguments[0]))
    except LinealError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{facts}\n")
    return 0
