"""The calls of a service as Prometheus metrics, under the names that dashboards of gRPC services look for."""

from collections.abc import Mapping

from google.protobuf import descriptor_pool

from chassis.durations import Durations
from chassis.metrics_page import Family, Labels, counter, histogram, points_of, texts_of


def call_metrics(side: str, durations: Durations) -> list[Family]:
    """Return `grpc_<side>_handled_total` and `grpc_<side>_handling_seconds` of the calls measured so far."""
    points = points_of(durations.metric())
    handled = [(_labels(texts_of(point)), float(point.count)) for point in points]
    return [
        counter(f"grpc_{side}_handled", f"Calls that have ended on the {side}.", handled),
        histogram(f"grpc_{side}_handling_seconds", f"How long calls took on the {side}.", points, _labels),
    ]


def _labels(attributes: Mapping[str, str]) -> Labels:
    service, _, method = attributes["rpc.method"].rpartition("/")
    labels = {
        "grpc_type": _kind(service, method),
        "grpc_service": service,
        "grpc_method": method,
        "grpc_code": attributes["rpc.response.status_code"],
    }
    server = attributes.get("server.address")
    return {**labels, "server_address": server} if server else labels


def _kind(service: str, method: str) -> str:
    try:
        found = descriptor_pool.Default().FindMethodByName(f"{service}.{method}")  # type: ignore[no-untyped-call]
    except KeyError:
        return "UNKNOWN"
    if found.client_streaming:
        return "BIDI_STREAMING" if found.server_streaming else "CLIENT_STREAMING"
    return "SERVER_STREAMING" if found.server_streaming else "UNARY"
