"""CatBoost's own predict over Parquet files, in a process of its own; prints rows, seconds and peak memory as JSON.

`python -m benchmarks.scoring_peer MODEL RESULT FILE...`: the key and the raw score of each row go to RESULT.
"""

import json
import resource
import sys
import time
from pathlib import Path

import catboost
import pandas as pd

from benchmarks.serving_flights import TEXTS
from chassis.artifacts import ArtifactStore

ID = "flight_id"


def files_of(artifacts: ArtifactStore, digest: str) -> list[str]:
    """Return the digests of the Parquet files that a manifest names."""
    return [file["digest"] for file in json.loads(artifacts.read(digest))["files"]]


def _main(model_file: str, result: str, files: list[str]) -> dict[str, float]:
    begin = time.perf_counter()
    model = catboost.CatBoost().load_model(model_file)
    parts = []
    for file in files:
        rows = pd.read_parquet(Path(file))
        # CatBoost has no null for texts.
        rows = rows.assign(**{name: rows[name].astype("object").fillna("") for name in TEXTS})
        raw = model.predict(rows[model.feature_names_], prediction_type="RawFormulaVal")
        parts.append(pd.DataFrame({ID: rows[ID], "own": raw}))
    seconds = time.perf_counter() - begin
    pd.concat(parts).to_parquet(result, index=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rows": sum(map(len, parts)), "seconds": seconds, "mebibytes": peak}


if __name__ == "__main__":
    print(json.dumps(_main(sys.argv[1], sys.argv[2], sys.argv[3:])))
