"""What records of predictions have as texts becomes entity keys again, and what transforms took makes their columns."""

import math
from datetime import UTC, datetime

import pytest
from google.protobuf.text_format import Parse

from lineal import features
from lineal.api.features.v1.events_pb2 import FeatureSetRegistered
from lineal.api.features.v1.feature_set_pb2 import ColumnType, FeatureColumn
from lineal.api.features.v1.features_service_pb2 import CheckParityResponse
from lineal.api.features.v1.parity_pb2 import FeatureValue, ServedFeatures
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from services.features import parity
from services.features.assembly import CUTOFF
from tabular.transforms import outputs

RIDES = Parse(
    """
    name: "rides"
    fields { name: "driver" type: FIELD_TYPE_STRING }
    fields { name: "zone" type: FIELD_TYPE_INT64 }
    fields { name: "shift" type: FIELD_TYPE_TIMESTAMP }
    """,
    Dataset(),
)


@pytest.mark.parametrize(
    ("column", "text", "value"),
    [
        ("driver", "ann", "ann"),
        ("driver", "", None),
        ("zone", "7", 7),
        ("zone", "7.0", 7),
        ("zone", "nan", None),
        ("zone", "9" * 30, None),
        ("shift", "1714564800000000", datetime(2024, 5, 1, 12, tzinfo=UTC)),
        ("shift", "2024-05-01 12:00:00", datetime(2024, 5, 1, 12, tzinfo=UTC)),
        ("shift", "9" * 30, None),
        ("shift", "noon", None),
    ],
)
def test_an_entity_key_is_read_as_it_was_recorded(column: str, text: str, value: object) -> None:
    served = ServedFeatures(entities={column: text}, cutoff_micros=5)
    table = parity.asked_of([served], RIDES, ["driver", "zone", "shift"])
    assert table[column].to_pylist() == [value]
    assert table[CUTOFF].to_pylist() == [datetime(1970, 1, 1, microsecond=5, tzinfo=UTC)]


def rides_set() -> FeatureSetRegistered:
    """Declare a feature set of which some columns are made on demand."""
    registered = FeatureSetRegistered()
    registered.feature_set.transforms.extend(
        [
            features.impute("known", "fare", 5.0, flag="fare_unknown"),
            features.calendar("hour", "shift", "hour"),
            features.text_length("letters", "driver"),
            features.ratio("share", "known", "mean"),
        ]
    )
    number, text, time = (
        ColumnType.COLUMN_TYPE_NUMERIC,
        ColumnType.COLUMN_TYPE_CATEGORICAL,
        ColumnType.COLUMN_TYPE_TIME,
    )
    taken = {"fare": number, "shift": time, "driver": text, "mean": number}
    inputs = [FeatureColumn(name=name, type=kind) for name, kind in taken.items()]
    made = [name for each in registered.feature_set.transforms for name in outputs(each)]
    registered.columns.extend(FeatureColumn(name=name, type=number, inputs=inputs) for name in made)
    return registered


def checked(values: dict[str, float], *inputs: FeatureValue) -> CheckParityResponse:
    """Compare columns that were served with what recorded inputs make."""
    one = ServedFeatures(inputs=inputs, values=[FeatureValue(column=name, number=is_) for name, is_ in values.items()])
    return parity.compared([one, ServedFeatures()], rides_set(), {}, [])


NOON = FeatureValue(column="shift", time_micros=1_714_564_800_000_000)
MEAN = FeatureValue(column="mean", number=2.0)


@pytest.mark.parametrize(
    ("values", "inputs"),
    [
        ({"known": 5.0, "fare_unknown": 1.0, "share": 2.5}, [FeatureValue(column="fare"), MEAN]),
        ({"known": 0.1, "fare_unknown": 0.0, "share": 0.1 / 2}, [FeatureValue(column="fare", number=0.1), MEAN]),
        ({"hour": 12.0}, [NOON]),
        ({"hour": math.nan}, [FeatureValue(column="shift")]),
        ({"letters": 0.0}, [FeatureValue(column="driver", text="")]),
        ({"letters": math.nan}, [FeatureValue(column="driver")]),
        # What a request brought in place of what a transform makes is what the next one took.
        ({"share": 4.0}, [FeatureValue(column="known", number=8.0), MEAN]),
    ],
)
def test_what_a_transform_made_is_computed_from_its_recorded_inputs(
    values: dict[str, float], inputs: list[FeatureValue]
) -> None:
    response = checked(values, *inputs)
    assert (response.values, list(response.differences)) == (len(values), [])
    wrong = checked({name: value + 1e-9 if value == value else 0.0 for name, value in values.items()}, *inputs)
    assert [one.served.column for one in wrong.differences] == list(values)


def test_what_a_transform_made_is_passed_over_without_its_inputs() -> None:
    assert checked({"share": 1.0, "hour": 3.0, "known": 7.0}, MEAN).values == 0
    assert checked({"share": 1.0, "hour": 12.0}, NOON, FeatureValue(column="old", number=1.0)).values == 1
