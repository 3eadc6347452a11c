"""What the log says of endpoints and bundles: pure state that a replica folds from position 0 at its start."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from google.protobuf.message import Message

from chassis.errors import RuleViolated
from lineal.api.registry.v1.endpoint_pb2 import Arm, ArmRole, Endpoint
from lineal.api.registry.v1.events_pb2 import (
    ArmsChanged,
    BundleApproved,
    BundleRegistered,
    BundleRejected,
    EndpointRegistered,
    GatesEvaluated,
)

TYPES: tuple[type[Message], ...] = (
    ArmsChanged,
    BundleApproved,
    BundleRegistered,
    BundleRejected,
    EndpointRegistered,
    GatesEvaluated,
)


class BundleNotAttested(RuleViolated):
    """A bundle lacks a gate or an approval that its release needs."""


@dataclass
class BundleAttestations:
    """What speaks for a bundle."""

    registered: bool = False
    gates_passed: bool = False
    approval_required: bool = False
    approved: bool = False
    rejected: bool = False


@dataclass
class EndpointArms:
    """An endpoint's declaration and its arms as the log has them."""

    endpoint: Endpoint = field(default_factory=Endpoint)
    generation: int = 0
    arms: tuple[Arm, ...] = ()


class Standing:
    """All endpoints and bundles."""

    def __init__(self) -> None:
        self.endpoints: dict[str, EndpointArms] = {}
        self._bundles: dict[str, BundleAttestations] = {}

    def apply(self, messages: Iterable[Message | None]) -> set[str]:
        """Apply events; return the endpoints whose arms have changed."""
        changed: set[str] = set()
        for message in messages:
            match message:
                case EndpointRegistered():
                    name = message.endpoint.name
                    self.endpoints.setdefault(name, EndpointArms()).endpoint = message.endpoint
                    changed.add(name)
                case ArmsChanged():
                    known = self.endpoints.setdefault(message.endpoint, EndpointArms())
                    known.generation = message.generation
                    known.arms = tuple(message.arms)
                    changed.add(message.endpoint)
                case BundleRegistered():
                    self._bundles[message.bundle_digest] = BundleAttestations(registered=True)
                case GatesEvaluated():
                    bundle = self._bundle(message.bundle_digest)
                    bundle.gates_passed = message.passed
                    bundle.approval_required = message.policy.approval_required or not message.evaluation_digest
                case BundleApproved():
                    self._bundle(message.bundle_digest).approved = True
                case BundleRejected():
                    self._bundle(message.bundle_digest).rejected = True
        return changed

    def check(self, arm: Arm) -> None:
        """Raise BundleNotAttested, naming what is missing, unless the bundle may have this role."""
        bundle = self._bundle(arm.bundle_digest)
        missing = None
        if not bundle.registered:
            missing = "it is not registered"
        elif not bundle.gates_passed:
            missing = "its gates did not hold"
        elif bundle.rejected:
            missing = "it was rejected"
        elif bundle.approval_required and not bundle.approved and arm.role != ArmRole.ARM_ROLE_SHADOW:
            missing = "nobody has approved it"
        if missing:
            raise BundleNotAttested(f"bundle {arm.bundle_digest[:12]} is not loaded: {missing}")

    def _bundle(self, digest: str) -> BundleAttestations:
        return self._bundles.setdefault(digest, BundleAttestations())
