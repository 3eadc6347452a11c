"""The parts of a scoring: what Dask's workers run, each alone and each repeatable.

A part reads rows, or segments of past predictions, scores them with the code that answers predictions, and leaves a
Parquet file among the artifacts. It returns plain JSON values, so that a result can be written down.
"""

import functools
import math
import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from chassis.artifacts import ArtifactStore, artifact_store
from lineal.api.features.v1.feature_set_pb2 import ColumnType
from lineal.api.monitor.v1.monitor_service_pb2 import ReadSegmentRequest
from lineal.api.monitor.v1.prediction_pb2 import PredictionRecord
from lineal.calls import Services
from lineal.profile import Profile
from tabular.bundle import MODEL_FILE, Bundle
from tabular.columns import TIMESTAMP, arrow_to_numpy
from tabular.on_demand import from_records, on_demand
from tabular.parquet import conform
from tabular.scorer import Scorer, Scores
from tabular.transforms import outputs
from tabular.vectors import ColumnMissing, ColumnMistyped, Vectors, assemble

# So many are held as Python's own values at once.
_ROWS_AT_ONCE = 50_000
_MONITOR_SECONDS = 120.0
_TYPES = {
    "numeric": ColumnType.COLUMN_TYPE_NUMERIC,
    "categorical": ColumnType.COLUMN_TYPE_CATEGORICAL,
    "time": ColumnType.COLUMN_TYPE_TIME,
}
Array = npt.NDArray[Any]


class RowsUnfit(ValueError):
    """Rows do not have what the bundle needs."""


@dataclass(frozen=True)
class Place:
    """Where workers find artifacts, where copies of remote ones go, the bundle that scores, and monitor's address."""

    artifacts: str
    cache: str
    bundle: str
    monitor: str = ""


@dataclass(frozen=True)
class Past:
    """Which past predictions of an endpoint count; times in microseconds, None is no limit."""

    endpoint: str
    start: int | None
    end: int | None


def rows(place: Place, files: Sequence[str], schema: bytes, kept: Sequence[str]) -> dict[str, Any]:
    """Score the rows of files; `kept` are columns of the result.

    Files of a snapshot are read by a schema, which is given in Arrow's form: older ones may lack columns.
    """
    declared = pa.ipc.read_schema(pa.py_buffer(schema)) if schema else None
    bundle, store = _scorer(place).bundle, _store(place)

    def tables() -> Iterator[tuple[pa.Table, Scores]]:
        for file in files:
            with pq.ParquetFile(store.path(file)) as opened:
                names = needed(bundle, (declared or opened.schema_arrow).names)
                read = [name for name in opened.schema_arrow.names if name in names or name in kept]
                for batch in opened.iter_batches(_ROWS_AT_ONCE, columns=read):
                    table = pa.Table.from_batches([batch])
                    if declared is not None:
                        table = conform(
                            table, pa.schema([field for field in declared if field.name in {*names, *kept}])
                        )
                    values = {name: arrow_to_numpy(table[name]) for name in names}
                    yield table.select(list(kept)), _scorer(place).score(_vectors(bundle, values, table.num_rows))

    return _written(place, tables())


def predictions(place: Place, segments: Sequence[str], past: Past) -> dict[str, Any]:
    """Score the past predictions of segments anew, from their recorded vectors."""

    def tables() -> Iterator[tuple[pa.Table, Scores]]:
        with Services(Profile({"monitor": place.monitor}), _MONITOR_SECONDS) as services:
            for segment in segments:
                request = ReadSegmentRequest(segment_digest=segment)
                found = services.monitor.collect("ReadSegment", request)
                by_bundle = defaultdict(list)
                for record in (record for piece in found for record in piece.predictions):
                    if record.endpoint == past.endpoint and _inside(past, record.event_time_micros):
                        by_bundle[record.bundle_digest].append(record)
                for digest, records in by_bundle.items():
                    whole = [record for record in records if record.numeric_values or record.categorical_values]
                    missed.append(len(records) - len(whole))
                    if whole:
                        vectors = _vectors(_scorer(place).bundle, _recorded(place, digest, whole), len(whole))
                        yield _answered(whole), _scorer(place).score(vectors)

    missed: list[int] = []
    made = _written(place, tables())
    return made | {"without_vector": sum(missed)}


def needed(bundle: Bundle, there: Collection[str]) -> list[str]:
    """Return the columns that a bundle scores from where some are there; what transforms make of others is computed."""
    computing = on_demand(bundle, there)
    made = {name for transform in computing.transforms for name in outputs(transform)}
    names = [column.name for column in (*bundle.columns, *computing.inputs) if column.name not in made]
    return list(dict.fromkeys(names))


def _vectors(bundle: Bundle, values: Mapping[str, Array], count: int) -> Vectors:
    """Arrange rows as serving does those of a request that brings all. Raises RowsUnfit."""
    computing = on_demand(bundle, values)
    try:
        return assemble(bundle.columns, {**computing.compute(computing.take(values)), **values}, count)
    except (ColumnMissing, ColumnMistyped) as error:
        raise RowsUnfit(f"rows cannot be scored with bundle of model {bundle.model!r}: {error}") from error


