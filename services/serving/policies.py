"""Reviewed explanation policies, by model: folded from the log."""

from dataclasses import dataclass

from google.protobuf.message import Message

from chassis.events import Event
from lineal.api.registry.v1.events_pb2 import ExplanationsReviewed, ModelRegistered
from lineal.api.registry.v1.explanation_pb2 import ExplanationPolicy

TYPES: tuple[type[Message], ...] = (ExplanationsReviewed, ModelRegistered)


@dataclass(frozen=True)
class ReviewedPolicy:
    """A policy, the digest of its artifact, and who found it right."""

    policy: ExplanationPolicy
    digest: str
    reviewed_by: str


class Policies:
    """The policies that count: of a model the last that was reviewed, unless its declaration has none any more."""

    def __init__(self) -> None:
        self._declared: dict[str, ExplanationPolicy] = {}
        self._reviewed: dict[str, ReviewedPolicy] = {}

    def apply(self, event: Event) -> None:
        """Apply one event."""
        match event.message:
            case ModelRegistered() as registered:
                self._declared[registered.model.name] = registered.model.explanations
                if not registered.model.HasField("explanations"):
                    self._reviewed.pop(registered.model.name, None)
            case ExplanationsReviewed() as reviewed:
                policy = self._declared[reviewed.model]
                self._reviewed[reviewed.model] = ReviewedPolicy(policy, reviewed.policy_digest, event.actor)

    def of(self, model: str) -> ReviewedPolicy | None:
        """Return the policy of a model that counts, None without one."""
        return self._reviewed.get(model)
