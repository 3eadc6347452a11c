"""The population that explanations compare with: the sample in a bundle of the rows that it was fitted on."""

import io
from dataclasses import dataclass

import pyarrow.parquet as pq

from chassis.artifacts import ArtifactStore
from tabular.bundle import REFERENCE_FILE, Bundle
from tabular.vectors import Vectors, assemble


@dataclass(frozen=True)
class Population:
    """Rows of a bundle's columns, and the digest of the file that they come from."""

    digest: str
    vectors: Vectors


def population_of(bundle: Bundle, artifacts: ArtifactStore) -> Population | None:
    """Return the population of a bundle, None for one without: its model was imported. Blocking."""
    digest = bundle.files.get(REFERENCE_FILE)
    if digest is None:
        return None
    table = pq.read_table(io.BytesIO(artifacts.read(digest)), columns=[*bundle.numeric, *bundle.categorical])
    values = {name: table[name].to_numpy() for name in table.column_names}
    return Population(digest, assemble(bundle.columns, values, len(table)))
