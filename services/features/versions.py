"""Find the versions of rows in accepted batches: a later row of the same row key corrects or repeats an earlier one."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from chassis.artifacts import ArtifactStore
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from services.features.batches import Batch
from tabular import keys
from tabular.keys import Ints
from tabular.parquet import read_parquet

# Place of the row's batch in those given, and of the row in its batch.
BATCH = "__batch"
ROW = "__row"
_PLACES = [pa.field(BATCH, pa.int64()), pa.field(ROW, pa.int64())]


def placed(
    schema: pa.Schema, batch: int = 0, table: pa.Table | None = None, rows: Sequence[int] | Ints = ()
) -> pa.Table:
    """Return rows of a batch's table with their places; without a table, none."""
    taken = schema.empty_table() if table is None else table.take(pa.array(rows, pa.int64()))
    for field, values in zip(_PLACES, (np.full(len(rows), batch), rows), strict=True):
        taken = taken.append_column(field, pa.array(values, pa.int64()))
    return taken


def with_versions(
    artifacts: ArtifactStore, dataset: Dataset, schema: pa.Schema, batches: Sequence[Batch], found: pa.Table
) -> pa.Table:
    """Return rows that were found in batches, with their places, and all other versions of them, in log order.

    Blocking: reads the row keys of all batches, and the rest of those with versions that were not found.
    """
    names = list(dataset.row_key)
    key_schema = pa.schema([schema.field(name) for name in names])
    tables, there = [found], _lines(found)
    for row_keys in _row_keys(artifacts, key_schema, batches if found.num_rows else (), found.num_rows):
        asked, code = keys.codes([found[name] for name in names], [row_keys[name] for name in names])
        more = np.isin(code, asked) & ~np.isin(_lines(row_keys), there)
        number, row = (row_keys[name].to_numpy()[more] for name in (BATCH, ROW))
        for each in np.unique(number):
            table = read_parquet(artifacts.path(batches[each].digest), schema)
            tables.append(placed(schema, each, table, row[number == each]))
    together = pa.concat_tables(tables).combine_chunks()
    return together.take(pa.array(np.argsort(_lines(together))))


def _row_keys(artifacts: ArtifactStore, schema: pa.Schema, batches: Sequence[Batch], rows: int) -> Iterator[pa.Table]:
    """Yield the row keys of batches with their places, of so many batches at once that they have `rows` or more.

    Looking for that many keys in each batch by itself would take time in proportion to batches times keys.
    """
    held, count = [], 0
    for number, batch in enumerate(batches):
        table = read_parquet(artifacts.path(batch.digest), schema)
        held.append(placed(schema, number, table, np.arange(table.num_rows)))
        count += table.num_rows
        if count >= rows or number == len(batches) - 1:
            yield pa.concat_tables(held)
            held, count = [], 0


def _lines(table: pa.Table) -> Ints:
    """Return where rows lie as one number, in log order."""
    lines: Ints = (table[BATCH].to_numpy() << 32) + table[ROW].to_numpy()
    return lines
