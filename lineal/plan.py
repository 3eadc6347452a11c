"""What `apply` would change: declarations of a project beside those that are registered. Messages in, a plan out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from lineal.api.features.v1.feature_set_pb2 import FeatureSet
from lineal.api.features.v1.feature_view_pb2 import FeatureView
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from lineal.api.registry.v1.endpoint_pb2 import Endpoint
from lineal.api.registry.v1.model_pb2 import Model
from lineal.defaults import endpoint_with_defaults, model_with_defaults
from lineal.differences import Difference, differences
from lineal.versions import set_version, version


class Change(StrEnum):
    """What becomes of a definition."""

    NEW = "new"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    BROUGHT_BACK = "brought back"


@dataclass(frozen=True)
class Registered:
    """What is registered now, by name; `set_versions` are the versions of the feature sets.

    `retired` is what of it is retired, by kind and name.
    """

    datasets: Mapping[str, Dataset] = field(default_factory=dict)
    views: Mapping[str, FeatureView] = field(default_factory=dict)
    sets: Mapping[str, FeatureSet] = field(default_factory=dict)
    set_versions: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, Model] = field(default_factory=dict)
    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)
    retired: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True)
class Touched:
    """What stands on a definition, by name in order, as it will be declared."""

    views: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()


@dataclass(frozen=True)
class Planned:
    """What becomes of one definition.

    `version` and `old_version` are of views and feature sets, empty for other kinds and where there is none;
    `changed_views` are the views that give a feature set a new version; `unknown_views` are declared nowhere or
    retired, so that `apply` would refuse the feature set. `touched` is empty for what does not change.
    """

    kind: str
    name: str
    change: Change
    differences: tuple[Difference, ...] = ()
    version: str = ""
    old_version: str = ""
    changed_views: tuple[str, ...] = ()
    unknown_views: tuple[str, ...] = ()
    touched: Touched = Touched()


@dataclass(frozen=True)
class Plan:
    """What `apply` would do to each definition, in the order in which it registers them."""

    definitions: tuple[Planned, ...]

    @property
    def changes(self) -> bool:
        """Whether anything would change."""
        return any(planned.change != Change.UNCHANGED for planned in self.definitions)


def plan(declared: Iterable[Any], registered: Registered) -> Plan:
    """Compare the messages of a project, in the order of `apply`, with what is registered.

    Whether services would take a declaration is not looked at.
    """
    messages = list(declared)
    after = _applied(messages, registered)
    old_views = {name: version(view) for name, view in registered.views.items()}
    new_views = {name: version(view) for name, view in after.views.items()}
    planned = []
    for message in messages:
        match message:
            case Dataset():
                found = _by_content("Dataset", registered.datasets.get(message.name), message, after)
            case FeatureView():
                old = registered.views.get(message.name)
                versions = new_views[message.name], old_views.get(message.name, "")
                found = _by_version("FeatureView", old, message, versions, after)
            case FeatureSet():
                used = sorted({wanted.view for wanted in message.view_features})
                unknown = tuple(name for name in used if name not in new_views)
                new = "" if unknown else set_version(message, {name: new_views[name] for name in used})
                old_set = registered.sets.get(message.name)
                versions = new, registered.set_versions.get(message.name, "")
                moved = tuple(v for v in used if v in old_views and old_views[v] != new_views.get(v, old_views[v]))
                found = _by_version("FeatureSet", old_set, message, versions, after, moved, unknown)
            case Model():
                found = _by_content("Model", registered.models.get(message.name), model_with_defaults(message), after)
            case _:
                filled = endpoint_with_defaults(message)
                found = _by_content("Endpoint", registered.endpoints.get(message.name), filled, after)
        if (found.kind, found.name) in registered.retired:
            used_by = touched(found.kind, found.name, after)
            found = replace(found, change=Change.BROUGHT_BACK, touched=used_by)
        planned.append(found)
    return Plan(tuple(planned))


def touched(kind: str, name: str, declared: Registered) -> Touched:
    """Return what stands on a definition: dataset, views, feature sets, models, endpoints."""
    views = {v.name for v in declared.views.values() if kind == "Dataset" and v.dataset == name}
    reached = views | ({name} if kind == "FeatureView" else set())
    sets = {
        entry.name
        for entry in declared.sets.values()
        if any(wanted.view in reached for wanted in entry.view_features)
        or (kind == "Dataset" and name in (entry.spine.dataset, entry.label.dataset))
    }
    reached = sets | ({name} if kind == "FeatureSet" else set())
    models = {model.name for model in declared.models.values() if model.feature_set in reached}
    reached = models | ({name} if kind == "Model" else set())
    endpoints = {endpoint.name for endpoint in declared.endpoints.values() if endpoint.model in reached}
    return Touched(tuple(sorted(views)), tuple(sorted(sets)), tuple(sorted(models)), tuple(sorted(endpoints)))


def _applied(messages: Iterable[Any], before: Registered) -> Registered:
    """Return what is registered once the messages are."""
    of: dict[type[Any], dict[str, Any]] = {kind: {} for kind in (Dataset, FeatureView, FeatureSet, Model, Endpoint)}
    for message in messages:
        of[type(message)][message.name] = message

    def joined(kind: type[Any], there: Mapping[str, Any]) -> dict[str, Any]:
        standing = {name: each for name, each in there.items() if (kind.__name__, name) not in before.retired}
        return {**standing, **of[kind]}

    return Registered(
        datasets=joined(Dataset, before.datasets),
        views=joined(FeatureView, before.views),
        sets=joined(FeatureSet, before.sets),
        models=joined(Model, before.models),
        endpoints=joined(Endpoint, before.endpoints),
    )


def _by_content(kind: str, old: Any, new: Any, after: Registered) -> Planned:
    if old is None:
        return Planned(kind, new.name, Change.NEW, touched=touched(kind, new.name, after))
    if old == new:
        return Planned(kind, new.name, Change.UNCHANGED)
    found = tuple(differences(old, new))
    return Planned(kind, new.name, Change.CHANGED, found, touched=touched(kind, new.name, after))


def _by_version(
    kind: str,
    old: Any,
    new: Any,
    versions: tuple[str, str],
    after: Registered,
    changed_views: tuple[str, ...] = (),
    unknown_views: tuple[str, ...] = (),
) -> Planned:
    found, before = versions
    if old is not None and found == before:
        return Planned(kind, new.name, Change.UNCHANGED, version=found, old_version=before)
    return Planned(
        kind,
        new.name,
        Change.NEW if old is None else Change.CHANGED,
        () if old is None else tuple(differences(old, new)),
        found,
        before,
        () if old is None else changed_views,
        unknown_views,
        touched(kind, new.name, after),
    )
