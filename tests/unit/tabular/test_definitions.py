from collections.abc import Callable

import pytest

from lineal import features
from lineal.api.features.v1.feature_set_pb2 import ColumnSource, ColumnType, FeatureSet
from lineal.api.features.v1.feature_view_pb2 import Aggregate, FeatureView, Lag
from lineal.api.features.v1.feature_view_pb2 import AggregateFunction as FN
from lineal.api.features.v1.transform_pb2 import Transform
from lineal.api.ingest.v1.dataset_pb2 import Dataset, FieldType, Sensitivity
from tabular import definitions
from tests.unit.tabular.declarations import ends, feature_set, trips, view

DATASETS = {"trips": trips(), "ends": ends()}
VIEWS = {"driver-delays": view()}


def test_valid_declarations_have_no_violations() -> None:
    assert not definitions.dataset_violations(trips())
    assert not definitions.view_violations(view(), ends())
    assert not definitions.set_violations(feature_set(), DATASETS, VIEWS)


def test_columns_are_request_features_then_view_features() -> None:
    columns = definitions.columns_of(feature_set(), DATASETS, VIEWS)
    assert [c.name for c in columns] == ["km", "driver_delays_n", "driver_delays_mean", "driver_delays_weather"]
    assert columns[3].type == ColumnType.COLUMN_TYPE_CATEGORICAL
    assert definitions.entity_columns(feature_set(), VIEWS) == ["driver"]


def test_version_depends_on_content_alone() -> None:
    changed = view()
    changed.features[0].name = "m"
    assert definitions.version(view()) == definitions.version(view())
    assert definitions.version(view()) != definitions.version(changed)
    assert definitions.version(view()) != definitions.version(view(), "x")


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda d: setattr(d, "name", "Trips"), "name"),
        (lambda d: d.row_key.append("nothing"), "row_key[1]"),
        (lambda d: d.row_key.append("driver"), "row_key[1]"),
        (lambda d: d.ClearField("row_key"), "row_key"),
        (lambda d: setattr(d, "event_time", "km"), "event_time"),
        (lambda d: setattr(d, "event_time", ""), "available_time"),
        (lambda d: setattr(d.fields[2], "maximum", -1.0), "fields[2].minimum"),
        (lambda d: setattr(d.fields[2], "pattern", "x"), "fields[2].pattern"),
        (lambda d: setattr(d.fields[0], "pattern", "("), "fields[0].pattern"),
        (lambda d: setattr(d.fields[1], "name", "trip"), "fields[1].name"),
        (lambda d: setattr(d.fields[1], "type", 0), "fields[1].type"),
    ],
)
def test_a_wrong_dataset_is_named_by_path(change: Callable[[Dataset], None], path: str) -> None:
    dataset = trips()
    change(dataset)
    assert path in [v.field for v in definitions.dataset_violations(dataset)]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda v: v.entity_keys.append("km"), "entity_keys[1]"),
        (lambda v: setattr(v.features[1].aggregate, "column", "delai"), "features[1].aggregate.column"),
        (lambda v: setattr(v.features[1].aggregate, "column", "weather"), "features[1].aggregate.column"),
        (lambda v: v.features[1].aggregate.ClearField("window"), "features[1].aggregate.window"),
        (lambda v: setattr(v.features[1].aggregate, "function", 0), "features[1].aggregate.function"),
        (lambda v: setattr(v.features[2].latest, "column", "told"), "features[2].latest.column"),
        (lambda v: v.features[2].ClearField("latest"), "features[2]"),
        (lambda v: setattr(v.features[2], "name", "n"), "features[2].name"),
        (
            lambda v: setattr(v.features[1].aggregate, "function", FN.AGGREGATE_FUNCTION_RATE),
            "features[1].aggregate.per",
        ),
        (lambda v: v.features[1].aggregate.per.FromSeconds(1), "features[1].aggregate.per"),
        (lambda v: setattr(v.features[1].aggregate, "equals", "a"), "features[1].aggregate.equals"),
        (
            lambda v: setattr(v.features[1].aggregate, "function", FN.AGGREGATE_FUNCTION_SHARE_EQUALS),
            "features[1].aggregate.equals",
        ),
        (lambda v: setattr(v.features[1].lag, "n", 2), "features[1].lag.column"),
        (lambda v: setattr(v.features[1].lag, "n", 33), "features[1].lag.n"),
    ],
)
def test_a_wrong_view_is_named_by_path(change: Callable[[FeatureView], None], path: str) -> None:
    wrong = view()
    change(wrong)
    assert path in [v.field for v in definitions.view_violations(wrong, ends())]


