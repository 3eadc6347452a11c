"""Models: named problems with the policies that their bundles must keep."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from google.protobuf.message import Message

from chassis.aggregate import Decider
from chassis.errors import FieldViolation, InvalidArgument
from chassis.retirement import refuse_used
from lineal.api.registry.v1.events_pb2 import ExplanationsReviewed, ModelRegistered, ModelRetired
from lineal.api.registry.v1.explanation_pb2 import ExplanationPolicy
from lineal.api.registry.v1.model_pb2 import Model
from lineal.defaults import model_with_defaults
from services.registry import explanation
from services.registry.names import check_name


class ModelInvalid(InvalidArgument):
    """The declaration of a model is wrong."""


@dataclass(frozen=True)
class ModelState:
    """A model as declared last; None before the first declaration.

    `reviewed` tells whether its explanation policy was found right as it is declared.
    """

    model: Model | None = None
    retired: bool = False
    reviewed: bool = False

    @property
    def explanations(self) -> ExplanationPolicy | None:
        """The explanation policy, None without one."""
        if self.model is None or not self.model.HasField("explanations"):
            return None
        return self.model.explanations


def register(state: ModelState, model: Model) -> Sequence[Message]:
    """Declare a model; the same declaration again changes nothing, unless it is retired.

    Raises ModelInvalid.
    """
    model = model_with_defaults(model)
    violations = [*check_name("model.name", model.name), *_check_parameters(model), *_check_policies(model)]
    if violations:
        raise ModelInvalid(f"model {model.name!r} cannot be declared so", violations)
    return [] if state.model == model and not state.retired else [ModelRegistered(model=model)]


def retire(state: ModelState, name: str, *, reason: str, users: Sequence[str]) -> Sequence[Message]:
    """Retire a model that nothing uses; nothing when it is retired. Raises StillUsed."""
    if state.retired:
        return []
    refuse_used(f"model {name!r}", users)
    return [ModelRetired(model=name, reason=reason)]


def evolve(state: ModelState, event: Message) -> ModelState:
    """Apply one event."""
    match event:
        case ModelRegistered():
            declared = ModelState(event.model)
            return replace(declared, reviewed=state.reviewed and declared.explanations == state.explanations)
        case ExplanationsReviewed():
            return replace(state, reviewed=True)
        case ModelRetired():
            return replace(state, retired=True)
        case _:
            return state


decider = Decider(ModelState(), evolve)


def _check_parameters(model: Model) -> list[FieldViolation]:
    parameters = model.parameters
    found = []
    if parameters.validation_share + parameters.test_share >= 0.9:
        found.append(
            FieldViolation(
                "model.parameters.validation_share",
                "validation_share and test_share together must stay below 0.9, or nothing is left to learn from",
            )
        )
    found += [
        FieldViolation(f"model.parameters.{name}", "must lie between 0 and 1")
        for name in ("validation_share", "test_share")
        if not 0 <= getattr(parameters, name) < 1
    ]
    if parameters.depth > 16:
        found.append(FieldViolation("model.parameters.depth", "CatBoost takes a depth of 16 at most"))
    return found


def _check_policies(model: Model) -> list[FieldViolation]:
    found = [
        FieldViolation(f"model.gates.{name}", "must not be negative: it is how much may be lost")
        for name in ("max_auc_loss", "max_brier_increase", "max_rmse_increase")
        if getattr(model.gates, name) < 0
    ]
    if not 0 <= model.gates.min_auc < 1:
        found.append(FieldViolation("model.gates.min_auc", "must lie between 0 and 1"))
    if model.retrain.on_alarm and not model.feature_set:
        found.append(
            FieldViolation("model.retrain.on_alarm", "needs a feature_set: an imported model cannot be retrained here")
        )
    if model.HasField("explanations"):
        found += explanation.check(model.explanations)
    return found
