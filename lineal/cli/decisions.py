"""Commands about decisions on people: the reasons that are told of them, and what would have changed them."""

from typing import Annotated

import typer
import yaml

from lineal.api.registry.v1 import registry_service_pb2 as registry_api
from lineal.cli.output import moment, options, plain, say, short, show
from lineal.cli.work import Reason, connect
from lineal.client import new_request_id
from lineal.errors import LinealError
from lineal.reasons import counterfactuals as search
from lineal.reasons import value


def review(
    model: Annotated[str, typer.Argument(help="Name of a model.")],
    digest: Annotated[str, typer.Argument(help="Digest of the explanations that were read, or its beginning.")] = "",
    reason: Reason = "",
) -> None:
    """Show how a model's decisions are explained; with a digest and a reason find that right, so that it counts."""
    with connect() as client:
        registry = client.services.registry
        found = registry.call("GetModel", registry_api.GetModelRequest(name=model))
        if not found.HasField("review"):
            raise LinealError(f"model {model!r} declares no explanations; `lineal apply` declares them")
        standing = found.review
        if not digest:
            _show_policy(found)
            return
        if len(digest) < 8 or not standing.policy_digest.startswith(digest):
            raise LinealError(
                f"the explanations of {model!r} are {standing.policy_digest}, not {digest}; read them anew"
            )
        request = registry_api.ReviewExplanationsRequest(
            request_id=new_request_id(), model=model, policy_digest=standing.policy_digest, reason=reason
        )
        done = registry.call("ReviewExplanations", request)
    show({"position": done.position}, ("model", "explanations", "position"), [(model, short(digest), done.position)])


def counterfactuals(
    prediction: Annotated[str, typer.Argument(help="Id of a prediction.")],
    most: Annotated[int, typer.Option("--most", "-n", help="Show at most so many; 0 is 3.", min=0, max=10)] = 0,
) -> None:
    """Show what would have changed a decision: the fewest and smallest changes that the reviewed policy allows."""
    with connect() as client:
        found = search(client.services, prediction, most)
    rows = [
        (
            number if first else "",
            change.column,
            value(change, "old"),
            value(change, "new"),
            f"{change.distance:.1%}",
            each.score if first else "",
            each.decision if first else "",
        )
        for number, each in enumerate(found.counterfactuals, 1)
        for first, change in zip([True, *[False] * len(each.changes)], each.changes, strict=False)
    ]
    names = ("number", "column", "was", "would have been", "of others between", "score", "decision")
    title = f"score {found.score:.4f}, decision {found.decision}; each of these would have changed it"
    show(found, names, rows, title=title if rows else "")
    limit = ", as many as it may score, so there may be smaller changes" if found.exhausted else ""
    say(f"the search scored {found.scored_rows:,} rows{limit}; policy {short(found.policy_digest)}")


def _show_policy(found: registry_api.GetModelResponse) -> None:
    standing = found.review
    if options.json:
        show({"explanations": plain(found.model.explanations), "review": plain(standing)})
        return
    policy = yaml.safe_dump(plain(found.model.explanations), sort_keys=False, allow_unicode=True)
    say(policy.rstrip())
    say(f"digest {standing.policy_digest}, declared by {', '.join(standing.declared_by)}")
    if standing.reviewed_by:
        say(f"reviewed by {standing.reviewed_by} at {moment(standing, 'review_time')}: {standing.reason}")
    else:
        command = f"lineal review {found.model.name} {short(standing.policy_digest)} --reason"
        say(f"not reviewed; another person does with `{command}`")
