"""Feature views, feature sets and training sets: what their streams say and what may be added to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from google.protobuf.message import Message

from chassis.aggregate import Decider
from chassis.errors import FieldViolation, InvalidArgument, RuleViolated
from lineal.api.features.v1.events_pb2 import FeatureSetRegistered, FeatureViewRegistered, TrainingSetBuilt
from lineal.api.features.v1.feature_set_pb2 import FeatureSet
from lineal.api.features.v1.feature_view_pb2 import FeatureView
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from lineal.versions import set_version
from tabular.definitions import columns_of, entity_columns, set_violations, version, view_violations
from tabular.schema import Violation


class FeatureViewInvalid(InvalidArgument):
    """The declaration of a feature view is not valid."""


class FeatureSetInvalid(InvalidArgument):
    """The declaration of a feature set is not valid."""


class DatasetNotDeclared(RuleViolated):
    """A view reads a dataset that was never declared."""


@dataclass(frozen=True)
class ViewState:
    """What the stream `feature-view/<name>` says: the newest version."""

    registered: FeatureViewRegistered | None = None


@dataclass(frozen=True)
class SetState:
    """What the stream `feature-set/<name>` says: the newest version."""

    registered: FeatureSetRegistered | None = None


@dataclass(frozen=True)
class TrainingSetState:
    """What the stream `training-set/<digest>` says."""

    built: TrainingSetBuilt | None = None


def register_view(state: ViewState, view: FeatureView, dataset: Dataset | None) -> Sequence[Message]:
    """Declare a view over its dataset; nothing for the declaration it has."""
    if dataset is None:
        raise DatasetNotDeclared(f"feature view {view.name!r} reads dataset {view.dataset!r}: declare that first")
    violations = _violations("feature_view", view_violations(view, dataset))
    if violations:
        raise FeatureViewInvalid(f"the declaration of feature view {view.name!r} is not valid", violations)
    found = version(view)
    if state.registered is not None and state.registered.version == found:
        return []
    return [FeatureViewRegistered(feature_view=view, version=found)]


def register_set(
    state: SetState,
    feature_set: FeatureSet,
    datasets: Mapping[str, Dataset],
    views: Mapping[str, FeatureViewRegistered],
) -> Sequence[Message]:
    """Declare a feature set over views; nothing for the declaration it has while its views are the same."""
    declared = {name: registered.feature_view for name, registered in views.items()}
    violations = _violations("feature_set", set_violations(feature_set, datasets, declared))
    if violations:
        raise FeatureSetInvalid(f"the declaration of feature set {feature_set.name!r} is not valid", violations)
    used = {wanted.view: views[wanted.view].version for wanted in feature_set.view_features}
    found = set_version(feature_set, used)
    if state.registered is not None and state.registered.version == found:
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


def record_built(state: TrainingSetState, built: TrainingSetBuilt) -> Sequence[Message]:
    """Record a training set; nothing when it was built before."""
    return [] if state.built is not None else [built]


def evolve_view(state: ViewState, event: Message) -> ViewState:
    """Change a view's state by one event."""
    return replace(state, registered=event) if isinstance(event, FeatureViewRegistered) else state


def evolve_set(state: SetState, event: Message) -> SetState:
    """Change a feature set's state by one event."""
    return replace(state, registered=event) if isinstance(event, FeatureSetRegistered) else state


def evolve_training_set(state: TrainingSetState, event: Message) -> TrainingSetState:
    """Change a training set's state by one event."""
    return replace(state, built=event) if isinstance(event, TrainingSetBuilt) else state


view_decider = Decider(initial=ViewState(), evolve=evolve_view)
set_decider = Decider(initial=SetState(), evolve=evolve_set)
training_set_decider = Decider(initial=TrainingSetState(), evolve=evolve_training_set)


def _violations(path: str, found: Sequence[Violation]) -> list[FieldViolation]:
    return [FieldViolation(f"{path}.{violation.field}", violation.description) for violation in found]
