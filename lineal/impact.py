"""The predictions that a batch has a part in: its rows made their model, or features that were looked up for them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from lineal.api.features.v1 import features_service_pb2 as features_api
from lineal.api.lineage.v1 import lineage_service_pb2 as lineage_api
from lineal.api.lineage.v1.graph_pb2 import Edge, Node, NodeKind
from lineal.api.monitor.v1 import monitor_service_pb2 as monitor_api
from lineal.api.monitor.v1.prediction_pb2 import PredictionRecord
from lineal.api.registry.v1 import registry_service_pb2 as registry_api
from lineal.calls import Services
from lineal.explain import explain

_PAGE_EDGES = 10_000


@dataclass(frozen=True)
class Use:
    """A prediction, and through what it rests on the batch: its model, or else features that were looked up for it."""

    prediction_id: str
    endpoint: str
    bundle_digest: str
    event_time_micros: int
    segment_digest: str
    through: Literal["model", "features"]


class Impact:
    """Finds predictions in the segments that the lineage graph leads to from a batch, `<dataset>/<batch id>`.

    Raises CallFailed when the log has no such batch.
    """

    def __init__(self, services: Services, batch: str) -> None:
        self._services = services
        self._request = lineage_api.GetLineageRequest(
            name=batch,
            kind=NodeKind.NODE_KIND_BATCH,
            direction=lineage_api.Direction.DIRECTION_IMPACT,
            page_size=_PAGE_EDGES,
        )
        self._page = services.lineage.call("GetLineage", self._request)
        self._batch: Node = self._page.node
        self._dataset, _, self._batch_id = self._batch.name.partition("/")
        self._sets: dict[str, tuple[str, str]] = {}

    def predictions(self) -> Iterator[Use]:
        """Yield the predictions of sealed segments that used the batch, segment by segment.

        Of those whose model was not learnt from it each that may have used it is explained, which takes a call each.
        Raises CallFailed.
        """
        bundles: dict[str, set[str]] = {}
        possible: set[str] = set()
        for edge in self._edges():
            if edge.target.kind != NodeKind.NODE_KIND_SEGMENT:
                continue
            made = bundles.setdefault(edge.target.name, set())
            if edge.possible:
                possible.add(edge.target.name)
            else:
                made.add(edge.source.name)
        for segment, made in bundles.items():
            position = self._batch.position if segment in possible else 0
            request = monitor_api.ReadSegmentRequest(
                segment_digest=segment, bundle_digests=sorted(made), min_feature_position=position
            )
            for piece in self._services.monitor.collect("ReadSegment", request):
                yield from self._uses(piece.predictions, segment, made, position)

    def _edges(self) -> Iterator[Edge]:
        page = self._page
        while True:
            yield from page.edges
            if not page.next_page_token:
                return
            self._request.page_token = page.next_page_token
            page = self._services.lineage.call("GetLineage", self._request)

    def _uses(
        self, records: Iterable[PredictionRecord], segment: str, bundles: set[str], position: int
    ) -> Iterator[Use]:
        for record in records:
            learnt = record.bundle_digest in bundles
            if learnt or (0 < position <= record.feature_position and self.looked_up(record)):
                yield Use(
                    record.prediction_id,
                    record.endpoint,
                    record.bundle_digest,
                    record.event_time_micros,
                    segment,
                    "model" if learnt else "features",
                )

    def looked_up(self, record: PredictionRecord) -> bool:
        """Tell whether rows of the batch are among those that made the features of a prediction. Raises CallFailed."""
        name, version = self._feature_set(record.bundle_digest)
        views = explain(
            self._services, name, version, dict(record.entities), record.event_time_micros, record.feature_position
        )
        return any(
            view.dataset == self._dataset and any(row.batch_id == self._batch_id for row in view.rows) for view in views
        )

    def _feature_set(self, bundle: str) -> tuple[str, str]:
        if bundle not in self._sets:
            registered: Any = self._services.registry.call("GetBundle", registry_api.GetBundleRequest(digest=bundle))
            request = features_api.GetTrainingSetRequest(digest=registered.bundle.training_set_digest)
            training_set: Any = self._services.features.call("GetTrainingSet", request).training_set
            self._sets[bundle] = training_set.feature_set, training_set.feature_set_version
        return self._sets[bundle]
