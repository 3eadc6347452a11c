"""What serving counts, as Prometheus metrics: its own, and those that dashboards of KServe and MLServer look for."""

from collections.abc import Callable, Iterable, Mapping

from chassis.durations import Durations
from chassis.metrics_page import Family, Labels, counter, gauge, histogram, points_of, summary, texts_of
from lineal.api.serving.v1.serving_service_pb2 import EndpointCounters
from services.serving.scorers import Scorers


def prediction_durations() -> Durations:
    """Return the histogram of requests answered, by endpoint and bundle."""
    return Durations("lineal.prediction.duration", "How long requests took, from routing to scores.", _attributes)


def serving_metrics(
    endpoints: Callable[[], Iterable[str]],
    counters: Callable[[], Iterable[EndpointCounters]],
    durations: Durations,
    scorers: Scorers,
) -> Callable[[], list[Family]]:
    """Return what makes the families; only endpoints that were declared are shown, whatever names requests have."""

    def families() -> list[Family]:
        known = set(endpoints())
        counted = [each for each in counters() if each.endpoint in known]
        points = points_of(durations.metric())
        answered = [(_model(texts_of(point)), float(point.count)) for point in points]
        failed = [({"model": each.endpoint, "version": ""}, float(each.failed_requests)) for each in counted]
        return [
            counter("lineal_predictions_served", "Rows answered.", _rows(counted, "served")),
            counter("lineal_predictions_logged", "Rows whose record monitor has.", _rows(counted, "logged")),
            counter("lineal_predictions_dropped", "Rows whose record is lost.", _rows(counted, "dropped")),
            gauge("lineal_predictions_queued", "Rows whose record waits in the spool.", _rows(counted, "queued")),
            counter(
                "lineal_predictions_flagged", "Rows answered that are unlike the training rows.", _flagged(counted)
            ),
            counter("lineal_predictions_fallback", "Rows answered by the declared fallback.", _fallbacks(counted)),
            counter("lineal_predictions_unguarded", "Rows whose bundle has no guard.", _rows(counted, "unguarded")),
            counter("lineal_requests_limited", "Requests over a limit of callers.", _rows(counted, "limited_requests")),
            gauge("lineal_serving_bundles", "Bundles held in memory.", [({}, float(len(scorers)))]),
            counter("lineal_serving_bundle_loads", "Bundles loaded, again too.", [({}, float(scorers.loads))]),
            counter("model_infer_request_success", "Requests answered.", answered),
            counter("model_infer_request_failure", "Requests that were read and got no answer.", failed),
            summary("model_infer_request_duration", "Seconds from routing to scores.", points, _model),
            histogram("request_predict_seconds", "Seconds from routing to scores.", points, _model_name),
        ]

    return families


def _rows(counted: Iterable[EndpointCounters], name: str) -> list[tuple[Labels, float]]:
    return [({"endpoint": each.endpoint}, float(getattr(each, name))) for each in counted]


def _flagged(counted: Iterable[EndpointCounters]) -> list[tuple[Labels, float]]:
    return [
        ({"endpoint": each.endpoint, "flag": flag}, float(getattr(each, flag)))
        for each in counted
        for flag in ("out_of_range", "unseen", "out_of_distribution")
    ]


def _fallbacks(counted: Iterable[EndpointCounters]) -> list[tuple[Labels, float]]:
    return [
        ({"endpoint": each.endpoint, "cause": cause}, float(count))
        for each in counted
        for cause, count in sorted(each.fallbacks.items())
    ]


def _attributes(endpoint: str, bundle_digest: str) -> dict[str, str]:
    return {"lineal.endpoint": endpoint, "lineal.bundle_digest": bundle_digest}


def _model(attributes: Mapping[str, str]) -> Labels:
    """Return MLServer's labels."""
    return {"model": attributes["lineal.endpoint"], "version": attributes["lineal.bundle_digest"]}


def _model_name(attributes: Mapping[str, str]) -> Labels:
    """Return KServe's label, and the version that tells arms apart."""
    return {"model_name": attributes["lineal.endpoint"], "model_version": attributes["lineal.bundle_digest"]}
