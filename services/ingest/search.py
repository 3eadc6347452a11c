"""Find accepted rows by the values of some columns, in the files of the newest batches first."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chassis.artifacts import ArtifactStore
from chassis.errors import FieldViolation, InvalidArgument
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from lineal.api.ingest.v1.ingest_service_pb2 import AcceptedRow
from services.ingest.projections import StoredBatch
from tabular.schema import arrow_schema


class KeyInvalid(InvalidArgument):
    """Rows cannot be found by such a key."""


def check_key(dataset: Dataset, key: Mapping[str, str]) -> None:
    """Raise KeyInvalid unless the key names columns of the dataset."""
    known = arrow_schema(dataset).names
    violations = [
        FieldViolation(
            f"key[{name}]", f"is no column of the rows that {dataset.name!r} keeps; there are {', '.join(known)}"
        )
        for name in key
        if name not in known
    ]
    if not key:
        violations = [FieldViolation("key", "name one column at least, with the text that it must have")]
    if violations:
        raise KeyInvalid("rows are found by the values of columns", violations)


def find(
    artifacts: ArtifactStore, batches: Iterable[StoredBatch], key: Mapping[str, str], most: int
) -> list[AcceptedRow]:
    """Return up to `most` rows of batches, in the order of the batches, the later rows of each first."""
    found: list[AcceptedRow] = []
    for batch in batches:
        if len(found) == most:
            break
        if not batch.accepted_digest:
            continue
        table = pq.read_table(artifacts.path(batch.accepted_digest))
        numbers = _matching(table, key)[::-1][: most - len(found)]
        for number, body in zip(numbers, table.take(pa.array(numbers, pa.int64())).to_pylist(), strict=True):
            found.append(
                AcceptedRow(
                    batch_id=batch.batch_id,
                    row=number,
                    row_json=json.dumps(body, ensure_ascii=False, default=str),
                    position=batch.position,
                )
            )
    return found


def _matching(table: pa.Table, key: Mapping[str, str]) -> list[int]:
    mask: Any = None
    for name, text in key.items():
        if name not in table.column_names:
            # A batch of an older schema does not have the column yet.
            return []
        same = pc.equal(table[name].cast(pa.string()), text)
        mask = same if mask is None else pc.and_(mask, same)
    numbers: list[int] = pc.indices_nonzero(pc.fill_null(mask, False)).to_pylist()
    return numbers
