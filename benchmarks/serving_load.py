"""Clients that ask for predictions, in a process of their own; prints the rate and how long answers took, as JSON.

`python -m benchmarks.serving_load oip|mlflow|bentoml|echo ADDRESS MODELS KIND CLIENTS ROWS SECONDS`; MODELS is the
folder that `benchmarks.serving_flights` has written. `oip` speaks the Open Inference Protocol through gRPC with one
typed tensor per column, to Lineal and to MLServer alike; `mlflow` and `bentoml` speak JSON through HTTP.
"""

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.closed_loop import ClosedLoop
from benchmarks.http_wire import Connections
from benchmarks.serving_flights import rows
from benchmarks.wire import Connection
from lineal.api.inference.v2 import inference_service_pb2 as oip

INFER = "/inference.GRPCInferenceService/ModelInfer"
_PATHS = {"mlflow": "/invocations", "bentoml": "/predict"}


def infer_request(model: str, frame: pd.DataFrame, routing_key: str) -> oip.ModelInferRequest:
    """Return the question about some rows, as MLServer wants tables: `pd` with a tensor for each column."""
    request = oip.ModelInferRequest(model_name=model)
    request.parameters["content_type"].string_param = "pd"
    request.parameters["routing_key"].string_param = routing_key
    for name in frame:
        values = frame[name].tolist()
        text = frame[name].dtype == object
        tensor = request.inputs.add(name=str(name), datatype="BYTES" if text else "FP64", shape=[len(frame)])
        if text:
            tensor.parameters["content_type"].string_param = "str"
            tensor.contents.bytes_contents.extend(value.encode() for value in values)
        else:
            tensor.contents.fp64_contents.extend(values)
    return request


def _body(peer: str, kind: str, frame: pd.DataFrame, number: int) -> bytes:
    if peer == "mlflow":
        return json.dumps({"dataframe_split": {"columns": list(frame), "data": frame.to_numpy().tolist()}}).encode()
    if peer == "bentoml":
        return json.dumps({"rows": frame.to_numpy().tolist()}).encode()
    return infer_request(kind, frame, f"unit-{number}").SerializeToString()


def _main(peer: str, address: str, models: str, kind: str, clients: str, count: str, seconds: str) -> dict[str, Any]:
    asked = rows(Path(models), kind)
    size = int(count)
    bodies = [_body(peer, kind, asked.iloc[first : first + size], first) for first in range(0, len(asked), size)]
    loop = ClosedLoop(bodies, int(clients), float(seconds))
    if peer in _PATHS:
        with closing(Connections(address, _PATHS[peer], int(clients), loop.answered)) as connections:
            return loop.run(connections.call, connections.run)
    with closing(Connection(address, INFER, {}, loop.answered)) as connection:
        return loop.run(connection.call, connection.run)


if __name__ == "__main__":
    print(json.dumps(_main(*sys.argv[1:])))
