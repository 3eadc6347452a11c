"""Bundles: registered, judged by gates, approved or rejected."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from google.protobuf.message import Message

from chassis.aggregate import Decider
from chassis.errors import AlreadyExists, NotFound, RuleViolated
from lineal.api.registry.v1.events_pb2 import (
    BundleApproved,
    BundleRegistered,
    BundleRejected,
    BundleSigned,
    GatesEvaluated,
)
from lineal.api.registry.v1.model_pb2 import BundleState, GatePolicy, GateResult
from lineal.api.trainer.v1.run_pb2 import Evaluation
from services.registry import gates


class BundleUnknown(NotFound):
    """No bundle of that digest was registered."""


class BundleElsewhere(AlreadyExists):
    """The bundle belongs to another model."""


class BundleNotReleasable(RuleViolated):
    """A bundle has not passed what its model's policy asks."""


class BundleAlreadyRejected(RuleViolated):
    """The bundle was rejected; that is final."""


@dataclass(frozen=True)
class BundleStanding:
    """Where a bundle stands; an empty digest before it is registered."""

    digest: str = ""
    model: str = ""
    imported: bool = False
    state: "BundleState.ValueType" = BundleState.BUNDLE_STATE_UNSPECIFIED
    approval_required: bool = False
    approved: bool = False
    results: tuple[GateResult, ...] = ()
    signed: bool = False


def register(
    bundle: BundleStanding, *, digest: str, model: str, run_id: str, training_set_digest: str, signature_digest: str
) -> Sequence[Message]:
    """Make a bundle known, with its signature; the same again changes nothing.

    Raises BundleElsewhere when it is another model's.
    """
    if bundle.digest and bundle.model != model:
        raise BundleElsewhere(f"bundle {digest[:12]} belongs to model {bundle.model!r}, not to {model!r}")
    if bundle.digest:
        return sign(bundle, digest, signature_digest, again=False)
    return [
        BundleRegistered(bundle_digest=digest, model=model, run_id=run_id, training_set_digest=training_set_digest),
        BundleSigned(bundle_digest=digest, signature_digest=signature_digest),
    ]


def sign(bundle: BundleStanding, digest: str, signature_digest: str, *, again: bool) -> Sequence[Message]:
    """Record a signature; where there is one, only if `again`. Raises BundleUnknown."""
    require_known(bundle, digest)
    if bundle.signed and not again:
        return []
    return [BundleSigned(bundle_digest=digest, signature_digest=signature_digest)]


def evaluate(
    bundle: BundleStanding,
    digest: str,
    *,
    policy: GatePolicy,
    champion: str,
    evaluation: Evaluation | None,
    evaluation_digest: str,
) -> Sequence[Message]:
    """Decide the gates.

    Raises BundleUnknown, BundleAlreadyRejected, BundleNotReleasable when a trained bundle comes without evidence.
    """
    require_known(bundle, digest)
    if bundle.state == BundleState.BUNDLE_STATE_REJECTED:
        raise BundleAlreadyRejected(f"bundle {bundle.digest[:12]} was rejected; train or import another one")
    if evaluation is None and not bundle.imported:
        raise BundleNotReleasable(
            f"bundle {bundle.digest[:12]} was trained here: pass the evaluation_digest of an EvaluateBundles call"
        )
    results = gates.judge(policy, bundle.digest, champion, evaluation)
    return [
        GatesEvaluated(
            bundle_digest=bundle.digest,
            evaluation_digest=evaluation_digest,
            champion_digest=champion,
            results=results,
            passed=all(result.passed for result in results),
            policy=policy,
        )
    ]


def approve(bundle: BundleStanding, digest: str, *, reason: str) -> Sequence[Message]:
    """Approve a bundle whose gates held.

    Raises BundleUnknown, BundleNotReleasable.
    """
    require_known(bundle, digest)
    if bundle.approved:
        return []
    if bundle.state not in (BundleState.BUNDLE_STATE_GATED, BundleState.BUNDLE_STATE_RELEASABLE):
        raise BundleNotReleasable(
            f"bundle {bundle.digest[:12]} cannot be approved: {describe(bundle)}; evaluate its gates first"
        )
    return [BundleApproved(bundle_digest=bundle.digest, reason=reason)]


def reject(bundle: BundleStanding, digest: str, *, reason: str) -> Sequence[Message]:
    """Bar a bundle from release for good.

    Raises BundleUnknown.
    """
    require_known(bundle, digest)
    if bundle.state == BundleState.BUNDLE_STATE_REJECTED:
        return []
    return [BundleRejected(bundle_digest=bundle.digest, reason=reason)]


def require(bundle: BundleStanding, digest: str, *, shadow: bool = False) -> None:
    """Raise BundleUnknown or BundleNotReleasable unless the bundle may answer, or at least score in the shadow."""
    require_known(bundle, digest)
    allowed = {BundleState.BUNDLE_STATE_RELEASABLE}
    if shadow:
        allowed.add(BundleState.BUNDLE_STATE_GATED)
    if bundle.state not in allowed:
        raise BundleNotReleasable(f"bundle {digest[:12]} may not be released: {describe(bundle)}")


def require_known(bundle: BundleStanding, digest: str) -> None:
    """Raise BundleUnknown unless the bundle was registered."""
    if not bundle.digest:
        raise BundleUnknown(f"bundle {digest[:12]} is not registered; `lineal bundles` lists those that are")


def describe(bundle: BundleStanding) -> str:
    """Return in plain words where a bundle stands."""
    failed = [result for result in bundle.results if not result.passed]
    if bundle.state == BundleState.BUNDLE_STATE_REJECTED:
        return "it was rejected"
    if failed:
        return "; ".join(f"gate {result.gate!r} failed: {result.finding}" for result in failed)
    if bundle.state == BundleState.BUNDLE_STATE_GATED:
        return "its gates held, a person has to approve it (`lineal approve`)"
    if bundle.state == BundleState.BUNDLE_STATE_REGISTERED:
        return "its gates were not evaluated"
    return "it may be released"


def evolve(bundle: BundleStanding, event: Message) -> BundleStanding:
    """Apply one event."""
    match event:
        case BundleRegistered():
            return BundleStanding(
                digest=event.bundle_digest,
                model=event.model,
                imported=not event.training_set_digest,
                state=BundleState.BUNDLE_STATE_REGISTERED,
            )
        case BundleSigned():
            return replace(bundle, signed=True)
        case GatesEvaluated():
            judged = replace(
                bundle,
                results=tuple(event.results),
                approval_required=event.policy.approval_required or not event.evaluation_digest,
            )
            return replace(judged, state=_state_after_gates(judged, event.passed))
        case BundleApproved():
            return replace(bundle, approved=True, state=BundleState.BUNDLE_STATE_RELEASABLE)
        case BundleRejected():
            return replace(bundle, state=BundleState.BUNDLE_STATE_REJECTED)
    return bundle


decider = Decider(BundleStanding(), evolve)


def _state_after_gates(bundle: BundleStanding, passed: bool) -> "BundleState.ValueType":
    if not passed:
        return BundleState.BUNDLE_STATE_REGISTERED
    if bundle.approval_required and not bundle.approved:
        return BundleState.BUNDLE_STATE_GATED
    return BundleState.BUNDLE_STATE_RELEASABLE
