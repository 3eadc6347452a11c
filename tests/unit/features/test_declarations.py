import pytest

from chassis.retirement import Retired, StillUsed
from lineal.api.features.v1.events_pb2 import FeatureSetRegistered, FeatureViewRegistered
from services.features.declarations import (
    DatasetNotDeclared,
    FeatureSetInvalid,
    FeatureViewInvalid,
    FeatureViewUnknown,
    SetState,
    ViewState,
    evolve_set,
    evolve_view,
    register_set,
    register_view,
    retire_view,
)
from tabular.definitions import version
from tests.unit.tabular.declarations import ends, feature_set, trips, view

DATASETS = {"trips": trips(), "ends": ends()}
VIEWS = {"driver-delays": FeatureViewRegistered(feature_view=view(), version=version(view()))}


def test_a_view_gets_a_version_by_content() -> None:
    (event,) = register_view(ViewState(), view(), ends())
    assert event == VIEWS["driver-delays"]
    assert register_view(evolve_view(ViewState(), event), view(), ends()) == []


def test_a_view_of_an_undeclared_dataset_is_refused() -> None:
    with pytest.raises(DatasetNotDeclared, match="'ends'"):
        register_view(ViewState(), view(), None)


def test_a_wrong_view_is_refused_by_path() -> None:
    wrong = view()
    wrong.features[1].aggregate.column = "dellay"
    with pytest.raises(FeatureViewInvalid) as caught:
        register_view(ViewState(), wrong, ends())
    assert caught.value.violations[0].field == "feature_view.features[1].aggregate.column"
    assert "did you mean 'delay'?" in caught.value.violations[0].description


def test_a_feature_set_stands_on_versions_of_views() -> None:
    (event,) = register_set(SetState(), feature_set(), DATASETS, VIEWS)
    assert isinstance(event, FeatureSetRegistered)
    assert dict(event.view_versions) == {"driver-delays": VIEWS["driver-delays"].version}
    assert list(event.entity_columns) == ["driver"]
    state = evolve_set(SetState(), event)
    assert register_set(state, feature_set(), DATASETS, VIEWS) == []
    changed = view()
    changed.features[0].description = "other"
    newer = {"driver-delays": FeatureViewRegistered(feature_view=changed, version=version(changed))}
    assert len(register_set(state, feature_set(), DATASETS, newer)) == 1


def test_a_name_that_training_sets_use_is_refused() -> None:
    spine, wrong = trips(), feature_set()
    spine.fields.add(name="label", type=3, nullable=True)
    wrong.request_features.add(column="label")
    with pytest.raises(FeatureSetInvalid) as caught:
        register_set(SetState(), wrong, DATASETS | {"trips": spine}, VIEWS)
    assert "training sets use" in caught.value.violations[0].description


def test_nothing_is_declared_over_what_is_retired() -> None:
    with pytest.raises(Retired, match=r"feature_view\.dataset: dataset 'ends' is retired"):
        register_view(ViewState(), view(), ends(), {"ends"})
    with pytest.raises(Retired, match=r"feature_set\.spine\.dataset: dataset 'trips' is retired"):
        register_set(SetState(), feature_set(), DATASETS, VIEWS, {"datasets": {"trips"}, "views": ()})
    with pytest.raises(Retired, match=r"feature_set\.view_features\[0\]\.view: feature view 'driver-delays'"):
        register_set(SetState(), feature_set(), DATASETS, VIEWS, {"datasets": (), "views": {"driver-delays"}})


def test_a_retired_view_is_declared_anew_with_the_version_it_had() -> None:
    with pytest.raises(FeatureViewUnknown, match="never declared"):
        retire_view(ViewState(), "v", reason="old", users=[])
    (event,) = register_view(ViewState(), view(), ends())
    state = evolve_view(ViewState(), event)
    with pytest.raises(StillUsed, match="feature set 's'"):
        retire_view(state, "driver-delays", reason="old", users=["feature set 's'"])
    (gone,) = retire_view(state, "driver-delays", reason="old", users=[])
    retired = evolve_view(state, gone)
    assert retire_view(retired, "driver-delays", reason="older", users=[]) == []
    assert register_view(retired, view(), ends()) == [event]
