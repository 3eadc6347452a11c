"""What records of predictions have as texts becomes entity keys again."""

from datetime import UTC, datetime

import pytest
from google.protobuf.text_format import Parse

from lineal.api.features.v1.parity_pb2 import ServedFeatures
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from services.features import parity
from services.features.assembly import CUTOFF

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
