"""What rules look at beside a batch: values that other datasets have, and the reference snapshot."""

import asyncio
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from chassis.artifacts import ArtifactStore
from chassis.events import EventLog
from chassis.projection import ProjectionRunner
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from services.ingest import projections
from services.ingest.distribution import ColumnReference, summary
from tabular.schema import ARROW_TYPES

_MOST_SUMMARIES = 1024


@dataclass(frozen=True)
class Surroundings:
    """By rule the values that its other column has, and by column the reference with its snapshot's digest."""

    values: Mapping[str, "pd.Index[Any]"] = field(default_factory=dict)
    columns: Mapping[str, ColumnReference] = field(default_factory=dict)
    snapshot_digest: str = ""


class Surveyor:
    """Reads what rules look at, and keeps it: of other datasets only new batches are read again."""

    def __init__(self, log: EventLog, artifacts: ArtifactStore, tables: ProjectionRunner) -> None:
        self._log = log
        self._artifacts = artifacts
        self._tables = tables
        self._values: dict[tuple[str, str], tuple[int, pd.Index[Any]]] = {}
        self._summaries: OrderedDict[tuple[str, str], ColumnReference] = OrderedDict()
        self._lock = asyncio.Lock()

    async def of(self, dataset: Dataset) -> Surroundings:
        """Return what the rules of a dataset look at, as the log is now."""
        references = [rule for rule in dataset.rules if rule.WhichOneof("kind") == "reference"]
        if not references and not dataset.distribution_checks:
            return Surroundings()
        # A sender may have filled the other dataset, or taken the snapshot, a moment ago.
        head = await self._log.head()
        async with self._lock:
            values = {
                rule.name: await self._known(rule.reference.dataset, rule.reference.other_column, head)
                for rule in references
            }
            digest = await self._reference(dataset, head) if dataset.distribution_checks else ""
            names = {check.column for check in dataset.distribution_checks} if digest else set()
            columns = {name: await self._summary(digest, dataset, name) for name in names}
        return Surroundings(values, columns, digest)

    async def _known(self, dataset: str, column: str, head: int) -> "pd.Index[Any]":
        until, known = self._values.get((dataset, column), (0, pd.Index([])))
        batches = await self._tables.query(
            partial(projections.batches_until, name=dataset, position=head, after=until), head
        )
        new = [batch for batch in batches if batch.accepted_digest]
        if new:
            found = await asyncio.to_thread(self._read, [batch.accepted_digest for batch in new], column)
            known = pd.Index(found) if known.empty else known.append(pd.Index(found)).unique()
        self._values[dataset, column] = head, known
        return known

    async def _reference(self, dataset: Dataset, head: int) -> str:
        if dataset.reference_snapshot:
            return dataset.reference_snapshot
        found, _ = await self._tables.query(partial(projections.snapshots, name=dataset.name, size=1, token=""), head)
        return found[0].digest if found else ""

    async def _summary(self, digest: str, dataset: Dataset, column: str) -> ColumnReference:
        key = digest, column
        if key not in self._summaries:
            self._summaries[key] = await asyncio.to_thread(self._summarised, digest, dataset, column)
        self._summaries.move_to_end(key)
        while len(self._summaries) > _MOST_SUMMARIES:
            self._summaries.popitem(last=False)
        return self._summaries[key]

    def _summarised(self, digest: str, dataset: Dataset, column: str) -> ColumnReference:
        manifest = json.loads(self._artifacts.read(digest))
        kind = next(ARROW_TYPES[field.type] for field in dataset.fields if field.name == column)
        chunks: list[pa.Array] = []
        for file in manifest["files"]:
            with self._artifacts.open(file["digest"]) as stream, pq.ParquetFile(stream) as parquet:
                if column in parquet.schema_arrow.names:
                    chunks += parquet.read(columns=[column])[column].cast(kind).chunks
                else:
                    chunks.append(pa.nulls(parquet.metadata.num_rows, kind))
        return summary(pa.chunked_array(chunks, kind))

    def _read(self, digests: list[str], column: str) -> "pd.Series[Any]":
        chunks: list[pa.Array] = []
        for digest in digests:
            with self._artifacts.open(digest) as stream, pq.ParquetFile(stream) as parquet:
                if column in parquet.schema_arrow.names:
                    chunks += parquet.read(columns=[column])[column].chunks
        found: pd.Series[Any] = pa.chunked_array(chunks or [pa.array([])]).drop_null().unique().to_pandas()
        return found
