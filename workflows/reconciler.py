"""The reconciler: compares what the registry says with what Temporal has, and mends the difference.

The bridge acts on events. What events cannot tell is mended here: a workflow that somebody terminated, a Temporal
server that lost its data, a history that could not be archived when its saga ended.
"""

import asyncio
import logging

import grpc.aio
from temporalio.service import RPCError

from chassis.ids import request_id_from
from lineal.api.registry.v1 import registry_service_pb2 as api
from lineal.api.registry.v1.endpoint_pb2 import Saga, SagaState
from lineal.api.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from workflows.temporal import Temporal

_logger = logging.getLogger(__name__)
_INTERVAL_SECONDS = 60.0
_PAGE = 1000


class Reconciler:
    """Looks once a minute, and at the start."""

    def __init__(self, registry: grpc.aio.Channel, temporal: Temporal) -> None:
        self._registry = RegistryServiceStub(registry)
        self._temporal = temporal
        self._archiving: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Mend for ever."""
        try:
            while True:
                try:
                    await self.mend()
                except (RPCError, grpc.aio.AioRpcError) as error:
                    _logger.warning("registry and Temporal are not compared this time: %s", error)
                await asyncio.sleep(_INTERVAL_SECONDS)
        finally:
            for task in self._archiving.values():
                task.cancel()

    async def mend(self) -> None:
        """Give each active saga a workflow, each endpoint a schedule, and archive what has ended."""
        # Those that are retired keep serving, are watched and may be rolled back.
        every = api.ListEndpointsRequest(page_size=_PAGE, include_retired=True)
        for found in (await self._registry.ListEndpoints(every)).endpoints:
            await self._temporal.watch(found.endpoint.name)
            if found.active_saga_id:
                request = api.GetSagaRequest(saga_id=found.active_saga_id)
                await self._revive((await self._registry.GetSaga(request)).saga)
        for saga in (await self._registry.ListSagas(api.ListSagasRequest(page_size=_PAGE))).sagas:
            if saga.state != SagaState.SAGA_STATE_ACTIVE and not saga.history_digest:
                self.archive_later(saga.endpoint, saga.saga_id)

    def archive_later(self, endpoint: str, saga_id: str) -> None:
        """Store a saga's history in the background, once its workflow has closed."""
        if saga_id not in self._archiving:
            task = self._archiving[saga_id] = asyncio.create_task(self._archive(endpoint, saga_id))
            task.add_done_callback(lambda _: self._archiving.pop(saga_id, None))

    async def _revive(self, saga: Saga) -> None:
        # The table may lag behind the endpoint's own stream, which said that the saga is active.
        if saga.state == SagaState.SAGA_STATE_ACTIVE:
            await self._temporal.start(saga, asked_by=saga.requested_by)

    async def _archive(self, endpoint: str, saga_id: str) -> None:
        try:
            history = await self._temporal.history(saga_id)
            if history is None:
                return
            await self._registry.ArchiveSaga(
                api.ArchiveSagaRequest(
                    request_id=request_id_from("archive", saga_id), endpoint=endpoint, saga_id=saga_id, history=history
                )
            )
        except (RPCError, grpc.aio.AioRpcError) as error:
            _logger.warning("the history of saga %s is not archived yet: %s", saga_id, error)
