"""The health probe, which orchestrators ask in a process of its own."""

import subprocess
import sys
from typing import Any

import pytest

from lineal.api.inference.v2 import inference_service_pb2
from lineal.api.serving.v1 import serving_service_pb2
from lineal.profile import Profile
from tests.e2e.conftest import Running

pytestmark = pytest.mark.timeout(240)
# grpcio-health-checking's own client, with nothing of Lineal's.
PROBE = """
import sys
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
address, *names = sys.argv[1:]
stub = health_pb2_grpc.HealthStub(grpc.insecure_channel(address))
for name in names:
    answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=30)
    print(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
"""


def test_the_health_probe_finds_both_protocols_serving(suite: Running, notebook: dict[str, Any]) -> None:
    suite.lineal("status", "--wait")
    names = [
        "",
        inference_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name,
        serving_service_pb2.DESCRIPTOR.services_by_name["ServingService"].full_name,
    ]
    address = Profile.load(suite.profile).address("serving")
    command = [sys.executable, "-c", PROBE, address, *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["SERVING"] * len(names)
