"""Reviews of explanation policies: by a person who did not declare them."""

from collections.abc import Iterable

from chassis.aggregate import Repository
from chassis.artifacts import ArtifactStore
from chassis.context import caller
from chassis.events import Event, EventLog
from chassis.records import serialize
from lineal.api.registry.v1.events_pb2 import ExplanationsReviewed, ModelRegistered
from lineal.api.registry.v1.explanation_pb2 import ExplanationReview
from services.registry import explanation
from services.registry import model as models


class Reviewing:
    """The application of reviews."""

    def __init__(self, log: EventLog, artifacts: ArtifactStore) -> None:
        self._log = log
        self._artifacts = artifacts
        self._models = Repository(log, "model", models.decider)

    async def review(self, *, request_id: str, model: str, digest: str, reason: str) -> int:
        """Find the explanation policy of a model right; return the log position. See `explanation.review`."""
        authors = authors_of(await self._log.read_stream(f"model/{model}"), digest)
        who = caller().actor
        policy = (await self._models.load(model)).state.explanations
        if policy is not None:
            # Whoever is told a reason may ask for the policy behind it, whatever is declared by then.
            self._artifacts.put(serialize(policy))
        outcome = await self._models.execute(
            model,
            request_id=request_id,
            decide=lambda state: explanation.review(
                state.explanations,
                model,
                reviewed=state.reviewed,
                digest=digest,
                authors=authors,
                who=who,
                why=reason,
            ),
        )
        return outcome.position


def authors_of(events: Iterable[Event], digest: str) -> list[str]:
    """Return who declared a policy of this digest, each once."""
    declared = ((event.actor, event.message) for event in events)
    return sorted({who for who, said in declared if isinstance(said, ModelRegistered) and _digest(said) == digest})


def review_view(events: Iterable[Event]) -> ExplanationReview | None:
    """Fold a model's stream to where the review of its policy stands; None when it has no policy."""
    events = list(events)
    view: ExplanationReview | None = None
    for event in events:
        match event.message:
            case ModelRegistered() as registered if not registered.model.HasField("explanations"):
                view = None
            case ModelRegistered() as registered:
                digest = _digest(registered)
                if view is None or view.policy_digest != digest:
                    view = ExplanationReview(policy_digest=digest)
            case ExplanationsReviewed() as reviewed if view is not None:
                view.reviewed_by = event.actor
                view.reason = reviewed.reason
                view.review_time.FromDatetime(event.recorded_time)
    if view is not None:
        view.declared_by.extend(authors_of(events, view.policy_digest))
    return view


def _digest(registered: ModelRegistered) -> str:
    return explanation.digest_of(registered.model.explanations)