def _recorded(place: Place, digest: str, records: Sequence[PredictionRecord]) -> dict[str, Array]:
    """Return the recorded values of predictions that one bundle answered, by column. Raises RowsUnfit."""
    answering = _bundle(place, digest)
    numeric = np.array([record.numeric_values for record in records], dtype=np.float64).reshape(len(records), -1)
    categorical = np.array([list(record.categorical_values) for record in records], dtype=object)
    # A vector has the empty text for null, transforms know the difference.
    categorical[categorical == ""] = None
    values: dict[str, Array] = {name: numeric[:, index] for index, name in enumerate(answering.numeric)}
    values |= {name: categorical[:, index] for index, name in enumerate(answering.categorical)}
    inputs = [{each.column: each for each in record.inputs} for record in records]
    for column in on_demand(_scorer(place).bundle, values).inputs:
        if column.name in values:
            continue
        if not all(column.name in each for each in inputs):
            raise RowsUnfit(f"predictions of bundle {digest[:12]} have no value of column {column.name!r} recorded")
        made = from_records([each[column.name] for each in inputs], _TYPES[column.type])
        values[column.name] = made.astype(np.int64) if made.dtype.kind == "M" else made
    return values


def _answered(records: Sequence[PredictionRecord]) -> pa.Table:
    return pa.table(
        {
            "prediction_id": [record.prediction_id for record in records],
            "event_time": pa.array([record.event_time_micros for record in records], pa.int64()).cast(TIMESTAMP),
            "old_bundle": [record.bundle_digest for record in records],
            "old_score": pa.array([record.score for record in records], pa.float64()),
            "old_decision": pa.array([record.decision for record in records], pa.uint32()),
        }
    )


def _written(place: Place, tables: Iterable[tuple[pa.Table, Scores]]) -> dict[str, Any]:
    """Write tables with their scores to a file among the artifacts; return it and what sums up."""
    scorer, sums, writer, count = _scorer(place), _Sums(), None, 0
    with tempfile.TemporaryDirectory(prefix="lineal-scoring-") as folder:
        path = Path(folder) / "part.parquet"
        for table, scores in tables:
            decisions = scorer.decide(scores.calibrated)
            sums.add(table, scores.answered, decisions)
            scored = _with_scores(table, scores, decisions)
            if writer is None:
                writer = pq.ParquetWriter(path, scored.schema, compression="zstd", version="2.6")
            writer.write_table(scored)
            count += scored.num_rows
        if writer is None:
            return {"digest": "", "rows": 0, "columns": []} | sums.told()
        writer.close()
        digest = _store(place).put_file(path)
    return {"digest": digest, "rows": count, "columns": scored.column_names} | sums.told()


def _with_scores(table: pa.Table, scores: Scores, decisions: npt.NDArray[np.uint32]) -> pa.Table:
    made = {"score": pa.array(scores.answered), "decision": pa.array(decisions)}
    if scores.calibrated.ndim > 1:
        classes = scores.calibrated.shape[1]
        made["class_scores"] = pa.FixedSizeListArray.from_arrays(pa.array(scores.calibrated.reshape(-1)), classes)
    else:
        made["raw_score"] = pa.array(scores.raw)
    columns = {name: table[name] for name in table.column_names if name not in made}
    return pa.table(columns | made)


class _Sums:
    """What the rows of a part come to; sums are rounded once."""

    def __init__(self) -> None:
        self._scores: list[float] = []
        self._old: list[float] = []
        self._shifts: list[float] = []
        self._counts = dict.fromkeys(("positive_decisions", "flips", "flips_from_zero", "flips_to_zero"), 0)
        self._max = 0.0

    def add(self, table: pa.Table, scores: npt.NDArray[np.float64], decisions: npt.NDArray[np.uint32]) -> None:
        """Count rows in."""
        self._scores.append(math.fsum(scores))
        self._count("positive_decisions", decisions > 0)
        if "old_score" not in table.column_names:
            return
        old, was = table["old_score"].to_numpy(), table["old_decision"].to_numpy()
        self._old.append(math.fsum(old))
        self._shifts.append(math.fsum(np.abs(scores - old)))
        self._max = max(self._max, float(np.abs(scores - old).max()))
        self._count("flips", decisions != was)
        self._count("flips_from_zero", (was == 0) & (decisions != 0))
        self._count("flips_to_zero", (was != 0) & (decisions == 0))

    def told(self) -> dict[str, Any]:
        """Return the sums by name."""
        sums = {"score_sum": self._scores, "old_score_sum": self._old, "absolute_shift_sum": self._shifts}
        return {name: math.fsum(each) for name, each in sums.items()} | self._counts | {"max_absolute_shift": self._max}

    def _count(self, name: str, rows_: npt.NDArray[np.bool_]) -> None:
        self._counts[name] += int(rows_.sum())


def _inside(past: Past, micros: int) -> bool:
    return (past.start is None or micros >= past.start) and (past.end is None or micros < past.end)


@functools.cache
def _store(place: Place) -> ArtifactStore:
    # Kept by the process, since a store verifies a file once as long as it lives.
    return artifact_store(place.artifacts, Path(place.cache))


@functools.lru_cache(maxsize=2)
def _scorer(place: Place) -> Scorer:
    bundle = _bundle(place, place.bundle)
    return Scorer(bundle, _store(place).read(bundle.files[MODEL_FILE]))


@functools.lru_cache(maxsize=256)
def _bundle(place: Place, digest: str) -> Bundle:
    return Bundle.from_bytes(_store(place).read(digest))
