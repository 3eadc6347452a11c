"""Feature views, feature sets and training sets: what their streams say and what may be added to them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from google.protobuf.message import Message

from chassis.aggregate import Decider
from chassis.errors import FieldViolation, InvalidArgument, NotFound, RuleViolated
from chassis.retirement import refuse_retired, refuse_used
from lineal.api.features.v1.events_pb2 import (
    FeatureSetRegistered,
    FeatureSetRetired,
    FeatureViewRegistered,
    FeatureViewRetired,
    TrainingSetBuilt,
)
from lineal.api.features.v1.feature_set_pb2 import FeatureSet
from lineal.api.features.v1.feature_view_pb2 import FeatureView
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from lineal.versions import set_version
from tabular.definitions import columns_of, entity_columns, set_violations, version, view_violations
from tabular.schema import Violation

NONE_RETIRED: Mapping[str, Collection[str]] = MappingProxyType({"datasets": (), "views": ()})


class FeatureViewInvalid(InvalidArgument):
    """The declaration of a feature view is not valid."""


class FeatureSetInvalid(InvalidArgument):
    """The declaration of a feature set is not valid."""


class FeatureViewUnknown(NotFound):
    """No feature view of that name was declared."""


class FeatureSetUnknown(NotFound):
    """No feature set of that name, or of that version, was declared."""


class DatasetNotDeclared(RuleViolated):
    """A view reads a dataset that was never declared."""


@dataclass(frozen=True)
class ViewState:
    """What the stream `feature-view/<name>` says: the newest version."""

    registered: FeatureViewRegistered | None = None
    retired: bool = False


@dataclass(frozen=True)
class SetState:
    """What the stream `feature-set/<name>` says: the newest version."""

    registered: FeatureSetRegistered | None = None
    retired: bool = False


@dataclass(frozen=True)
class TrainingSetState:
    """What the stream `training-set/<digest>` says."""

    built: TrainingSetBuilt | None = None


def register_view(
    state: ViewState, view: FeatureView, dataset: Dataset | None, retired: Collection[str] = ()
) -> Sequence[Message]:
    """Declare a view over its dataset; nothing for the declaration it has, unless it is retired.

    `retired` are the datasets that are. Raises DatasetNotDeclared, Retired, FeatureViewInvalid.
    """
    if dataset is None:
        raise DatasetNotDeclared(f"feature view {view.name!r} reads dataset {view.dataset!r}: declare that first")
    refuse_retired(view.dataset in retired, f"dataset {view.dataset!r}", "feature_view.dataset")
    violations = _violations("feature_view", view_violations(view, dataset))
    if violations:
        raise FeatureViewInvalid(f"the declaration of feature view {view.name!r} is not valid", violations)
    found = version(view)
    if state.registered is not None and state.registered.version == found and not state.retired:
        return []
    return [FeatureViewRegistered(feature_view=view, version=found)]


def retire_view(state: ViewState, name: str, *, reason: str, users: Sequence[str]) -> Sequence[Message]:
    """Retire a view that nothing uses; nothing when it is retired. Raises FeatureViewUnknown, StillUsed."""
    if state.registered is None:
        raise FeatureViewUnknown(f"feature view {name!r} was never declared; `lineal apply` declares it")
    if state.retired:
        return []
    refuse_used(f"feature view {name!r}", users)
    return [FeatureViewRetired(feature_view=name, reason=reason)]


def register_set(
    state: SetState,
    feature_set: FeatureSet,
    datasets: Mapping[str, Dataset],
    views: Mapping[str, FeatureViewRegistered],
    retired: Mapping[str, Collection[str]] = NONE_RETIRED,
) -> Sequence[Message]:
    """Declare a feature set over views; nothing for the declaration it has while its views are the same.

    `retired` are the datasets and views that are; a set that is retired is declared anew.
    Raises FeatureSetInvalid, Retired.
    """
    declared = {name: registered.feature_view for name, registered in views.items()}
    violations = _violations("feature_set", set_violations(feature_set, datasets, declared))
    if violations:
        raise FeatureSetInvalid(f"the declaration of feature set {feature_set.name!r} is not valid", violations)
    used = {wanted.view: views[wanted.view].version for wanted in feature_set.view_features}
    for n, wanted in enumerate(feature_set.view_features):
        is_retired = wanted.view in retired["views"]
        refuse_retired(is_retired, f"feature view {wanted.view!r}", f"feature_set.view_features[{n}].view")
    for path, name in (("spine", feature_set.spine.dataset), ("label", feature_set.label.dataset)):
        refuse_retired(name in retired["datasets"], f"dataset {name!r}", f"feature_set.{path}.dataset")
    found = set_version(feature_set, used)
    if state.registered is not None and state.registered.version == found and not state.retired:
        return []
    return [
        FeatureSetRegistered(
            feature_set=feature_set,
            version=found,
            view_versions=used,
            columns=columns_of(feature_set, datasets, declared),
            entity_columns=entity_columns(feature_set, declared),
        )
    ]


def retire_set(state: SetState, name: str, *, reason: str, users: Sequence[str]) -> Sequence[Message]:
    """Retire a feature set that nothing uses; nothing when it is retired. Raises FeatureSetUnknown, StillUsed."""
    if state.registered is None:
        raise FeatureSetUnknown(f"feature set {name!r} was never declared; `lineal apply` declares it")
    if state.retired:
        return []
    refuse_used(f"feature set {name!r}", users)
    return [FeatureSetRetired(feature_set=name, reason=reason)]


def record_built(state: TrainingSetState, built: TrainingSetBuilt) -> Sequence[Message]:
    """Record a training set; nothing when it was built before."""
    return [] if state.built is not None else [built]


def evolve_view(state: ViewState, event: Message) -> ViewState:
    """Change a view's state by one event."""
    match event:
        case FeatureViewRegistered():
            return ViewState(event)
        case FeatureViewRetired():
            return replace(state, retired=True)
        case _:
            return state


def evolve_set(state: SetState, event: Message) -> SetState:
    """Change a feature set's state by one event."""
    match event:
        case FeatureSetRegistered():
            return SetState(event)
        case FeatureSetRetired():
            return replace(state, retired=True)
        case _:
            return state


def evolve_training_set(state: TrainingSetState, event: Message) -> TrainingSetState:
    """Change a training set's state by one event."""
    return replace(state, built=event) if isinstance(event, TrainingSetBuilt) else state


view_decider = Decider(initial=ViewState(), evolve=evolve_view)
set_decider = Decider(initial=SetState(), evolve=evolve_set)
training_set_decider = Decider(initial=TrainingSetState(), evolve=evolve_training_set)


def _violations(path: str, found: Sequence[Violation]) -> list[FieldViolation]:
    return [FieldViolation(f"{path}.{violation.field}", violation.description) for violation in found]
