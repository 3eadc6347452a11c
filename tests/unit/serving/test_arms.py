import asyncio
from typing import Any

import pytest

from chassis.errors import LinealError
from chassis.ids import new_request_id
from chassis.memory_artifacts import InMemoryArtifactStore
from chassis.memory_log import InMemoryLog
from lineal.api.registry.v1.endpoint_pb2 import Arm, ArmRole, Endpoint, Fallback
from lineal.api.registry.v1.events_pb2 import (
    ArmsChanged,
    BundleRegistered,
    EndpointRegistered,
    EndpointSuspended,
    GatesEvaluated,
)
from services.serving import arms
from services.serving.arms import ArmTable
from services.serving.loader import BundleUnloadable, Loader
from services.serving.scorers import Scorers
from services.serving.signatures import Signatures

DIGEST = "b" * 64


class SlowLoader(Loader):
    """A loader whose bundle takes until it is told, as a large one's trial would."""

    def __init__(self, artifacts: Any) -> None:
        super().__init__(artifacts, Signatures(artifacts))
        self.loading, self.go_on = asyncio.Event(), asyncio.Event()

    async def load(self, digest: str) -> Any:
        self.loading.set()
        await self.go_on.wait()
        raise BundleUnloadable(f"bundle {digest[:12]} cannot be loaded")


async def append(log: InMemoryLog, *events: Any) -> None:
    await log.append("endpoint/shop", events, request_id=new_request_id(), expected_revision=None)


@pytest.mark.timeout(60)
async def test_a_suspension_counts_while_a_bundle_is_being_loaded() -> None:
    log, loader = InMemoryLog(), SlowLoader(InMemoryArtifactStore())
    applied = asyncio.Event()

    async def tell() -> None:
        applied.set()

    table = ArmTable(log, Scorers(loader, 1), Signatures(InMemoryArtifactStore()), tell)
    champion = Arm(bundle_digest=DIGEST, role=ArmRole.ARM_ROLE_CHAMPION)
    endpoint = Endpoint(name="shop", model="shop", fallback=Fallback(score=0.5, reason="safe"))
    await append(log, EndpointRegistered(endpoint=endpoint))
    running = asyncio.create_task(table.run())
    await applied.wait()
    with pytest.raises(arms.NoChampion):
        table.get("shop")
    await append(
        log,
        BundleRegistered(bundle_digest=DIGEST, model="shop"),
        GatesEvaluated(bundle_digest=DIGEST, passed=True, evaluation_digest="e"),
        ArmsChanged(endpoint="shop", generation=1, arms=[champion]),
    )
    await loader.loading.wait()
    await append(log, EndpointSuspended(endpoint="shop", reason="wrong answers"))
    while _refusal(table) is arms.NoChampion:
        await asyncio.sleep(0.01)  # until the event is delivered
    assert _refusal(table) is arms.EndpointSuspended
    assert table.declared("shop") == (endpoint, 1)
    assert table.bundle("shop") is None
    assert not loader.go_on.is_set()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def _refusal(table: ArmTable) -> type[Exception]:
    with pytest.raises(LinealError) as refused:
        table.get("shop")
    return refused.type
