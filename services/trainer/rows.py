"""Read the rows of a training set from the artifact store."""

import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from chassis.artifacts import ArtifactStore
from services.trainer.fitting import Labelled
from tabular.bundle import ModelColumn
from tabular.vectors import Vectors, assemble

CUTOFF = "cutoff"
LABEL = "label"


@dataclass(frozen=True)
class TrainingRows:
    """A training set in memory; `keys` has the columns of the row key, `cutoff_micros` is None for a static table."""

    keys: pa.Table
    vectors: Vectors
    label: npt.NDArray[np.float64]
    cutoff_micros: npt.NDArray[np.int64] | None

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.label)

    def take(self, rows: npt.NDArray[np.int64]) -> Labelled:
        """Return some of the rows with their labels."""
        return Labelled(self.vectors.take(rows), self.label[rows])


def read(artifacts: ArtifactStore, digest: str, columns: tuple[ModelColumn, ...]) -> TrainingRows:
    """Read a training set by its digest, with the columns that a model takes."""
    manifest = json.loads(artifacts.read(digest))
    tables = [pq.read_table(artifacts.path(file["digest"])) for file in manifest["files"]]
    table = pa.concat_tables(tables)
    values = {column.name: _array(table[column.name]) for column in columns}
    cutoff = None
    if CUTOFF in table.column_names and table[CUTOFF].null_count < len(table):
        cutoff = table[CUTOFF].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    vectors = assemble(columns, values, len(table))
    label = table[LABEL].cast(pa.float64()).to_numpy()
    return TrainingRows(table.select(manifest["row_key"]), vectors, label, cutoff)


def _array(column: pa.ChunkedArray) -> npt.NDArray[np.generic]:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    array: npt.NDArray[np.generic] = column.to_numpy()
    return array
