"""Run the steps of a training set on a Dask cluster.

There is no shuffle and no result in a worker's memory: a step reads files and leaves a file, so a lost worker costs the
steps it was at and nothing else. Rows reach the workers from the artifact store, never from this process.
"""

import math
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from chassis.artifacts import artifact_store
from chassis.cluster import Cluster, Step, Stop
from chassis.errors import Unavailable
from chassis.journal import Journal
from lineal.api.features.v1.events_pb2 import FeatureSetRegistered
from lineal.api.features.v1.feature_view_pb2 import FeatureView
from services.features import assembly, steps
from services.features.assembly import Files
from services.features.scratch import Scratch
from services.features.settings import Settings
from services.features.steps import Built, Cut, Held, Place, Plan, Source

# How work is cut, by rows alone: the bytes of a training set must not depend on where it is built.
_ROWS_PER_LOAD = 1_000_000
_ROWS_PER_SPINE_BUCKET = 1_500_000
_ROWS_PER_BUCKET = 2_000_000
_ROWS_PER_SLICE = 250_000
# What the names of steps begin with that cut rows into buckets.
_ROWS = "rows"

Progress = Callable[[str, int, int], None]


class FilesCollected(Unavailable):
    """Files of a training set were collected before it was there to name them; a second call makes them again."""


