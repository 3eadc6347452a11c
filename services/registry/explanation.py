"""Explanation policies: what a model's decisions are told with, and who may find that right."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from google.protobuf.message import Message

from chassis.errors import Conflict, FieldViolation, InvalidArgument, NotFound, RuleViolated
from chassis.records import serialize
from lineal.api.registry.v1.events_pb2 import ExplanationsReviewed
from lineal.api.registry.v1.explanation_pb2 import AdverseScores, ExplanationPolicy, ReasonText

_PATH = "model.explanations"


class PolicyMissing(NotFound):
    """A model has no explanation policy that could be reviewed."""


class PolicyChanged(Conflict):
    """A policy is not declared any more as it was read."""


class ReviewedByAuthor(RuleViolated):
    """Who declared a policy wants to review it."""


class ReasonMissing(InvalidArgument):
    """A review does not say why."""


def check(policy: ExplanationPolicy) -> list[FieldViolation]:
    """Return what is wrong with an explanation policy."""
    found = list(_repeated_names("reasons", (name for group in policy.reasons for name in group.columns)))
    texts = [text for group in policy.reasons for text in (group.raises, group.lowers) if text != ReasonText()]
    found += _repeated_names("reasons", (text.code for text in texts if text.code), "code")
    for number, group in enumerate(policy.reasons):
        path = f"{_PATH}.reasons.{number}"
        if not group.columns:
            found.append(FieldViolation(f"{path}.columns", "name at least one column"))
        if not group.HasField("raises") and not group.HasField("lowers"):
            found.append(FieldViolation(path, "give raises, lowers or both, each with a code and a text"))
        found += [
            FieldViolation(f"{path}.{side}", "give both, a code and a text")
            for side in ("raises", "lowers")
            if group.HasField(side) and not (getattr(group, side).code and getattr(group, side).text)
        ]
    if policy.adverse_scores == AdverseScores.ADVERSE_SCORES_UNSPECIFIED:
        found.append(FieldViolation(f"{_PATH}.adverse_scores", "say which scores are adverse: high or low"))
    kinds = (policy.immutable_columns, policy.growing_columns, policy.falling_columns)
    found += _repeated_names("immutable_columns", (name for names in kinds for name in names))
    return found


def review(
    policy: ExplanationPolicy | None,
    model: str,
    *,
    reviewed: bool,
    digest: str,
    authors: Sequence[str],
    who: str,
    why: str,
) -> Sequence[Message]:
    """Find a policy right; nothing when it was found so already.

    Raises PolicyMissing, PolicyChanged, ReviewedByAuthor, ReasonMissing.
    """
    if policy is None:
        raise PolicyMissing(f"model {model!r} declares no explanations; `lineal apply` declares them")
    if not why:
        raise ReasonMissing("a review needs a reason", [FieldViolation("reason", "say why the policy is right")])
    if digest != digest_of(policy):
        raise PolicyChanged(
            f"the explanations of {model!r} are not declared as {digest[:12]} any more; read and review them anew"
        )
    if reviewed:
        return []
    if who in authors:
        raise ReviewedByAuthor(f"{who} declared the explanations of {model!r}; another person has to review them")
    return [ExplanationsReviewed(model=model, policy_digest=digest, reason=why)]


def digest_of(policy: ExplanationPolicy) -> str:
    """Return the digest of a policy: that of its artifact."""
    return hashlib.sha256(serialize(policy)).hexdigest()


def _repeated_names(field: str, names: Iterable[str], what: str = "column") -> Iterator[FieldViolation]:
    for name, count in sorted(Counter(names).items()):
        if count > 1:
            yield FieldViolation(f"{_PATH}.{field}", f"{what} {name!r} stands there {count} times; once is all it may")