def test_texts_are_picked_counted_and_compared() -> None:
    declared = view()
    for function in (FN.AGGREGATE_FUNCTION_LAST, FN.AGGREGATE_FUNCTION_DISTINCT, FN.AGGREGATE_FUNCTION_SHARE_EQUALS):
        aggregate = Aggregate(function=function, column="weather", window=declared.features[0].aggregate.window)
        declared.features.add(name=f"w{function}", aggregate=aggregate)
    declared.features.add(name="before").lag.MergeFrom(Lag(column="weather", n=2))
    declared.features.add(name="idle").since_last.SetInParent()
    assert not definitions.view_violations(declared, ends())
    columns = definitions.columns_of(feature_set(), DATASETS, {"driver-delays": declared})
    texts = [column.name for column in columns if column.type == ColumnType.COLUMN_TYPE_CATEGORICAL]
    assert texts == ["driver_delays_weather", "driver_delays_w8", "driver_delays_before"]


def test_lags_and_times_need_event_times() -> None:
    static = ends()
    static.event_time = static.available_time = ""
    declared = FeatureView(name="v", dataset="ends", entity_keys=["driver"])
    declared.features.add(name="before").lag.MergeFrom(Lag(column="weather", n=2))
    declared.features.add(name="idle").since_last.SetInParent()
    found = definitions.view_violations(declared, static)
    assert [v.field for v in found] == ["features[0].lag", "features[1].since_last"]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda s: setattr(s.spine, "dataset", "trip"), "spine.dataset"),
        (lambda s: setattr(s.request_features[0], "column", "start"), "request_features[0].column"),
        (lambda s: setattr(s.view_features[0], "view", "driver"), "view_features[0].view"),
        (lambda s: s.view_features[0].features.append("nn"), "view_features[0].features[0]"),
        (lambda s: s.view_features[0].keys.update({"driver": "km"}), "view_features[0].keys"),
        (lambda s: s.view_features.append(s.view_features[0]), "view_features"),
        (lambda s: setattr(s.label, "dataset", "end"), "label.dataset"),
        (lambda s: s.label.key.append("weather"), "label.key[1]"),
        (lambda s: setattr(s.label, "column", "weather"), "label.column"),
        (lambda s: s.label.ClearField("greater_than"), "label"),
        (lambda s: s.label.classes.values.append("one"), "label.classes.values"),
        (lambda s: s.label.classes.values.extend(["a", "b", "a"]), "label.classes.values"),
    ],
)
def test_a_wrong_feature_set_is_named_by_path(change: Callable[[FeatureSet], None], path: str) -> None:
    wrong = feature_set()
    change(wrong)
    assert path in [v.field for v in definitions.set_violations(wrong, DATASETS, VIEWS)]


