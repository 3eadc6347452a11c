"""`python -m tabular.probe`: load a model in this process, so that a damaged file takes only this process with it.

Reads a bundle's manifest path and the model file's path from the arguments, scores one row of nulls, exits 0.
After `--compiled` it tries the compiled applier, too. With the model file alone it prints the model's problem and
columns as JSON.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from tabular.bundle import Bundle
from tabular.scorer import Scorer, describe, load
from tabular.vectors import Vectors


def main(arguments: list[str]) -> int:
    """Probe a model file; return the exit code."""
    try:
        compiled = arguments[0] == "--compiled"
        *manifests, model = [Path(argument).read_bytes() for argument in arguments[compiled:]]
        if not manifests:
            problem, columns = describe(load(model))
            sys.stdout.write(json.dumps({"problem": problem, "columns": [asdict(column) for column in columns]}))
            return 0
        bundle = Bundle.from_bytes(manifests[0])
        row = Vectors(
            np.full((1, len(bundle.numeric)), np.nan), np.full((1, len(bundle.categorical)), "", dtype=object)
        )
        Scorer(bundle, model, compiled=compiled).score(row)
    except (ValueError, OSError) as error:
        sys.stderr.write(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
