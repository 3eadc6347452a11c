"""The RPCs of features: request in, application call, response out."""

from collections.abc import AsyncIterator
from typing import Any

from chassis.past import AsOf
from lineal.api.features.v1 import features_service_pb2 as api
from lineal.api.features.v1.events_pb2 import FeatureSetRegistered, TrainingSetBuilt
from lineal.api.features.v1.features_service_pb2_grpc import FeaturesServiceServicer
from services.features.application import Features
from services.features.projections import SET, VIEW

Context = Any


class FeaturesServicer(FeaturesServiceServicer):
    """`lineal.api.features.v1.FeaturesService`."""

    def __init__(self, features: Features) -> None:
        self._features = features

    async def RegisterFeatureView(
        self, request: api.RegisterFeatureViewRequest, context: Context
    ) -> api.RegisterFeatureViewResponse:
        version, position = await self._features.register_view(request_id=request.request_id, view=request.feature_view)
        return api.RegisterFeatureViewResponse(version=version, position=position)

    async def ListFeatureViews(
        self, request: api.ListFeatureViewsRequest, context: Context
    ) -> api.ListFeatureViewsResponse:
        views, token = await self._features.views_page(
            request.page_size, request.page_token, request.include_retired, request.min_position, AsOf.of(request)
        )
        retired = await self._features.retired(VIEW, AsOf.of(request))
        return api.ListFeatureViewsResponse(
            feature_views=views, next_page_token=token, retired=[view.name for view in views if view.name in retired]
        )

    async def RetireFeatureView(
        self, request: api.RetireFeatureViewRequest, context: Context
    ) -> api.RetireFeatureViewResponse:
        position = await self._features.retire_view(
            request_id=request.request_id, name=request.name, reason=request.reason
        )
        return api.RetireFeatureViewResponse(position=position)

    async def RegisterFeatureSet(
        self, request: api.RegisterFeatureSetRequest, context: Context
    ) -> api.RegisterFeatureSetResponse:
        version, position = await self._features.register_set(
            request_id=request.request_id, feature_set=request.feature_set, min_position=request.min_position
        )
        return api.RegisterFeatureSetResponse(version=version, position=position)

    async def GetFeatureSet(self, request: api.GetFeatureSetRequest, context: Context) -> api.GetFeatureSetResponse:
        as_of = AsOf.of(request)
        found = await self._features.feature_set(request.name, request.version, request.min_position, as_of)
        return _response(found, await self._features.datasets_of(found), await self._features.retired(SET, as_of))

    async def ListFeatureSets(
        self, request: api.ListFeatureSetsRequest, context: Context
    ) -> api.ListFeatureSetsResponse:
        found, token = await self._features.sets_page(
            request.page_size, request.page_token, request.include_retired, request.min_position, AsOf.of(request)
        )
        retired = await self._features.retired(SET, AsOf.of(request))
        return api.ListFeatureSetsResponse(
            feature_sets=[_response(entry, await self._features.datasets_of(entry), retired) for entry in found],
            next_page_token=token,
        )

    async def RetireFeatureSet(
        self, request: api.RetireFeatureSetRequest, context: Context
    ) -> api.RetireFeatureSetResponse:
        position = await self._features.retire_set(
            request_id=request.request_id, name=request.name, reason=request.reason
        )
        return api.RetireFeatureSetResponse(position=position)

    async def BuildTrainingSet(
        self, request: api.BuildTrainingSetRequest, context: Context
    ) -> AsyncIterator[api.BuildTrainingSetResponse]:
        wanted = TrainingSetBuilt(
            feature_set=request.feature_set,
            feature_set_version=request.feature_set_version,
            start_time=request.start_time if request.HasField("start_time") else None,
            end_time=request.end_time if request.HasField("end_time") else None,
            label_known_time=request.label_known_time if request.HasField("label_known_time") else None,
            snapshots=request.snapshots,
            sample_share=request.sample_share if request.HasField("sample_share") else None,
            unlabelled=request.unlabelled,
        )
        async for response in self._features.build_training_set(
            request_id=request.request_id, wanted=wanted, min_position=request.min_position
        ):
            yield response

    async def GetTrainingSet(self, request: api.GetTrainingSetRequest, context: Context) -> api.GetTrainingSetResponse:
        return api.GetTrainingSetResponse(training_set=await self._features.training_set(request.digest))

    async def ListTrainingSets(
        self, request: api.ListTrainingSetsRequest, context: Context
    ) -> api.ListTrainingSetsResponse:
        found, token = await self._features.training_sets_page(
            request.feature_set, request.page_size, request.page_token, request.min_position, AsOf.of(request)
        )
        return api.ListTrainingSetsResponse(training_sets=found, next_page_token=token)

    async def ReadTrainingSet(
        self, request: api.ReadTrainingSetRequest, context: Context
    ) -> AsyncIterator[api.ReadTrainingSetResponse]:
        async for piece in self._features.training_set_pieces(request.digest):
            yield api.ReadTrainingSetResponse(arrow=piece)

    async def GetOnlineFeatures(
        self, request: api.GetOnlineFeaturesRequest, context: Context
    ) -> api.GetOnlineFeaturesResponse:
        return await self._features.online_features(request)

    async def ExplainFeatures(
        self, request: api.ExplainFeaturesRequest, context: Context
    ) -> AsyncIterator[api.ExplainFeaturesResponse]:
        async for response in self._features.explain(request):
            yield response

    async def CheckParity(self, request: api.CheckParityRequest, context: Context) -> api.CheckParityResponse:
        return await self._features.check_parity(request)


def _response(registered: FeatureSetRegistered, datasets: list[str], retired: set[str]) -> api.GetFeatureSetResponse:
    return api.GetFeatureSetResponse(
        feature_set=registered.feature_set,
        version=registered.version,
        columns=registered.columns,
        entity_columns=registered.entity_columns,
        datasets=datasets,
        retired=registered.feature_set.name in retired,
    )
