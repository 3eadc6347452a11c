"""How a database keeps what it is given, asked on the connection that writes: settings belong to connections.

The traps of SQLite: a journal that is not WAL; commits that are not synchronous; a network's file system, whose locks
and shared memory WAL cannot rely on; a write-ahead log that grows because some reader never ends, so that no checkpoint
can reset it; and a version that can damage a WAL database when two connections checkpoint at once.
"""

import os
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

# Fixed in 3.51.3, and in older lines from these on.
_SOUND = (3, 51, 3)
_BACKPORTS = {(3, 44): 6, (3, 50): 7}
_SYNCHRONOUS = ("OFF", "NORMAL", "FULL", "EXTRA")
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "lustre", "afs", "fuse.sshfs"}
_MOUNTS = Path("/proc/self/mountinfo")
# Checkpoints come at 16 MiB; one large transaction may pass that, this much means that nothing is reset any more.
_MOST_WAL_BYTES = 256 * 1024 * 1024
_PG_SETTINGS = ("fsync", "full_page_writes", "synchronous_commit")


@dataclass
class Inspection:
    """What was found; see `DatabaseInspection` in the contract."""

    name: str
    engine: str
    settings: dict[str, str]
    filesystem: str = ""
    database_bytes: int = 0
    wal_bytes: int = 0
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def inspect_database(name: str, connection: Connection, synchronous: str) -> Inspection:
    """Ask a connection that writes; `synchronous` is what SQLite needs here, NORMAL or FULL. Blocking."""
    raw: Any = connection.connection.dbapi_connection
    if connection.dialect.name == "sqlite":
        return _sqlite(name, raw, synchronous)
    return _postgres(name, raw)


def _sqlite(name: str, raw: sqlite3.Connection, synchronous: str) -> Inspection:
    journal = str(raw.execute("PRAGMA journal_mode").fetchone()[0])
    found = _SYNCHRONOUS[raw.execute("PRAGMA synchronous").fetchone()[0]]
    settings = {"journal_mode": journal, "synchronous": found}
    inspection = Inspection(name, f"SQLite {sqlite3.sqlite_version}", settings)
    if journal != "wal":
        inspection.faults.append(f"its journal is {journal}, not wal: readers and the writer hold each other up")
    if _SYNCHRONOUS.index(found) < _SYNCHRONOUS.index(synchronous):
        inspection.faults.append(f"synchronous is {found}, not {synchronous}: a loss of power can take commits back")
    if not _sound(sqlite3.sqlite_version_info):
        inspection.notes.append(
            "this version has a rare WAL fault that one writer avoids; use PostgreSQL in production"
        )
    file = next((row[2] for row in raw.execute("PRAGMA database_list") if row[1] == "main"), "")
    if file:
        _look_at_file(inspection, Path(file))
    return inspection


def _look_at_file(inspection: Inspection, file: Path) -> None:
    inspection.filesystem = filesystem_of(file)
    inspection.database_bytes = file.stat().st_size
    wal = file.with_name(f"{file.name}-wal")
    inspection.wal_bytes = wal.stat().st_size if wal.exists() else 0
    if inspection.filesystem in _NETWORK:
        inspection.faults.append(
            f"{file} lies on a network's file system ({inspection.filesystem}), where WAL is not safe: move the data "
            "folder to a local disk, or use PostgreSQL"
        )
    if inspection.wal_bytes > _MOST_WAL_BYTES:
        inspection.faults.append(
            f"its write-ahead log has grown to {inspection.wal_bytes // 1024**2:,} MiB: a reader that never ends keeps "
            "it from being reset; end what else has the file open, and restart the service"
        )


def _sound(version: tuple[int, ...]) -> bool:
    patch = _BACKPORTS.get((version[0], version[1]))
    return version >= _SOUND or (patch is not None and version[2] >= patch)


def filesystem_of(path: Path, mounts: Path = _MOUNTS) -> str:
    """Return the type of the file system that a path lies on, empty where the system does not tell (not Linux)."""
    try:
        lines = mounts.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    found, longest = "", -1
    resolved = os.path.realpath(path)
    for line in lines:
        left, _, right = line.partition(" - ")
        # Spaces and such are written as octal escapes, proc(5).
        point = left.split()[4].encode().decode("unicode_escape")
        inside = point == "/" or resolved == point or resolved.startswith(f"{point}/")
        # The last one that is mounted on a point hides those below.
        if inside and len(point) >= longest:
            found, longest = right.split()[0], len(point)
    return found


def _postgres(name: str, raw: Any) -> Inspection:
    settings = {each: str(raw.execute(f"SHOW {each}").fetchone()[0]) for each in _PG_SETTINGS}
    version = raw.execute("SHOW server_version").fetchone()[0].split()[0]
    if not raw.autocommit:
        raw.rollback()
    inspection = Inspection(name, f"PostgreSQL {version}", settings)
    for setting, value in settings.items():
        if value == "off":
            inspection.faults.append(f"{setting} is off: a crash can take commits back; switch it on")
    return inspection
