"""`python -m chassis.probe HOST:PORT`: ask a service how it is, by the health RPC; exit 0 if it serves.

The health check of containers. It imports no more than it needs, because it runs often.
"""

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

_SECONDS = 3.0


def probe(address: str) -> str | None:
    """Return None if the service at an address serves, else what is wrong."""
    with grpc.insecure_channel(address) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=_SECONDS)
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
    name: str = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return None if name == "SERVING" else name


def main() -> int:
    """Probe the address of the command line; return the exit code."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m chassis.probe HOST:PORT\n")
        return 2
    wrong = probe(sys.argv[1])
    if wrong is None:
        return 0
    sys.stderr.write(f"{sys.argv[1]} does not serve: {wrong}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
