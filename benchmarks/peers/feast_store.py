# mypy: disable-error-code="import-not-found"
"""Fill Feast's SQLite online store: `python feast_store.py FOLDER VALUES`; then `feast -c FOLDER serve` answers.

VALUES is a Parquet file with `tailnum`, `event_time` and a column per feature, a row per entity.
"""

import sys
from datetime import timedelta
from pathlib import Path

import pandas as pd
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Float64

STORE = """project: benchmark
provider: local
registry: {path: registry.db, cache_ttl_seconds: 3600}
online_store: {type: sqlite, path: online.db}
entity_key_serialization_version: 3
"""


def main(folder: str, values: str) -> None:
    """Declare one view of all features and write its values."""
    (Path(folder) / "feature_store.yaml").write_text(STORE, encoding="utf-8")
    rows = pd.read_parquet(values)
    names = [name for name in rows.columns if name not in ("tailnum", "event_time")]
    tail = Entity(name="tailnum", join_keys=["tailnum"], value_type=ValueType.STRING)
    view = FeatureView(
        name="tail",
        entities=[tail],
        ttl=timedelta(0),
        schema=[Field(name=name, dtype=Float64) for name in names],
        source=FileSource(path=values, timestamp_field="event_time"),
    )
    store = FeatureStore(repo_path=folder)
    store.apply([tail, view, FeatureService(name="tail", features=[view])])
    store.write_to_online_store("tail", rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
