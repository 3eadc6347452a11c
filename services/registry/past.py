"""How what stands came to be: who is champion, since when, on whose word."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from chassis.events import Event
from chassis.past import AsOf, until
from lineal.api.registry.v1.endpoint_pb2 import Saga
from lineal.api.registry.v1.events_pb2 import ArmsChanged, BundleApproved, SagaApproved, SagaRequested
from lineal.api.registry.v1.registry_service_pb2 import Championship
from services.registry import endpoint as endpoints


def approved(champion: Championship, bundle: Iterable[Event]) -> None:
    """Add who approved the bundle, and why, from its stream up to when it became the champion."""
    for event in until(bundle, AsOf(champion.position)):
        if isinstance(event.message, BundleApproved):
            _approve(champion, event, event.message.reason)


@dataclass
class Champions:
    """Follows the stream of an endpoint: who is champion, since when, on whose word."""

    current: Championship | None = None
    _asked: dict[str, tuple[Saga, str]] = field(default_factory=dict)
    _approvals: dict[str, tuple[Event, str]] = field(default_factory=dict)

    def see(self, event: Event) -> None:
        """Take in one event."""
        match event.message:
            case SagaRequested() as requested:
                self._asked[requested.saga.saga_id] = requested.saga, event.actor
            case SagaApproved() as approval:
                self._approvals[approval.saga_id] = event, approval.reason
            case ArmsChanged() as changed:
                self._change(event, changed)

    def _change(self, event: Event, changed: ArmsChanged) -> None:
        digest = next((arm.bundle_digest for arm in changed.arms if arm.role == endpoints.CHAMPION), "")
        if self.current is not None and digest == self.current.bundle_digest:
            return
        champion = Championship(
            bundle_digest=digest,
            position=event.position,
            actor=event.actor,
            reason=changed.reason,
            saga_id=changed.saga_id,
        )
        champion.start_time.FromDatetime(event.recorded_time)
        if changed.saga_id in self._asked:
            saga, champion.requested_by = self._asked[changed.saga_id]
            champion.request_reason = saga.reason
        if changed.saga_id in self._approvals:
            _approve(champion, *self._approvals[changed.saga_id])
        self.current = champion


def _approve(champion: Championship, event: Event, reason: str) -> None:
    champion.approved_by = event.actor
    champion.approval_reason = reason
    champion.approve_time.FromDatetime(event.recorded_time)
