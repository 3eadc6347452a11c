"""What an apply would change, and what that touches."""

from pathlib import Path
from typing import Any

import pytest

from lineal.api.features.v1.feature_set_pb2 import FeatureSet
from lineal.api.features.v1.feature_view_pb2 import FeatureView
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from lineal.api.registry.v1.endpoint_pb2 import Endpoint
from lineal.api.registry.v1.model_pb2 import Model
from lineal.defaults import endpoint_with_defaults, model_with_defaults
from lineal.differences import Difference
from lineal.plan import Change, Plan, Planned, Registered, Touched, plan
from lineal.project import read_project
from lineal.versions import set_version, version

EXAMPLES = Path(__file__).parents[3] / "examples"


def messages(example: str = "shop") -> list[Any]:
    return [definition.message for definition in read_project(EXAMPLES / example)]


def registered(found: list[Any]) -> Registered:
    """What the services hold once these are applied."""
    views = {m.name: m for m in found if isinstance(m, FeatureView)}
    sets = {m.name: m for m in found if isinstance(m, FeatureSet)}
    return Registered(
        datasets={m.name: m for m in found if isinstance(m, Dataset)},
        views=views,
        sets=sets,
        set_versions={
            name: set_version(m, {used.view: version(views[used.view]) for used in m.view_features})
            for name, m in sets.items()
        },
        models={m.name: model_with_defaults(m) for m in found if isinstance(m, Model)},
        endpoints={m.name: endpoint_with_defaults(m) for m in found if isinstance(m, Endpoint)},
    )


def of(found: Plan, kind: str, name: str) -> Planned:
    return next(planned for planned in found.definitions if (planned.kind, planned.name) == (kind, name))


@pytest.mark.parametrize("example", ["shop", "flights"])
def test_all_is_new_at_first_and_nothing_changes_afterwards(example: str) -> None:
    first = plan(messages(example), Registered())
    assert first.changes
    assert {planned.change for planned in first.definitions} == {Change.NEW}
    assert [planned.name for planned in first.definitions] == [message.name for message in messages(example)]
    again = plan(messages(example), registered(messages(example)))
    assert not again.changes
    assert {(planned.differences, planned.touched) for planned in again.definitions} == {((), Touched())}


def test_a_changed_view_gives_its_feature_set_a_new_version_and_touches_all_behind_it() -> None:
    before = registered(messages())
    declared = messages()
    view = next(m for m in declared if isinstance(m, FeatureView))
    view.features[0].aggregate.window.seconds = 7 * 86_400
    found = plan(declared, before)
    changed = of(found, "FeatureView", "customer")
    assert changed.differences == (Difference("features[unpaid_30d].aggregate.window", "30d", "7d"),)
    assert changed.touched == Touched(sets=("order",), models=("unpaid",), endpoints=("unpaid",))
    behind = of(found, "FeatureSet", "order")
    assert (behind.change, behind.differences, behind.changed_views) == (Change.CHANGED, (), ("customer",))
    assert behind.old_version == before.set_versions["order"] != behind.version
    assert behind.version == registered(declared).set_versions["order"]
    assert of(found, "Model", "unpaid").change == Change.UNCHANGED


def test_what_is_not_in_the_folder_is_touched_but_stays() -> None:
    before = registered(messages())
    view = next(m for m in messages() if isinstance(m, FeatureView))
    view.description = "another"
    (found,) = plan([view], before).definitions
    assert found.touched == Touched(sets=("order",), models=("unpaid",), endpoints=("unpaid",))


def test_a_changed_dataset_touches_views_and_the_sets_that_take_it_as_spine_or_label() -> None:
    before = registered(messages())
    for name, views in (("orders", ()), ("payments", ("customer",))):
        declared = messages()
        next(m for m in declared if m.name == name).owner = "someone else"
        found = of(plan(declared, before), "Dataset", name)
        assert found.differences == (Difference("owner", "shop", "someone else"),)
        assert found.touched == Touched(views, ("order",), ("unpaid",), ("unpaid",))


def test_views_that_changed_after_the_set_was_declared_give_it_a_new_version() -> None:
    before = registered(messages())
    stale = Registered(**{**vars(before), "set_versions": {"order": "0" * 64}})
    found = of(plan(messages(), stale), "FeatureSet", "order")
    assert (found.change, found.differences, found.changed_views) == (Change.CHANGED, (), ())
    assert found.version == before.set_versions["order"]


def test_a_set_over_an_unknown_view_has_no_version() -> None:
    declared = [message for message in messages() if not isinstance(message, FeatureView)]
    found = of(plan(declared, Registered()), "FeatureSet", "order")
    assert (found.version, found.unknown_views) == ("", ("customer",))


def test_a_default_that_is_written_out_changes_nothing_and_another_value_does() -> None:
    before = registered(messages())
    declared = messages()
    endpoint = next(m for m in declared if isinstance(m, Endpoint))
    endpoint.release.min_units = 300
    assert not plan(declared, before).changes
    endpoint.release.min_units = 301
    assert of(plan(declared, before), "Endpoint", "unpaid").differences == (Difference("release.min_units", 300, 301),)
