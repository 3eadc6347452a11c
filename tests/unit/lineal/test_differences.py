"""What differs between declarations, in the words of a project folder."""

from datetime import timedelta

from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from lineal import features
from lineal.api.features.v1.feature_set_pb2 import FeatureSet, Label, RequestFeature, Spine, ViewFeatures
from lineal.api.features.v1.feature_view_pb2 import Feature, FeatureView
from lineal.api.ingest.v1.dataset_pb2 import Dataset, Field, FieldType
from lineal.differences import Difference, differences, written
from lineal.project import parse_duration


def view(*found: Feature) -> FeatureView:
    return FeatureView(name="card", dataset="payments", entity_keys=["card"], features=found)


def test_a_field_differs_at_its_path_with_both_values_as_yaml_has_them() -> None:
    old = view(features.window("n", "count", "7d"), features.latest("amount", "amount"))
    new = view(features.window("n", "sum", "36h", column="amount"), features.latest("amount", "amount"))
    assert differences(old, new) == [
        Difference("features[n].aggregate.function", "count", "sum"),
        Difference("features[n].aggregate.window", "7d", "1d12h"),
        Difference("features[n].aggregate.column", None, "amount"),
    ]
    assert differences(old, old) == []


def test_items_with_names_are_known_again_at_another_place() -> None:
    first, second, third = (features.latest(name, name) for name in "abc")
    assert differences(view(first, second), view(first, third, second)) == [
        Difference("features[c]", None, {"name": "c", "latest": {"column": "c"}})
    ]
    assert differences(view(first, second), view(second, first)) == [Difference("features", ["a", "b"], ["b", "a"])]
    assert differences(view(first, second), view(second)) == [
        Difference("features[a]", {"name": "a", "latest": {"column": "a"}}, None)
    ]


def test_items_whose_names_repeat_are_compared_by_place() -> None:
    old, new = FeatureSet(), FeatureSet()
    old.view_features.extend([ViewFeatures(view="tail", prefix="a"), ViewFeatures(view="tail", prefix="b")])
    new.view_features.extend([ViewFeatures(view="tail", prefix="a"), ViewFeatures(view="tail", prefix="c")])
    assert differences(old, new) == [Difference("view_features[1].prefix", "b", "c")]


def test_lists_of_values_maps_and_choices() -> None:
    old = FeatureSet(
        request_features=[RequestFeature(column="a")],
        view_features=[ViewFeatures(view="tail", keys={"tailnum": "tail"})],
        label=Label(column="x", greater_than=0),
    )
    new = FeatureSet(
        request_features=[RequestFeature(column="a"), RequestFeature(column="b")],
        view_features=[ViewFeatures(view="tail", keys={"tailnum": "plane"})],
        label=Label(column="x", equals=""),
    )
    assert differences(old, new) == [
        Difference("request_features", ["a"], ["a", "b"]),
        Difference("view_features[tail].keys.tailnum", "tail", "plane"),
        Difference("label.greater_than", 0.0, None),
        Difference("label.equals", None, ""),
    ]


def test_zero_that_is_set_is_not_unset() -> None:
    old, new = (Dataset(fields=[Field(name="km", type=FieldType.FIELD_TYPE_INT64)]) for _ in range(2))
    new.fields[0].minimum = 0
    assert differences(old, new) == [Difference("fields[km].minimum", None, 0.0)]
    # An empty message that is there is another declaration than none.
    assert differences(FeatureSet(), FeatureSet(spine=Spine())) == [Difference("spine", None, {})]


@given(st.timedeltas(timedelta(days=-10_000), timedelta(days=10_000)))
def test_durations_read_back(span: timedelta) -> None:
    duration = Duration()
    duration.FromTimedelta(span)
    assert abs(parse_duration(written(duration)) - span) <= timedelta(microseconds=1)
