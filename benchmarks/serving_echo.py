"""A bare server of the Open Inference Protocol that answers at once: what gRPC and its server cost by themselves.

`python -m benchmarks.serving_echo PORT`. On grpc.aio and uvloop as serving is, without interceptors.
"""

import asyncio
import sys
from typing import Any

import grpc.aio
import uvloop

from lineal.api.inference.v2 import inference_service_pb2 as oip
from lineal.api.inference.v2.inference_service_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from services.serving.oip_servicer import InferenceServicer


class _Echo(InferenceServicer):
    def __init__(self) -> None:
        pass

    async def ServerReady(self, request: oip.ServerReadyRequest, context: Any) -> oip.ServerReadyResponse:  # noqa: ARG002
        return oip.ServerReadyResponse(ready=True)

    async def ModelInfer(self, request: oip.ModelInferRequest, context: Any) -> oip.ModelInferResponse:  # noqa: ARG002
        return oip.ModelInferResponse(model_name=request.model_name, id=request.id)


async def _serve(port: str) -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add_GRPCInferenceServiceServicer_to_server(_Echo(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(sys.argv[1]))
