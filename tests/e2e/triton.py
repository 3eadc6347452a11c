"""Asked in a process of its own, with tritonclient alone: print a model's metadata and its scores as JSON.

Arguments are the address, the model, and a JSON object of columns.
"""

import json
import sys

import numpy as np
import tritonclient.grpc as triton


def main() -> None:
    address, model, text = sys.argv[1:]
    client = triton.InferenceServerClient(address)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(model)
    metadata = client.get_model_metadata(model, as_json=True)
    columns = json.loads(text)
    inputs = []
    for described in metadata["inputs"]:
        number = described["datatype"] == "FP64"
        values = np.array(columns[described["name"]], dtype=np.float64 if number else object)
        tensor = triton.InferInput(described["name"], list(values.shape), described["datatype"])
        tensor.set_data_from_numpy(values)
        inputs.append(tensor)
    answer = client.infer(model, inputs)
    sys.stdout.write(json.dumps({"metadata": metadata, "scores": answer.as_numpy("predict_proba")[:, 1].tolist()}))


if __name__ == "__main__":
    main()
