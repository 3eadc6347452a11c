"""`python -m tabular.probe`: load a model in this process, so that a damaged file takes only this process with it.

Reads a bundle's manifest from the first line of the standard input (canonical JSON has no line feed) and the model from
the rest, scores one row of nulls, exits 0. With `--compiled` it tries the compiled applier, too.
"""

import sys

import numpy as np

from tabular.bundle import Bundle
from tabular.scorer import Scorer
from tabular.vectors import Vectors


def main(arguments: list[str]) -> int:
    """Probe a model; return the exit code."""
    try:
        bundle = Bundle.from_bytes(sys.stdin.buffer.readline())
        row = Vectors(
            np.full((1, len(bundle.numeric)), np.nan), np.full((1, len(bundle.categorical)), "", dtype=object)
        )
        Scorer(bundle, sys.stdin.buffer.read(), compiled="--compiled" in arguments).score(row)
    except (ValueError, OSError) as error:
        sys.stderr.write(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
