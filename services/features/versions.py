"""Find the versions of rows in accepted batches: a later row of the same row key corrects or repeats an earlier one."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from chassis.artifacts import ArtifactStore
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from services.features.batches import Batch
from tabular import keys
from tabular.parquet import read_parquet
from tabular.schema import arrow_schema

# Place of the row's batch in those given, and of the row in its batch.
BATCH = "__batch"
ROW = "__row"


def all_versions(
    artifacts: ArtifactStore, dataset: Dataset, schema: pa.Schema, batches: Sequence[Batch], wanted: pa.Table
) -> pa.Table:
    """Return every row of the batches that has a row key of `wanted`, in log order, with the columns of a schema.

    Blocking: reads the row keys of all batches, and the rest of those with such rows.
    """
    names = list(dataset.row_key)
    key_schema = pa.schema([arrow_schema(dataset).field(name) for name in names])
    places = [pa.field(BATCH, pa.int64()), pa.field(ROW, pa.int64())]
    tables = [pa.schema([*schema, *places]).empty_table()]
    for number, batch in enumerate(batches if wanted.num_rows else ()):
        path = artifacts.path(batch.digest)
        there = read_parquet(path, key_schema)
        asked, code = keys.codes([wanted[name] for name in names], [there[name] for name in names])
        rows = np.flatnonzero(np.isin(code, asked))
        if len(rows):
            table = read_parquet(path, schema).take(rows)
            found = table.append_column(places[0], pa.array(np.full(len(rows), number)))
            tables.append(found.append_column(places[1], pa.array(rows)))
    return pa.concat_tables(tables).combine_chunks()