def test_transforms_of_a_feature_set_are_its_last_columns() -> None:
    declared = feature_set()
    declared.transforms.extend(
        [
            features.ratio("share", "km", "driver_delays_mean"),
            features.cross("pair", "driver_delays_weather", "driver"),
            features.calendar("hour", "start", "hour"),
            features.impute("known", "share", 0.0, flag="unknown"),
        ]
    )
    assert definitions.set_violations(declared, DATASETS, VIEWS) == []
    made = definitions.columns_of(declared, DATASETS, VIEWS)[4:]
    assert [column.name for column in made] == ["share", "pair", "hour", "known", "unknown"]
    assert {column.source for column in made} == {ColumnSource.COLUMN_SOURCE_TRANSFORM}
    assert [ColumnType.Name(column.type)[12:] for column in made] == ["NUMERIC", "CATEGORICAL", *["NUMERIC"] * 3]
    taken = [[(each.name, each.source) for each in column.inputs] for column in made]
    request, looked_up = ColumnSource.COLUMN_SOURCE_REQUEST, ColumnSource.COLUMN_SOURCE_VIEW
    assert taken[0] == taken[3] == taken[4] == [("km", request), ("driver_delays_mean", looked_up)]
    assert made[2].inputs[0].type == ColumnType.COLUMN_TYPE_TIME


@pytest.mark.parametrize(
    ("transform", "path", "text"),
    [
        (features.clip("c", "kn", maximum=1), "transforms[0].clip.column", "no field 'kn'"),
        (features.clip("c", "later", maximum=1), "transforms[0].clip.column", "go in no circle"),
        (features.clip("c", "c", maximum=1), "transforms[0].clip.column", "go in no circle"),
        (features.clip("driver_delays_n", "km", maximum=1), "transforms[0].name", "choose another name"),
        (features.clip("told", "km", maximum=1), "transforms[0].name", "choose another name"),
        (features.clip("label", "km", maximum=1), "transforms", "rename it"),
        (features.clip("c", "driver_delays_weather", maximum=1), "transforms[0].clip.column", "is a text"),
    ],
)
def test_a_wrong_transform_of_a_feature_set_is_named_by_path(transform: Transform, path: str, text: str) -> None:
    wrong = feature_set()
    wrong.transforms.extend([transform, features.clip("later", "km", minimum=0)])
    found = [v.description for v in definitions.set_violations(wrong, DATASETS, VIEWS) if v.field == path]
    assert [text in description for description in found] == [True]


def test_a_transform_takes_neither_the_label_nor_an_ambiguous_column() -> None:
    wrong = feature_set()
    wrong.label.dataset, wrong.label.column = "trips", "km"
    wrong.view_features[0].prefix = "driver_"
    spine = trips()
    spine.fields.add(name="driver_n", type=FieldType.FIELD_TYPE_FLOAT64)
    wrong.transforms.append(features.ratio("c", "km", "driver_n"))
    found = definitions.set_violations(wrong, {**DATASETS, "trips": spine}, VIEWS)
    texts = [v.description for v in found if v.field == "transforms[0].ratio"]
    assert ["is the label" in texts[0], "another prefix" in texts[1]] == [True, True]


def test_a_protected_attribute_is_never_a_feature() -> None:
    protected = trips()
    protected.fields[2].sensitivity = Sensitivity.SENSITIVITY_PROTECTED_ATTRIBUTE
    found = definitions.set_violations(feature_set(), {**DATASETS, "trips": protected}, VIEWS)
    assert [v.field for v in found] == ["request_features[0].column"]


@pytest.mark.parametrize(
    ("name", "column", "path"),
    [
        ("trips", "driver", "view_features[0].keys"),
        ("trips", "trip", "label.key[0]"),
        ("ends", "trip", "label.key[0]"),
        ("ends", "delay", "label.column"),
    ],
)
def test_nothing_is_joined_by_or_learnt_from_a_protected_attribute(name: str, column: str, path: str) -> None:
    datasets = {"trips": trips(), "ends": ends()}
    field = definitions.field_of(datasets[name], column)
    assert field is not None
    field.sensitivity = Sensitivity.SENSITIVITY_PROTECTED_ATTRIBUTE
    found = definitions.set_violations(feature_set(), datasets, VIEWS)
    assert [(v.field, "vault" in v.description) for v in found] == [(path, True)]


def test_a_static_spine_takes_static_views_only() -> None:
    static = trips()
    static.event_time = static.available_time = ""
    found = definitions.set_violations(feature_set(), {**DATASETS, "trips": static}, VIEWS)
    assert [v.field for v in found] == ["view_features[0].view"]
