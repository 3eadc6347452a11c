"""The vault: values of protected attributes, apart from the rows that they came with.

They are primary data: neither log nor artifacts have them, so no proof can disclose them and erasing them breaks none.
A fact is written before the event of its batch and counts from that event on; one whose batch never came about counts
never. Facts are not changed: a corrected row is a fact of a later batch.
"""

import json
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from sqlalchemy import BigInteger, Boolean, Column, Index, MetaData, String, Table, exists, insert, select

from chassis.databases import Database
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from services.ingest.validation import ROW_NUMBER
from tabular import keys
from tabular.columns import TIMESTAMP
from tabular.schema import protected, sent_schema

_metadata = MetaData()
_facts = Table(
    "vault",
    _metadata,
    Column("dataset", String, primary_key=True),
    Column("batch_id", String, primary_key=True),
    # Two senders may give a batch one name; the event says whose it became.
    Column("content_digest", String, primary_key=True),
    Column("quarantined", Boolean, primary_key=True),
    # In the order accepted; of a quarantined row its number as sent.
    Column("row", BigInteger, primary_key=True, autoincrement=False),
    Column("row_key", String),
    Column("body", String, nullable=False),
    Index("vault_by_key", "dataset", "row_key"),
)
# SQLite takes 32,766 parameters a statement.
_CHUNK = 500
_EXPORT_ROWS = 50_000


@dataclass(frozen=True)
class BatchName:
    """Which batch facts are of."""

    dataset: str
    batch_id: str
    content_digest: str


class Vault:
    """The table of facts. Blocking: call it in a thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        with database.writer.begin() as connection:
            _metadata.create_all(connection)

    def keep(self, declared: Dataset, batch: BatchName, accepted: pa.Table, quarantined: pa.Table | None) -> None:
        """Write what rows of a batch say of protected attributes, once; durable when this returns."""
        facts = [*_read(declared, accepted, range(accepted.num_rows))]
        if quarantined is not None:
            facts += _read(declared, quarantined, quarantined[ROW_NUMBER].to_pylist(), quarantined=True)
        mine = [getattr(_facts.c, name) == value for name, value in vars(batch).items()]
        with self._database.writer.begin() as connection:
            if facts and not connection.execute(select(exists().where(*mine))).scalar():
                connection.execute(insert(_facts), [vars(batch) | fact for fact in facts])

    def put_back(self, declared: Dataset, batch: BatchName, refused: pa.Table) -> pa.Table:
        """Return quarantined rows with their protected attributes; columns that a file has itself stay."""
        wanted = [name for name in protected(declared) if name not in refused.column_names]
        if not wanted:
            return refused
        mine = [getattr(_facts.c, name) == value for name, value in vars(batch).items()]
        with self._database.reader.begin() as connection:
            found = connection.execute(select(_facts.c.row, _facts.c.body).where(*mine, _facts.c.quarantined))
            bodies = {row.row: row.body for row in found}
        columns = _columns(declared, [bodies.get(number) for number in refused[ROW_NUMBER].to_pylist()])
        for name in wanted:
            refused = refused.append_column(name, columns[name])
        return refused

    def values(
        self, declared: Dataset, row_keys: Sequence[str | None], positions: Mapping[tuple[str, str], int]
    ) -> pa.Table:
        """Return the protected attributes of accepted rows by key; a row for each key, null where there is nothing.

        `positions` are the log positions of the batches that count, by id and content digest; the latest one decides.
        """
        newest: dict[str, tuple[int, str]] = {}
        asked = sorted({key for key in row_keys if key is not None})
        with self._database.reader.begin() as connection:
            for start in range(0, len(asked), _CHUNK):
                query = select(_facts).where(
                    _facts.c.dataset == declared.name,
                    _facts.c.row_key.in_(asked[start : start + _CHUNK]),
                    ~_facts.c.quarantined,
                )
                for fact in connection.execute(query):
                    position = positions.get((fact.batch_id, fact.content_digest), 0)
                    if position > newest.get(fact.row_key, (0, ""))[0]:
                        newest[fact.row_key] = position, fact.body
        return _columns(declared, [newest[key][1] if key in newest else None for key in row_keys])

    def export(self) -> Generator[pa.Table, None, None]:
        """Yield all facts, as they were at one moment."""
        query = select(_facts).order_by(*_facts.primary_key.columns).execution_options(yield_per=_EXPORT_ROWS)
        with self._database.reader.begin() as connection:
            for rows in connection.execute(query).mappings().partitions():
                yield pa.Table.from_pylist([dict(row) for row in rows], schema=EXPORTED)

    def restore(self, facts: Iterable[pa.Table]) -> int:
        """Write exported facts into an empty vault, all or none; return how many."""
        count = 0
        with self._database.writer.begin() as connection:
            for table in facts:
                if table.num_rows:
                    connection.execute(insert(_facts), table.to_pylist())
                count += table.num_rows
        return count


EXPORTED = pa.schema(
    [
        pa.field(column.name, {Boolean: pa.bool_(), BigInteger: pa.int64()}.get(type(column.type), pa.string()))
        for column in _facts.columns
    ]
)


def take_off(declared: Dataset, table: pa.Table) -> pa.Table:
    """Return rows without protected attributes."""
    there = [name for name in protected(declared) if name in table.column_names]
    return table.drop_columns(there) if there else table


def _read(
    declared: Dataset, table: pa.Table, numbers: Sequence[int], *, quarantined: bool = False
) -> Iterator[dict[str, Any]]:
    row_keys = keys.encode([table[name] for name in declared.row_key])
    values = table.select(protected(declared))
    for place, column in enumerate(values.columns):
        if pa.types.is_timestamp(column.type):
            values = values.set_column(place, values.column_names[place], column.cast(pa.int64()))
    for number, key, body in zip(numbers, row_keys, values.to_pylist(), strict=True):
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        yield {"quarantined": quarantined, "row": number, "row_key": key, "body": text}


def _columns(declared: Dataset, bodies: Sequence[str | None]) -> pa.Table:
    values = [json.loads(body) if body else {} for body in bodies]
    schema = pa.schema([sent_schema(declared).field(name) for name in protected(declared)])
    arrays = []
    for field in schema:
        plain = pa.int64() if field.type == TIMESTAMP else field.type
        arrays.append(pa.array([body.get(field.name) for body in values], plain).cast(field.type))
    return pa.table(arrays, schema=schema)
