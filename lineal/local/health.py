"""Ask services how they are, by the health RPC."""

import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from lineal.profile import Profile

_SECONDS = 2.0
HEALTHY = "healthy"


def check(profile: Profile, names: Iterable[str]) -> Mapping[str, str]:
    """Return `healthy` or what is wrong, by service."""
    names = list(names)
    with ThreadPoolExecutor(len(names)) as pool:
        return dict(zip(names, pool.map(lambda name: _one(profile, name), names), strict=True))


def _one(profile: Profile, name: str) -> str:
    address = profile.address(name)
    if name == "temporal-ui":
        return _page(address)
    with grpc.insecure_channel(address) as channel:
        try:
            service = "temporal.api.workflowservice.v1.WorkflowService" if name == "temporal" else ""
            request = health_pb2.HealthCheckRequest(service=service)
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=_SECONDS, wait_for_ready=False)
        except grpc.RpcError as error:
            return "not reachable" if error.code() == grpc.StatusCode.UNAVAILABLE else error.code().name.lower()
    return HEALTHY if answer.status == health_pb2.HealthCheckResponse.SERVING else "not ready"


def _page(address: str) -> str:
    try:
        with urllib.request.urlopen(f"http://{address}/", timeout=_SECONDS):
            return HEALTHY
    except (urllib.error.URLError, OSError):
        return "not reachable"
