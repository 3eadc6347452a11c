"""Asked in a process of its own, with tritonclient alone: print a model's metadata and its scores as JSON.

Arguments are `sync` or `aio`, the address, the model, and a JSON object of columns.
"""

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio


def tensors(metadata: Mapping[str, Any], columns: Mapping[str, Sequence[Any]]) -> list[Any]:
    """Return a tensor for each input that the metadata names."""
    found = []
    for described in metadata["inputs"]:
        number = described["datatype"] == "FP64"
        values = np.array(columns[described["name"]], dtype=np.float64 if number else object)
        tensor = triton.InferInput(described["name"], list(values.shape), described["datatype"])
        tensor.set_data_from_numpy(values)
        found.append(tensor)
    return found


def ask(address: str, model: str, columns: Mapping[str, Sequence[Any]]) -> tuple[Any, Any]:
    """Return metadata and answer."""
    client = triton.InferenceServerClient(address)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(model)
    metadata = client.get_model_metadata(model, as_json=True)
    return metadata, client.infer(model, tensors(metadata, columns))


async def ask_aio(address: str, model: str, columns: Mapping[str, Sequence[Any]]) -> tuple[Any, Any]:
    """Return metadata and answer."""
    async with triton_aio.InferenceServerClient(address) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready(model)
        metadata = await client.get_model_metadata(model, as_json=True)
        return metadata, await client.infer(model, tensors(metadata, columns))


def main() -> None:
    how, address, model, text = sys.argv[1:]
    columns = json.loads(text)
    asked = asyncio.run(ask_aio(address, model, columns)) if how == "aio" else ask(address, model, columns)
    metadata, answer = asked
    sys.stdout.write(json.dumps({"metadata": metadata, "scores": answer.as_numpy("predict_proba")[:, 1].tolist()}))


if __name__ == "__main__":
    main()
