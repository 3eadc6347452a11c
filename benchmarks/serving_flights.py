"""Two models of the flights, with texts and with numbers alone, and the rows that are asked about.

`python -m benchmarks.serving_flights FOLDER ROWS [MODELS]` fits both on so many rows: 300 trees of depth 6. Into the
folder go `texts/model.cbm` and `numbers/model.cbm`, and beside each the rows that it learnt from and those to ask
about, in the order of the model's columns. More models than two have a number behind the kind, from `texts-2` on, and
each has learnt other rows.
"""

import sys
from pathlib import Path

import catboost
import pandas as pd

from examples.flights import source

KINDS = ("texts", "numbers")
TEXTS = ["carrier", "origin", "dest", "tailnum"]
NUMBERS = ["flight_number", "distance", "month", "day_of_week", "hour", "minute"]
_TREES = {"iterations": 300, "depth": 6, "verbose": False, "allow_writing_files": False}
_LATE_MINUTES = 15
_ASKED = 5_000


def rows(folder: Path, kind: str) -> pd.DataFrame:
    """Return the rows to ask about."""
    return pd.read_parquet(folder / kind / "rows.parquet")


def learnt(folder: Path, kind: str) -> pd.DataFrame:
    """Return the rows that the model was fitted on."""
    return pd.read_parquet(folder / kind / "learnt.parquet")


def names(count: int) -> list[str]:
    """Return the names of so many models, each kind in turn."""
    return [f"{kind}-{number}" if number > 1 else kind for number in range(1, count + 1) for kind in KINDS][:count]


def _write(folder: Path, count: int, models: int) -> None:
    tables = source.load()
    landed = tables.flights.merge(tables.arrivals[["flight_id", "arrival_delay"]], on="flight_id")
    for index, name in enumerate(names(models)):
        seed = 1 + index // len(KINDS)
        # Spread over the year, and the rows asked about are none that were learnt.
        _fit(folder / name, landed.sample(count + _ASKED, random_state=seed), name.partition("-")[0], seed)


def _fit(folder: Path, landed: pd.DataFrame, kind: str, seed: int) -> None:
    count = len(landed) - _ASKED
    late = (landed["arrival_delay"] > _LATE_MINUTES).astype(int)
    frame = landed[[*TEXTS, *NUMBERS]].astype(dict.fromkeys(TEXTS, "object") | dict.fromkeys(NUMBERS, "float64"))
    frame[TEXTS] = frame[TEXTS].fillna("")
    if kind == "numbers":
        frame = frame.assign(**{name: pd.factorize(frame[name])[0].astype("float64") for name in TEXTS})
    folder.mkdir(parents=True, exist_ok=True)
    model = catboost.CatBoostClassifier(**_TREES, random_seed=seed)
    model.fit(frame.iloc[:count], late.iloc[:count], cat_features=TEXTS if kind == "texts" else [])
    model.save_model(str(folder / "model.cbm"))
    frame.iloc[:count].to_parquet(folder / "learnt.parquet", index=False)
    frame.iloc[count:].to_parquet(folder / "rows.parquet", index=False)


if __name__ == "__main__":
    _write(Path(sys.argv[1]), int(sys.argv[2]), int((sys.argv[3:] or [str(len(KINDS))])[0]))
