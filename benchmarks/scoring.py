"""Scoring a snapshot of a million rows and more, beside CatBoost's own predict on the same rows in one process.

`python -m benchmarks.scoring [--quick]`. Flights of 2013, several times over under other keys, are sent to ingest, and
a snapshot of them is scored by the model with texts of `benchmarks.serving`: from the request for the scoring to its
result, with the start of the workers. Memory is that of the process that scores and of its workers together. CatBoost
reads the same Parquet files, file by file, and predicts on all cores: without a manifest, a journal or a result file.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil
import pyarrow as pa

from benchmarks.report import Report
from benchmarks.scoring_peer import ID, files_of
from benchmarks.servers import serving
from benchmarks.serving_flights import NUMBERS, TEXTS
from benchmarks.serving_suite import needed, release
from chassis.artifacts import LocalArtifactStore
from chassis.ids import new_request_id
from examples.flights import source
from lineal.api.ingest.v1 import ingest_service_pb2 as ingest_api
from lineal.api.ingest.v1.dataset_pb2 import Dataset, Field, FieldType
from lineal.api.registry.v1 import registry_service_pb2 as registry_api
from lineal.api.serving.v1 import scoring_service_pb2 as api
from lineal.api.serving.v1.scoring_pb2 import Scoring, SnapshotRows
from lineal.client import Client, connect
from lineal.profile import Profile

_DATASET = "flights"
_KIND = "texts"
_SECONDS = 3_600.0
_SAMPLE_SECONDS = 0.1
_JOB = "services.serving.batch"
_SAME = 1e-12


@dataclass(frozen=True)
class Size:
    """How much is scored: copies of the year's 336,776 flights; and rows to fit on."""

    copies: int
    rows: int


FULL = Size(copies=4, rows=100_000)
QUICK = Size(copies=1, rows=20_000)


def main() -> int:
    """Measure, print, and return 1 when a goal is missed."""
    size = QUICK if "--quick" in sys.argv[1:] else FULL
    report = Report()
    with tempfile.TemporaryDirectory(prefix="lineal-bench-", ignore_cleanup_errors=True) as name:
        folder, models = Path(name), Path(name) / "models"
        subprocess.run([sys.executable, "-m", "benchmarks.serving_flights", str(models), str(size.rows)], check=True)
        model = models / _KIND / "model.cbm"
        with (
            needed(folder / "suite", sorted(psutil.Process().cpu_affinity()), "ingest") as settings,
            serving("services.serving", folder / "serving", **settings) as server,
        ):
            profile = Path(settings["LINEAL_PROFILE"])
            release(profile, _KIND, model)
            with connect(Profile({**Profile.load(profile).addresses, "serving": server.address}), _SECONDS) as client:
                snapshot = _sent(client, size.copies)
                _measure(
                    report,
                    client,
                    folder,
                    LocalArtifactStore(Path(settings["LINEAL_ARTIFACTS_URL"])),
                    snapshot,
                    model,
                    server.pid,
                )
    return report.code


def _sent(client: Client, copies: int) -> str:
    """Send the rows; return the digest of their snapshot."""
    kinds = dict.fromkeys(TEXTS, FieldType.FIELD_TYPE_STRING) | dict.fromkeys(NUMBERS, FieldType.FIELD_TYPE_FLOAT64)
    fields = [Field(name=name, type=kind, nullable=True) for name, kind in kinds.items()]
    declared = Dataset(name=_DATASET, row_key=[ID], fields=[Field(name=ID, type=FieldType.FIELD_TYPE_STRING), *fields])
    request = ingest_api.RegisterDatasetRequest(request_id=new_request_id(), dataset=declared)
    client.services.ingest.call("RegisterDataset", request)
    year = source.load().flights[[ID, *kinds]].astype(dict.fromkeys(NUMBERS, "float64"))
    for copy in range(copies):
        rows = pa.Table.from_pandas(year.assign(**{ID: year[ID] + f"/{copy}"}), preserve_index=False)
        client.ingest(_DATASET, rows, batch_id=f"copy-{copy}")
    taken = ingest_api.CreateSnapshotRequest(request_id=new_request_id(), dataset=_DATASET)
    return str(client.services.ingest.call("CreateSnapshot", taken, timeout=_SECONDS).snapshot.digest)


def _measure(
    report: Report,
    client: Client,
    folder: Path,
    artifacts: LocalArtifactStore,
    snapshot: str,
    model: Path,
    server: int,
) -> None:
    champion = client.services.registry.call("GetEndpoint", registry_api.GetEndpointRequest(name=_KIND)).arms[0]
    rows = SnapshotRows(dataset=_DATASET, snapshot_digest=snapshot)
    begin = time.perf_counter()
    with _peak(server) as peak:
        asked = api.RequestScoringRequest(
            request_id=new_request_id(), bundle_digest=champion.bundle_digest, snapshot=rows
        )
        scoring_id = client.services.scoring.call("RequestScoring", asked).scoring_id
        run = api.RunScoringRequest(request_id=new_request_id(), scoring_id=scoring_id)
        scoring: Scoring = list(client.services.scoring.stream("RunScoring", run, _SECONDS))[-1].scoring
    seconds = time.perf_counter() - begin
    report.note("rows scored", scoring.result.rows, "")
    report.note("Lineal", scoring.result.rows / seconds, "rows/s")
    report.note("Lineal, the process that scores and its workers, at most", peak[0], "MiB")
    found = folder / "catboost.parquet"
    command = [sys.executable, "-m", "benchmarks.scoring_peer", str(model), str(found)]
    files = [str(artifacts.path(digest)) for digest in files_of(artifacts, snapshot)]
    own = json.loads(subprocess.run([*command, *files], check=True, stdout=subprocess.PIPE, text=True).stdout)
    report.note("CatBoost's predict, one process", own["rows"] / own["seconds"], "rows/s")
    report.note("CatBoost's predict, one process, at most", own["mebibytes"], "MiB")
    report.note("Lineal, of CatBoost's rows/s", own["seconds"] / seconds, "")
    made = pd.concat(
        pd.read_parquet(artifacts.path(digest), columns=[ID, "raw_score"])
        for digest in files_of(artifacts, scoring.result.result_digest)
    ).merge(pd.read_parquet(found), on=ID, how="outer")
    different = ~((made["raw_score"] - made["own"]).abs() <= _SAME)
    report.at_most("rows without CatBoost's own score", int(different.sum()), "", 0)


@contextmanager
def _peak(server: int) -> Iterator[list[float]]:
    """Watch the memory of serving's job within the block; the list holds the highest value seen, in MiB."""
    peak, ended = [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(_SAMPLE_SECONDS):
            peak[0] = max(peak[0], _resident(server) / 2**20)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def _resident(server: int) -> int:
    total = 0
    for job in psutil.Process(server).children():
        try:
            if _JOB in job.cmdline():
                total += sum(each.memory_info().rss for each in (job, *job.children(recursive=True)))
        except psutil.NoSuchProcess:
            continue
    return total


if __name__ == "__main__":
    sys.exit(main())
