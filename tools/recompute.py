"""Compute a proven prediction's features anew from the proven rows: `python -m tools.recompute <proof> --key <key>`.

Needs no service, but the source tree: the operators are those that training sets and online features come from, which
the installed `lineal` does not have.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from lineal import proof, rows
from lineal.api.features.v1.transform_pb2 import Transform
from lineal.errors import LinealError
from lineal.explain import same
from lineal.notes import NoteWrong, PublicKey
from lineal.served import ServedRow, speaks_of
from services.features.assembly import columns_used, rows_of
from tabular.definitions import prefix_of, spine_keys, wanted_features
from tabular.operators import Rows, Timeline, operator
from tabular.parquet import conform
from tabular.schema import arrow_schema


def features(proven: proof.Proven) -> Iterator[tuple[str, float | str | None]]:
    """Yield the features that were looked up for a prediction, by column, computed from its proven rows."""
    served, record = proven.served, proven.prediction
    if served is None or record is None or served.feature_set is None:
        return
    for wanted in served.feature_set.feature_set.view_features:
        view = served.views[wanted.view]
        keys = dict(zip(view.entity_keys, spine_keys(wanted, view), strict=True))
        mine = [row for row in served.rows if row.dataset.name == view.dataset and speaks_of(row.values, keys, record)]
        operators = [operator(feature) for feature in wanted_features(wanted, view)]
        moment = Timeline(_rows(mine, columns_used(wanted, view), view.transforms)).at(
            np.zeros(1, dtype=np.int64), np.array([record.event_time_micros])
        )
        for op, feature in zip(operators, moment.compute(operators), strict=True):
            yield prefix_of(wanted) + op.name, feature.values[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a proof file, compute its features, and say whether they are those that were served."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--key", required=True, help="public key of the log")
    given = parser.parse_args(arguments)
    try:
        proven = proof.check(json.loads(given.file.read_text(encoding="utf-8")), PublicKey.parse(given.key))
    except (LinealError, NoteWrong, ValueError, OSError) as error:
        sys.stdout.write(f"error: {error}\n")
        return 1
    if proven.served is None or proven.prediction is None:
        sys.stdout.write("error: the proof has no rows; `lineal prove <prediction>` writes them\n")
        return 1
    wrong = 0
    scored = _scored(proven)
    for column, value in features(proven):
        if column in proven.prediction.given_columns or column not in scored:
            continue
        fits = same(scored[column], value)
        wrong += not fits
        sys.stdout.write(f"{column}: served {scored[column]}, computed {value}{'' if fits else '  DIFFERS'}\n")
    if made := [column["name"] for column in proven.manifests[0]["columns"] if column["source"] == "transform"]:
        # A record has the inputs of the model, not all that they are made of.
        sys.stdout.write(f"not computed anew, since transforms of the request made them: {', '.join(made)}\n")
    rest = f"{wrong} features differ" if wrong else "all as they were served"
    sys.stdout.write(f"from {len(proven.served.rows):,} proven rows: {rest}\n")
    return 1 if wrong else 0


def _scored(proven: proof.Proven) -> dict[str, float | str | None]:
    assert proven.prediction is not None
    columns = proven.manifests[0]["columns"]
    numbers = [column["name"] for column in columns if column["type"] == "numeric"]
    texts = [column["name"] for column in columns if column["type"] == "categorical"]
    found: dict[str, float | str | None] = dict(zip(numbers, proven.prediction.numeric_values, strict=True))
    return found | dict(zip(texts, proven.prediction.categorical_values, strict=True))


def _rows(found: Sequence[ServedRow], columns: Sequence[str], transforms: Sequence[Transform]) -> Rows:
    code = np.zeros(len(found), dtype=np.int64)
    if not found:
        return Rows(code, code, code, {name: np.zeros(0) for name in columns})
    newest = found[-1].dataset
    tables = [conform(rows.tabled(row.dataset, [row.data]), arrow_schema(newest)) for row in found]
    return rows_of(pa.concat_tables(tables).combine_chunks(), newest, code, columns, transforms)


if __name__ == "__main__":
    sys.exit(main())
