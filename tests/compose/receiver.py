"""Receive OTLP until spans, metrics and logs of every service named on the command line have come; exit 0 then."""

import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

_SECONDS = 180.0


class Received:
    """What has come of what is awaited, as (kind, service)."""

    def __init__(self, services: list[str]) -> None:
        self.missing = {(kind, f"lineal-{name}") for kind in ("spans", "metrics", "logs") for name in services}
        self.complete = threading.Event()
        self._lock = threading.Lock()

    def note(self, kind: str, resources: Any) -> None:
        """Note the services that a request is of."""
        with self._lock:
            for resource in resources:
                for attribute in resource.resource.attributes:
                    if attribute.key == "service.name":
                        self.missing.discard((kind, attribute.value.string_value))
            if not self.missing:
                self.complete.set()


def serve(received: Received, address: str) -> grpc.Server:
    """Start the three export services of OTLP."""
    traces: Any = trace_service_pb2_grpc
    metrics: Any = metrics_service_pb2_grpc
    logs: Any = logs_service_pb2_grpc

    class Traces(traces.TraceServiceServicer):  # type: ignore[misc]
        def Export(self, request: Any, context: Any) -> Any:
            received.note("spans", request.resource_spans)
            return trace_service_pb2.ExportTraceServiceResponse()

    class Metrics(metrics.MetricsServiceServicer):  # type: ignore[misc]
        def Export(self, request: Any, context: Any) -> Any:
            received.note("metrics", request.resource_metrics)
            return metrics_service_pb2.ExportMetricsServiceResponse()

    class Logs(logs.LogsServiceServicer):  # type: ignore[misc]
        def Export(self, request: Any, context: Any) -> Any:
            received.note("logs", request.resource_logs)
            return logs_service_pb2.ExportLogsServiceResponse()

    server = grpc.server(ThreadPoolExecutor(4))
    traces.add_TraceServiceServicer_to_server(Traces(), server)
    metrics.add_MetricsServiceServicer_to_server(Metrics(), server)
    logs.add_LogsServiceServicer_to_server(Logs(), server)
    server.add_insecure_port(address)
    server.start()
    return server


def main() -> int:
    """Receive; return the exit code."""
    # As the first process of a container it would not end at SIGTERM by itself.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    received = Received(sys.argv[1:])
    server = serve(received, "0.0.0.0:4317")
    complete = received.complete.wait(_SECONDS)
    server.stop(None)
    for kind, service in sorted(received.missing):
        sys.stderr.write(f"no {kind} of {service}\n")
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
