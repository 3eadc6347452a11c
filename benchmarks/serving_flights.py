"""Two models of the flights, with texts and with numbers alone, and the rows that are asked about.

`python -m benchmarks.serving_flights FOLDER ROWS` fits both on so many rows: 300 trees of depth 6. Into the folder go
`texts/model.cbm` and `numbers/model.cbm`, and beside each the rows that it learnt from and those to ask about, in the
order of the model's columns.
"""

import sys
from pathlib import Path

import catboost
import pandas as pd

from examples.flights import source

KINDS = ("texts", "numbers")
TEXTS = ["carrier", "origin", "dest", "tailnum"]
NUMBERS = ["flight_number", "distance", "month", "day_of_week", "hour", "minute"]
_TREES = {"iterations": 300, "depth": 6, "random_seed": 1, "verbose": False, "allow_writing_files": False}
_LATE_MINUTES = 15
_ASKED = 5_000


def rows(folder: Path, kind: str) -> pd.DataFrame:
    """Return the rows to ask about."""
    return pd.read_parquet(folder / kind / "rows.parquet")


def learnt(folder: Path, kind: str) -> pd.DataFrame:
    """Return the rows that the model was fitted on."""
    return pd.read_parquet(folder / kind / "learnt.parquet")


def _write(folder: Path, count: int) -> None:
    tables = source.load()
    # Spread over the year, and the rows asked about are none that were learnt.
    landed = tables.flights.merge(tables.arrivals[["flight_id", "arrival_delay"]], on="flight_id")
    landed = landed.sample(count + _ASKED, random_state=1)
    late = (landed["arrival_delay"] > _LATE_MINUTES).astype(int)
    features = landed[[*TEXTS, *NUMBERS]].astype(dict.fromkeys(TEXTS, "object") | dict.fromkeys(NUMBERS, "float64"))
    features[TEXTS] = features[TEXTS].fillna("")
    numbers = features.assign(**{name: pd.factorize(features[name])[0].astype("float64") for name in TEXTS})
    for kind, frame, categories in (("texts", features, TEXTS), ("numbers", numbers, [])):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        model = catboost.CatBoostClassifier(**_TREES)
        model.fit(frame.iloc[:count], late.iloc[:count], cat_features=categories)
        model.save_model(str(folder / kind / "model.cbm"))
        frame.iloc[:count].to_parquet(folder / kind / "learnt.parquet", index=False)
        frame.iloc[count:].to_parquet(folder / kind / "rows.parquet", index=False)


if __name__ == "__main__":
    _write(Path(sys.argv[1]), int(sys.argv[2]))
