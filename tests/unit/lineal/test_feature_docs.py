"""The declarations that docs/feature-views.md shows are read and valid."""

import re
from pathlib import Path

from google.protobuf.text_format import Parse

from lineal.api.features.v1.feature_view_pb2 import AggregateFunction
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from lineal.project import Definition, read_project
from tabular.definitions import view_violations

DOCS = Path(__file__).parents[3] / "docs" / "feature-views.md"


def payments() -> Dataset:
    return Parse(
        """
        name: "payments"
        fields { name: "payment" type: FIELD_TYPE_STRING }
        fields { name: "card" type: FIELD_TYPE_STRING }
        fields { name: "amount" type: FIELD_TYPE_FLOAT64 }
        fields { name: "fee" type: FIELD_TYPE_FLOAT64 nullable: true }
        fields { name: "shop" type: FIELD_TYPE_STRING nullable: true }
        fields { name: "channel" type: FIELD_TYPE_STRING }
        fields { name: "paid" type: FIELD_TYPE_TIMESTAMP }
        row_key: "payment" event_time: "paid"
        """,
        Dataset(),
    )


def declared(folder: Path) -> dict[str, Definition]:
    for n, block in enumerate(re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)):
        (folder / f"{n}.yaml").write_text(block)
    return {definition.name: definition for definition in read_project(folder)}


def test_the_view_that_is_shown_is_valid(tmp_path: Path) -> None:
    view = declared(tmp_path)["card-payments"].message
    assert not view_violations(view, payments())
    functions = {feature.aggregate.function for feature in view.features}
    assert AggregateFunction.AGGREGATE_FUNCTION_RATE in functions
    assert {feature.WhichOneof("kind") for feature in view.features} == {"latest", "lag", "since_last", "aggregate"}
