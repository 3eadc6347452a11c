"""What the log says of endpoints and bundles: pure state that a replica folds from position 0 at its start."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from google.protobuf.message import Message

from chassis.errors import RuleViolated
from chassis.events import Event
from lineal.api.registry.v1.endpoint_pb2 import Arm, ArmRole, Endpoint
from lineal.api.registry.v1.events_pb2 import (
    ArmsChanged,
    BundleApproved,
    BundleRegistered,
    BundleRejected,
    BundleSigned,
    EndpointRegistered,
    EndpointResumed,
    EndpointSuspended,
    GatesEvaluated,
)
from services.serving import policies, signatures
from services.serving.policies import Policies
from services.serving.signatures import Signatures

TYPES: tuple[type[Message], ...] = (
    ArmsChanged,
    BundleApproved,
    BundleRegistered,
    BundleRejected,
    EndpointRegistered,
    EndpointResumed,
    EndpointSuspended,
    GatesEvaluated,
    *policies.TYPES,
    *signatures.TYPES,
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
    # Who suspended it and why; empty while it answers.
    suspension: str = ""


class Standing:
    """All endpoints and bundles."""

    def __init__(self, signatures: Signatures) -> None:
        self._signatures = signatures
        self.endpoints: dict[str, EndpointArms] = {}
        self.policies = Policies()
        self._bundles: dict[str, BundleAttestations] = {}

    def apply(self, events: Iterable[Event]) -> set[str]:
        """Apply events; return the endpoints whose arms have changed, or are signed now."""
        changed: set[str] = set()
        for event in events:
            self._signatures.apply(event)
            self.policies.apply(event)
            match event.message:
                case EndpointRegistered() as message:
                    name = message.endpoint.name
                    self.endpoints.setdefault(name, EndpointArms()).endpoint = message.endpoint
                    changed.add(name)
                case ArmsChanged() as message:
                    known = self.endpoints.setdefault(message.endpoint, EndpointArms())
                    known.generation = message.generation
                    known.arms = tuple(message.arms)
                    changed.add(message.endpoint)
                case EndpointSuspended() as message:
                    known = self.endpoints.setdefault(message.endpoint, EndpointArms())
                    known.suspension = f"{event.actor}: {message.reason}"
                case EndpointResumed() as message:
                    self.endpoints.setdefault(message.endpoint, EndpointArms()).suspension = ""
                case BundleRegistered() as message:
                    self._bundles[message.bundle_digest] = BundleAttestations(registered=True)
                case GatesEvaluated() as message:
                    bundle = self._bundle(message.bundle_digest)
                    bundle.gates_passed = message.passed
                    bundle.approval_required = message.policy.approval_required or not message.evaluation_digest
                case BundleApproved() as message:
                    self._bundle(message.bundle_digest).approved = True
                case BundleRejected() as message:
                    self._bundle(message.bundle_digest).rejected = True
                case BundleSigned() as message:
                    changed |= self._with(message.bundle_digest)
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

    def _with(self, digest: str) -> set[str]:
        found = self.endpoints.items()
        return {name for name, known in found if any(arm.bundle_digest == digest for arm in known.arms)}

    def _bundle(self, digest: str) -> BundleAttestations:
        return self._bundles.setdefault(digest, BundleAttestations())
