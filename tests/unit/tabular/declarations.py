"""Valid declarations that tests change."""

from google.protobuf.text_format import Parse

from lineal.api.features.v1.feature_set_pb2 import FeatureSet
from lineal.api.features.v1.feature_view_pb2 import FeatureView
from lineal.api.ingest.v1.dataset_pb2 import Dataset


def trips() -> Dataset:
    return Parse(
        """
        name: "trips"
        fields { name: "trip" type: FIELD_TYPE_STRING }
        fields { name: "driver" type: FIELD_TYPE_STRING nullable: true }
        fields { name: "km" type: FIELD_TYPE_FLOAT64 nullable: true minimum: 0 }
        fields { name: "start" type: FIELD_TYPE_TIMESTAMP }
        fields { name: "told" type: FIELD_TYPE_TIMESTAMP }
        row_key: "trip" entity_keys: "driver" event_time: "start" available_time: "told"
        """,
        Dataset(),
    )


def ends() -> Dataset:
    return Parse(
        """
        name: "ends"
        fields { name: "trip" type: FIELD_TYPE_STRING }
        fields { name: "driver" type: FIELD_TYPE_STRING nullable: true }
        fields { name: "delay" type: FIELD_TYPE_FLOAT64 nullable: true }
        fields { name: "weather" type: FIELD_TYPE_STRING nullable: true }
        fields { name: "landed" type: FIELD_TYPE_TIMESTAMP }
        fields { name: "told" type: FIELD_TYPE_TIMESTAMP }
        row_key: "trip" entity_keys: "driver" event_time: "landed" available_time: "told"
        """,
        Dataset(),
    )


def view() -> FeatureView:
    return Parse(
        """
        name: "driver-delays" dataset: "ends" entity_keys: "driver"
        features { name: "n" aggregate { function: AGGREGATE_FUNCTION_COUNT window { seconds: 100 } } }
        features { name: "mean" aggregate { function: AGGREGATE_FUNCTION_MEAN column: "delay" window { seconds: 50 } } }
        features { name: "weather" latest { column: "weather" max_age { seconds: 70 } } }
        """,
        FeatureView(),
    )


def feature_set() -> FeatureSet:
    return Parse(
        """
        name: "late"
        spine { dataset: "trips" cutoff_offset { seconds: -10 } }
        request_features { column: "km" }
        view_features { view: "driver-delays" }
        label { dataset: "ends" key: "trip" column: "delay" greater_than: 15 }
        """,
        FeatureSet(),
    )
