from typing import Any

import pytest

from lineal.api.features.v1.parity_pb2 import FeatureValue
from lineal.api.monitor.v1.prediction_pb2 import RequestRecord, RowTexts
from tabular.request_records import RowsUneven, expanded


@pytest.mark.parametrize(
    "columns",
    [
        {"numeric_values": [1.0, 2.0, 3.0]},
        {"categorical_values": ["a"]},
        {"event_time_micros": [1]},
        {"raw_scores": [0.5, 0.5, 0.5]},
        {"entities": [RowTexts(column="shop", values=["a"])]},
        {"decisions": [1, 0, 1, 0]},
        {"inputs": [FeatureValue(column="km")]},
    ],
)
def test_columns_that_make_no_rows_are_named(columns: dict[str, Any]) -> None:
    with pytest.raises(RowsUneven, match=next(iter(columns))):
        expanded(RequestRecord(request_id="a", scores=[0.5, 0.25], **columns))


def test_columns_without_rows_are_refused() -> None:
    assert expanded(RequestRecord(request_id="a")) == []
    with pytest.raises(RowsUneven, match="decisions has 1 values for 0 rows"):
        expanded(RequestRecord(request_id="a", decisions=[1]))


def test_rows_are_numbered_from_the_first() -> None:
    found = expanded(RequestRecord(request_id="a", first_row=1_000, scores=[0.5, 0.25], numeric_values=[1, 2, 3, 4]))
    assert [each.prediction_id for each in found] == ["a/1000", "a/1001"]
    assert [list(each.numeric_values) for each in found] == [[1, 2], [3, 4]]
