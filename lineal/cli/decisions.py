"""Commands about decisions on people: the reasons that are told of them."""

from typing import Annotated

import typer
import yaml

from lineal.api.registry.v1 import registry_service_pb2 as registry_api
from lineal.cli.output import moment, options, plain, say, short, show
from lineal.cli.work import Reason, connect
from lineal.client import new_request_id
from lineal.errors import LinealError


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
