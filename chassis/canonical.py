"""One hash for the content of tables, the same on every database."""

import hashlib
import math
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, MetaData, Table, select

from chassis.artifacts import canonical_json


def table_digest(connection: Connection, metadata: MetaData) -> tuple[str, int]:
    """Return the SHA-256 of all tables in hex and the number of their rows.

    Per table in order of name: its name, then its rows as canonical JSON in order of primary key.
    """
    whole = hashlib.sha256()
    count = 0
    for table in sorted(metadata.tables.values(), key=lambda table: table.name):
        whole.update(canonical_json({"table": table.name}) + b"\n")
        for _, digest in _rows(connection, table):
            whole.update(digest)
            count += 1
    return whole.hexdigest(), count


def _rows(connection: Connection, table: Table) -> list[tuple[bytes, bytes]]:
    # Sorted here, since databases order text by different rules; only digests of the rows are held.
    key = [column.name for column in table.primary_key.columns] or [column.name for column in table.columns]
    result = connection.execute(select(table), execution_options={"yield_per": 1000})
    return sorted((_encoded(row, key), _row_digest(row)) for row in result.mappings())


def _encoded(row: Any, key: Sequence[str]) -> bytes:
    return canonical_json([_plain(row[name]) for name in key])


def _row_digest(row: Any) -> bytes:
    return hashlib.sha256(canonical_json({str(name): _plain(value) for name, value in row.items()})).digest()


def _plain(value: Any) -> Any:
    match value:
        case datetime():
            return value.replace(tzinfo=value.tzinfo or UTC).astimezone(UTC).isoformat(timespec="microseconds")
        case date():
            return value.isoformat()
        case bytes() | memoryview():
            return {"hex": bytes(value).hex()}
        case Decimal():
            return {"decimal": str(value.normalize())}
        case float() if not math.isfinite(value):
            return {"float": repr(value)}
        case float():
            # SQLite does not keep the sign of a zero.
            return value + 0.0
        case dict():
            return {str(k): _plain(v) for k, v in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
    return value
