"""The RPCs of ScoringService: request in, application call, response out."""

from collections.abc import AsyncIterator
from typing import Any

from chassis.server import Harness
from lineal.api.serving.v1 import scoring_service_pb2 as api
from lineal.api.serving.v1.scoring_service_pb2_grpc import (
    ScoringServiceServicer,
    add_ScoringServiceServicer_to_server,
)
from services.serving.scorings import Scorings
from services.serving.settings import Settings

Context = Any


class ScoringServicer(ScoringServiceServicer):
    """`lineal.api.serving.v1.ScoringService`."""

    def __init__(self, scorings: Scorings) -> None:
        self._scorings = scorings

    async def RequestScoring(self, request: api.RequestScoringRequest, context: Context) -> api.RequestScoringResponse:
        source = request.WhichOneof("source")
        scoring_id, position = await self._scorings.request(
            request_id=request.request_id,
            bundle_digest=request.bundle_digest,
            source=getattr(request, source) if source else None,
        )
        return api.RequestScoringResponse(scoring_id=scoring_id, position=position)

    async def GetScoring(self, request: api.GetScoringRequest, context: Context) -> api.GetScoringResponse:
        return api.GetScoringResponse(scoring=await self._scorings.scoring(request.scoring_id))

    async def ReadScoring(
        self, request: api.ReadScoringRequest, context: Context
    ) -> AsyncIterator[api.ReadScoringResponse]:
        async for piece in self._scorings.pieces(request.scoring_id):
            yield api.ReadScoringResponse(arrow=piece)

    async def AdvanceScoring(self, request: api.AdvanceScoringRequest, context: Context) -> api.AdvanceScoringResponse:
        position = await self._scorings.advance(
            request_id=request.request_id, scoring_id=request.scoring_id, stage=request.stage
        )
        return api.AdvanceScoringResponse(position=position)

    async def RunScoring(
        self, request: api.RunScoringRequest, context: Context
    ) -> AsyncIterator[api.RunScoringResponse]:
        async for scoring in self._scorings.run(
            request_id=request.request_id,
            scoring_id=request.scoring_id,
            training_set_digest=request.training_set_digest,
        ):
            yield api.RunScoringResponse(scoring=scoring)

    async def FailScoring(self, request: api.FailScoringRequest, context: Context) -> api.FailScoringResponse:
        position = await self._scorings.fail(
            request_id=request.request_id, scoring_id=request.scoring_id, failure=request.failure
        )
        return api.FailScoringResponse(position=position)


def add_scorings(harness: Harness, settings: Settings) -> None:
    """Offer scorings beside predictions."""
    scorings = Scorings(
        harness.log,
        harness.artifacts,
        settings,
        monitor=harness.profile.address("monitor"),
        trusted=settings.trusted_keys.split(","),
    )
    service = api.DESCRIPTOR.services_by_name["ScoringService"].full_name
    harness.add_servicer(add_ScoringServiceServicer_to_server, ScoringServicer(scorings), service)
