"""Commands that keep a log sound over the years."""

import grpc

from lineal.api.lineage.v1 import keeping_service_pb2 as api
from lineal.cli.output import progress
from lineal.cli.tables import Row
from lineal.client import Client
from lineal.errors import call_failed
from lineal.profile import Profile

_STAGES = {"log": "events, tree and checkpoints are as stored", "artifacts": "artifacts are as named"}


def verified(profile: Profile) -> list[Row]:
    """Let lineage read everything that is stored; return what it found, by layer."""
    rows: list[Row] = []
    examined = dict.fromkeys(_STAGES, 0)
    with Client(profile) as client, progress() as display:
        keeping = client.services.keeping
        task = display.add_task("reading what is stored")
        try:
            for response in keeping.stub.VerifyLog(api.VerifyLogRequest()):
                examined[response.stage] = response.examined
                display.update(task, completed=response.examined, total=response.total)
                rows += [(f"{finding.layer} is as stored", False, finding.message) for finding in response.findings]
        except grpc.RpcError as error:
            raise call_failed(error, keeping.name, keeping.address) from error
    if rows:
        return rows
    return [(_STAGES[stage], True, f"{count:,} examined") for stage, count in examined.items()]
