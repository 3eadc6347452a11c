"""Features by entity keys, from the features service."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
import numpy as np
import numpy.typing as npt

from chassis.errors import FieldViolation, InvalidArgument
from lineal.api.features.v1.features_service_pb2 import GetOnlineFeaturesRequest
from lineal.api.features.v1.features_service_pb2_grpc import FeaturesServiceStub
from lineal.api.tabular.v1.column_pb2 import Column
from tabular.columns import to_numpy


class EntityKeyMissing(InvalidArgument):
    """A request brings neither a feature nor the entity key to look it up."""


@dataclass(frozen=True)
class LookedUp:
    """Looked-up columns by name, the status bytes of each, and the log position that they had applied."""

    values: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    statuses: Mapping[str, bytes] = field(default_factory=dict)
    position: int = 0


class Lookups:
    """The adapter over the features service."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = FeaturesServiceStub(channel)

    async def get(
        self,
        feature_set: str,
        version: str,
        entity_columns: Sequence[str],
        given: Mapping[str, Column],
        cutoff_micros: npt.NDArray[np.int64],
        min_position: int,
    ) -> LookedUp:
        """Return the view features of a feature set as of each row's cut-off.

        Raises EntityKeyMissing; errors of the features service pass through.
        """
        missing = [name for name in entity_columns if name not in given]
        if missing:
            raise EntityKeyMissing(
                f"features are looked up by {', '.join(entity_columns)}; {', '.join(missing)} is missing",
                [FieldViolation(f"columns[{name}]", "send the entity key, or all features") for name in missing],
            )
        response = await self._stub.GetOnlineFeatures(
            GetOnlineFeaturesRequest(
                feature_set=feature_set,
                feature_set_version=version,
                entities=[given[name] for name in entity_columns],
                cutoff_micros=cutoff_micros.tolist(),
                min_position=min_position,
            )
        )
        return LookedUp(
            {column.name: to_numpy(column) for column in response.columns},
            {column.name: status for column, status in zip(response.columns, response.statuses, strict=True)},
            response.position,
        )