class Compute:
    """Builds training sets on a cluster."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._building: dict[str, threading.Lock] = {}
        self.cluster = Cluster(settings, settings.service_dir / "dask")

    def build(self, plan: Plan, progress: Progress, stop: Stop | None = None) -> Built:
        """Build a training set; blocks. `progress` hears of the stage, the steps done and the steps in all.

        Raises WorkCancelled. What was done before a cancellation or a crash is not done again.
        """
        name = steps.name_of(plan)
        with self._lock:
            turn = self._building.setdefault(name, threading.Lock())
        with turn:
            self.cluster.connect(lambda: progress("starting workers", 0, 0))
            artifacts = self._settings.artifacts
            journal = Journal(self._settings.service_dir / "builds", name, artifacts)
            place = Place(artifacts, journal.scratch, _cache())
            built = _Build(self.cluster, plan, place, journal, progress, stop or Stop()).run()
            journal.end()
            return built


class _Build:
    """One build under way."""

    def __init__(
        self, cluster: Cluster, plan: Plan, place: Place, journal: Journal, progress: Progress, stop: Stop
    ) -> None:
        self._cluster = cluster
        self._plan = plan
        self._place = place
        self._journal = journal
        self._progress = progress
        self._stop = stop
        self._artifacts = artifact_store(place.artifacts, Path(place.cache))
        self._scratch = Scratch(place.scratch, Path(place.cache))
        self._registered = FeatureSetRegistered.FromString(plan.feature_set)
        self._feature_set = self._registered.feature_set
        self._corrected: dict[str, tuple[str, ...]] = {}
        self._results: dict[str, Any] = {}
        self._steps = 0

    def run(self) -> Built:
        name, label = self._feature_set.spine.dataset, self._feature_set.label
        spine, row_key = self._plan.sources[name], self._row_key(name)
        # Rows of one row key must meet, and so must a row and its label.
        labelled = self._plan.span.labelled
        together = not labelled or set(label.key) <= set(row_key)
        buckets = 1 + spine.rows // _ROWS_PER_SPINE_BUCKET
        of_view = [self._buckets(used.view) for used in self._feature_set.view_features]
        used = dict.fromkeys(self._view(used.view).dataset for used in self._feature_set.view_features)
        self._steps = buckets + len(used) + sum(of_view) + 1 + spine.rows // _ROWS_PER_SLICE
        self._progress("reading snapshots", 0, self._steps)
        if labelled and set(label.key) != set(self._row_key(label.dataset)):
            # The newest row of a label key need not be the newest version of its row.
            used.pop(label.dataset, None)
            self._note(
                self._stage(
                    "corrections", self._corrected_names([label.dataset]), lambda: self._corrections([label.dataset])
                )
            )
        keys = list(label.key) if labelled and together else row_key

        def entering() -> dict[str, Step]:
            columns = columns_entering(self._registered, self._plan)
            corrections = self._corrections(used)
            left = right = self._held(name, keys, buckets, columns[name])
            if labelled:
                of_label = columns[label.dataset]
                right = self._held(label.dataset, list(label.key), buckets if together else 1, of_label)
            spines = {f"spine {n}": (steps.spine, self._plan, left, right, n, of_view) for n in range(buckets)}
            return spines | corrections

        corrected = self._corrected_names(used)
        rows = self._stage("rows and labels", [*(f"spine {n}" for n in range(buckets)), *corrected], entering)
        self._note({each: rows.pop(each) for each in corrected})
        days = [days for _, days in rows.values()]
        cut = Cut([digest for digest, _ in rows.values()], steps.slices(days, _ROWS_PER_SLICE))

        def computed() -> dict[str, Step]:
            wanted: dict[str, Step] = {}
            for n, taken in enumerate(self._feature_set.view_features):
                view = self._view(taken.view)
                held = self._held(view.dataset, list(view.entity_keys), of_view[n], self._loaded(view))
                for bucket in range(of_view[n]):
                    wanted[f"view {n} {bucket}"] = (steps.features, self._plan, n, held, cut, bucket, of_view[n])
            return wanted

        names = [[f"view {n} {bucket}" for bucket in range(count)] for n, count in enumerate(of_view)]
        found = self._stage("features", [each for of_one in names for each in of_one], computed)
        views = [[found[each] for each in of_one] for of_one in names]
        files = {f"slice {n}": (steps.finish, self._plan, n, cut, views) for n in range(len(cut.slices))}
        finished = self._stage("training set", list(files), lambda: files)
        if not all(self._there(result) for result in finished.values()):
            raise FilesCollected(
                "files of the training set were collected while it was built; call again to have them made"
            )
        built = [(digest, count) for made, _ in finished.values() for digest, count in made]
        count = sum(count for _, count in built)
        return Built(built, math.fsum(labels for _, labels in finished.values()) / count if count else 0.0)

    def _view(self, name: str) -> FeatureView:
        return FeatureView.FromString(self._plan.views[name])

    def _row_key(self, dataset: str) -> list[str]:
        return list(assembly.dataset_of(self._plan.sources[dataset].declaration).row_key)

    def _buckets(self, view: str) -> int:
        dataset = self._view(view).dataset
        most = max(self._plan.sources[dataset].rows, self._plan.sources[self._feature_set.spine.dataset].rows)
        return 1 + most // _ROWS_PER_BUCKET

    def _loaded(self, view: FeatureView) -> list[str]:
        """Return the columns that all views of these rows by these keys take, so that they are cut once for all."""
        columns: list[str] = []
        for taken in self._feature_set.view_features:
            other = self._view(taken.view)
            if (other.dataset, other.entity_keys) == (view.dataset, view.entity_keys):
                declared = assembly.dataset_of(self._plan.sources[other.dataset].declaration)
                columns += assembly.columns_loaded(taken, other, declared)
        return list(dict.fromkeys(columns))

    def _held(self, name: str, keys: list[str], buckets: int, columns: list[str], *, numbered: bool = False) -> Held:
        """Cut columns of rows into buckets of keys where there are several; with the rows' numbers where wanted."""
        source = self._plan.sources[name]
        corrected = self._corrected.get(name, ())
        if buckets == 1:
            return Held(self._files(name, [digest for digest, _ in source.files], columns), [], corrected)
        first, wanted = 0, dict[str, Step]()
        for n, (group, rows) in enumerate(_groups(source)):
            held = Held(self._files(name, group, columns), [], corrected, first)
            wanted[f"{_ROWS} {n} of {name} {keys} {columns} {numbered}"] = (
                steps.partition,
                held,
                keys,
                buckets,
                numbered,
            )
            first += rows
        parts = self._stage("reading snapshots", list(wanted), lambda: wanted)
        return Held(self._files(name, [], columns), list(parts.values()))

    def _files(self, name: str, digests: list[str], columns: list[str]) -> Files:
        declaration = self._plan.sources[name].declaration
        return Files(self._place.artifacts, self._place.cache, declaration, digests, columns)

    def _corrections(self, names: Iterable[str]) -> dict[str, Step]:
        """Return the steps that find the corrected rows of datasets."""
        wanted: dict[str, Step] = {}
        for name in names:
            declared, row_key = assembly.dataset_of(self._plan.sources[name].declaration), self._row_key(name)
            times = [column for column in (declared.event_time, declared.available_time) if column]
            steps_of = self._corrected_names([name])
            held = self._held(name, row_key, len(steps_of), list(dict.fromkeys([*row_key, *times])), numbered=True)
            for n, step in enumerate(steps_of):
                wanted[step] = (steps.corrected, self._plan, name, held, n)
        return wanted

    def _corrected_names(self, names: Iterable[str]) -> list[str]:
        counts = {name: 1 + self._plan.sources[name].rows // _ROWS_PER_BUCKET for name in names}
        return [f"corrected {name} {n}" for name, count in counts.items() for n in range(count)]

    def _note(self, corrections: Mapping[str, tuple[str, int]]) -> None:
        for step, (digest, rows) in corrections.items():
            if rows:
                _, name, _ = step.split(" ")
                self._corrected[name] = (*self._corrected.get(name, ()), digest)

    def _stage(self, stage: str, names: Sequence[str], make: Callable[[], Mapping[str, Step]]) -> dict[str, Any]:
        """Run steps that need nothing of each other; return their results by name.

        Where there are all of an earlier call, `make` is not called, and what the steps would read is not made.
        """
        for name in set(names) - self._results.keys():
            # What it names is looked at once, since that takes reading it.
            if (found := self._journal.result(name, self._there)) is not None:
                self._results[name] = found
        missing = [name for name in names if name not in self._results]
        wanted = make() if missing else {}
        self._steps = max(self._steps, self._journal.recorded + len(missing))
        todo = {name: (wanted[name][0], self._place, *wanted[name][1:]) for name in missing}
        for name, result in self._cluster.results(todo, self._stop):
            self._results[name] = result
            self._journal.record(name, result)
            self._progress(stage, self._journal.recorded, self._steps)
        results = {name: self._results[name] for name in names}
        if not any(name.startswith(_ROWS) for name in names):
            self._forget_rows()
        return results

    def _forget_rows(self) -> None:
        """Remove rows that were cut for a stage that is done, so that no memory and no disk is spent on them."""
        for name in [name for name in self._results if name.startswith(_ROWS)]:
            self._scratch.remove(self._results.pop(name))

    def _there(self, result: Any) -> bool:
        if isinstance(result, str):
            return self._scratch.whole(result)
        first = result[0]
        if isinstance(first, str):
            return not first or self._scratch.whole(first)
        # Files of the training set itself: it is about to name them, so they must not be collected meanwhile.
        return all(self._artifacts.touch(digest) for digest, _ in first)


def _groups(source: Source) -> Iterator[tuple[list[str], int]]:
    """Yield files that are read together, with their rows."""
    group: list[str] = []
    held = 0
    for digest, rows in source.files:
        group.append(digest)
        held += rows
        if held >= _ROWS_PER_LOAD:
            yield group, held
            group, held = [], 0
    if group:
        yield group, held


def _cache() -> str:
    # Only object stores need it; on a remote worker the folder is that machine's.
    return str(Path(tempfile.gettempdir()) / "lineal-artifact-cache")


def columns_entering(registered: FeatureSetRegistered, plan: Plan) -> dict[str, list[str]]:
    """Return the columns of the spine's and the label's dataset that rows and labels are made of."""
    spine, label = registered.feature_set.spine.dataset, registered.feature_set.label
    wanted = {spine: steps.columns_kept(registered, plan)}
    if plan.span.labelled:
        wanted[spine] += label.key
        wanted.setdefault(label.dataset, []).extend([*label.key, label.column])
    for name, columns in wanted.items():
        declared = assembly.dataset_of(plan.sources[name].declaration)
        columns += [column for column in (declared.event_time, declared.available_time) if column]
    return {name: list(dict.fromkeys(columns)) for name, columns in wanted.items()}
