"""Run the assembly of a training set on Dask: the one module that imports it.

The graph has no shuffle: a task per group of files loads columns, one makes the spine, and a task per view and bucket
of keys returns feature columns by spine row. Rows reach the workers from the artifact store, never from this process.
"""

import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from dask import distributed

from chassis.artifacts import artifact_store
from lineal.api.features.v1.events_pb2 import FeatureSetRegistered
from lineal.api.features.v1.feature_view_pb2 import FeatureView
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from services.features import assembly
from services.features.assembly import Files, Range
from services.features.settings import Settings
from tabular.parquet import to_parquet

_FILES_PER_LOAD = 400
_ROWS_PER_BUCKET = 2_000_000
_ROWS_PER_FILE = 1_000_000

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Source:
    """One snapshot: its declaration as JSON, and its files with their rows."""

    declaration: dict[str, Any]
    files: list[tuple[str, int]]

    @property
    def rows(self) -> int:
        """Count the rows."""
        return sum(rows for _, rows in self.files)


@dataclass(frozen=True)
class Plan:
    """What to build; messages are bytes, so that any worker can take them."""

    feature_set: bytes
    views: dict[str, bytes]
    sources: dict[str, Source]
    span: Range


@dataclass(frozen=True)
class Built:
    """What was built: files with their rows, and what the manifest says of the label."""

    files: list[tuple[str, int]]
    label_mean: float


class Compute:
    """A Dask cluster, started on first use and kept warm."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._cluster: Any = None
        self._client: Any = None

    def build(self, plan: Plan, progress: Progress) -> Built:
        """Build a training set; blocks. `progress` hears of the stage, the steps done and the steps in all."""
        client = self._connected(progress)
        registered = FeatureSetRegistered.FromString(plan.feature_set)
        feature_set = registered.feature_set
        columns = _columns(registered, plan)
        loaded = {name: self._load(client, source, columns[name]) for name, source in plan.sources.items()}
        spine = client.submit(
            _spine, plan, loaded[feature_set.spine.dataset], loaded[feature_set.label.dataset], pure=False
        )
        parts: list[Any] = []
        for n, wanted in enumerate(feature_set.view_features):
            dataset = FeatureView.FromString(plan.views[wanted.view]).dataset
            buckets = 1 + plan.sources[dataset].rows // _ROWS_PER_BUCKET
            parts += [
                client.submit(_view, plan, n, spine, loaded[dataset], bucket, buckets, pure=False)
                for bucket in range(buckets)
            ]
        stages = {spine.key: "rows and labels"} | {part.key: "features" for part in parts}
        last = client.submit(_finish, plan, spine, parts, self._settings.artifacts, _cache(), pure=False)
        stages[last.key] = "training set"
        done = 0
        progress("reading snapshots", done, len(stages))
        for future in distributed.as_completed([spine, *parts, last], loop=client.loop):  # type: ignore[no-untyped-call]
            future.result()
            done += 1
            progress(stages[future.key], done, len(stages))
        built: Built = last.result()
        return built

    def close(self) -> None:
        """Stop the workers."""
        with self._lock:
            if self._client is not None:
                self._client.close()
            if self._cluster is not None:
                self._cluster.close()
            self._client = self._cluster = None

    def _load(self, client: Any, source: Source, columns: list[str]) -> Any:
        digests = [digest for digest, _ in source.files]
        groups = [digests[start : start + _FILES_PER_LOAD] for start in range(0, len(digests), _FILES_PER_LOAD)] or [[]]
        files = [Files(self._settings.artifacts, _cache(), source.declaration, group, columns) for group in groups]
        parts = [client.submit(assembly.load, group, pure=False) for group in files]
        return client.submit(assembly.join, parts, pure=False) if len(parts) > 1 else parts[0]

    def _connected(self, progress: Progress) -> Any:
        with self._lock:
            if self._client is not None and self._client.status == "running":
                return self._client
            progress("starting workers", 0, 0)
            address = self._settings.dask_scheduler
            if address is None:
                # Loopback, without the dashboard: whoever reaches a scheduler can run code in its workers. Its health
                # page takes any free port, or two clusters on a machine would both want 8787.
                self._cluster = distributed.LocalCluster(  # type: ignore[no-untyped-call]
                    n_workers=self._settings.dask_workers,
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",
                    dashboard_address="127.0.0.1:0",
                    scheduler_kwargs={"dashboard": False},
                    memory_limit=f"{self._settings.dask_worker_mebibytes}MiB",
                    local_directory=str(self._settings.service_dir / "dask"),
                )
            where = self._cluster if address is None else address
            self._client = distributed.Client(where, set_as_default=False)  # type: ignore[no-untyped-call]
            return self._client


def _cache() -> str:
    # Only object stores need it; on a remote worker the folder is that machine's.
    return str(Path(tempfile.gettempdir()) / "lineal-artifact-cache")


def _columns(registered: FeatureSetRegistered, plan: Plan) -> dict[str, list[str]]:
    feature_set = registered.feature_set
    wanted: dict[str, list[str]] = {name: [] for name in plan.sources}
    spine, label = feature_set.spine.dataset, feature_set.label
    wanted[spine] += [*assembly.dataset_of(plan.sources[spine].declaration).row_key, *registered.entity_columns]
    wanted[spine] += [*(request.column for request in feature_set.request_features), *label.key]
    wanted[label.dataset] += [*label.key, label.column]
    for used in feature_set.view_features:
        view = FeatureView.FromString(plan.views[used.view])
        wanted[view.dataset] += [*view.entity_keys, *assembly.columns_read(used, view)]
    for name, source in plan.sources.items():
        declared = assembly.dataset_of(source.declaration)
        wanted[name] += [column for column in (declared.event_time, declared.available_time) if column]
    return {name: list(dict.fromkeys(columns)) for name, columns in wanted.items()}


def _spine(plan: Plan, left: pa.Table, right: pa.Table) -> pa.Table:
    feature_set = FeatureSetRegistered.FromString(plan.feature_set).feature_set
    spine, label = (_dataset(plan, name) for name in (feature_set.spine.dataset, feature_set.label.dataset))
    return assembly.spine_of(feature_set, spine, label, plan.span, left, right)


def _view(plan: Plan, n: int, spine: pa.Table, table: pa.Table, bucket: int, buckets: int) -> Any:
    feature_set = FeatureSetRegistered.FromString(plan.feature_set).feature_set
    view = FeatureView.FromString(plan.views[feature_set.view_features[n].view])
    dataset = _dataset(plan, view.dataset)
    return assembly.view_features(feature_set, n, view, dataset, spine, table, bucket, buckets)


def _finish(plan: Plan, spine: pa.Table, parts: Sequence[Any], artifacts: str, cache: str) -> Built:
    registered = FeatureSetRegistered.FromString(plan.feature_set)
    table = assembly.finished(
        spine,
        _dataset(plan, registered.feature_set.spine.dataset).row_key,
        registered.entity_columns,
        [(column.name, column.type) for column in registered.columns],
        parts,
    )
    store = artifact_store(artifacts, Path(cache))
    slices = [table.slice(start, _ROWS_PER_FILE) for start in range(0, max(table.num_rows, 1), _ROWS_PER_FILE)]
    files = [(store.put(to_parquet(part)), part.num_rows) for part in slices]
    return Built(files, assembly.label_mean(table))


def _dataset(plan: Plan, name: str) -> Dataset:
    return assembly.dataset_of(plan.sources[name].declaration)
