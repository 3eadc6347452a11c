"""Score many rows at once: those of a snapshot, or past predictions under another bundle."""

import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lineal.api.ingest.v1 import ingest_service_pb2 as ingest_api
from lineal.api.registry.v1 import registry_service_pb2 as registry_api
from lineal.api.registry.v1.endpoint_pb2 import ArmRole
from lineal.api.serving.v1 import scoring_service_pb2 as api
from lineal.api.serving.v1.scoring_pb2 import PastPredictions, Scoring, ScoringState, SnapshotRows
from lineal.calls import Services, new_request_id
from lineal.errors import CallFailed, LinealError
from lineal.frames import from_pieces

_LEAST_CHARACTERS = 8
# A snapshot reads and profiles every row.
_SNAPSHOT_SECONDS = 600.0
_READ_SECONDS = 600.0
# Between two looks: a scoring may outlive the replica that works on it.
_WATCH_SECONDS = 0.3


class Scorings:
    """`client.scorings`. All methods raise CallFailed."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def score(
        self,
        name: str,
        dataset: str,
        *,
        snapshot: str = "",
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> str:
        """Ask for the rows of a dataset to be scored; return the scoring's id.

        `name` is an endpoint, whose champion scores, or the digest of a bundle or its beginning. Without a snapshot's
        digest, or its beginning, a new one is taken. Of a bundle with a feature set only rows with cut-offs from
        `start` on and before `end` are scored. Raises LinealError when a beginning fits nothing or several.
        """
        rows = SnapshotRows(dataset=dataset, snapshot_digest=self._snapshot(dataset, snapshot))
        _between(rows, start, end)
        return self._request(api.RequestScoringRequest(bundle_digest=self._champion_or(name), snapshot=rows))

    def rescore(self, endpoint: str, bundle: str, *, start: datetime | None = None, end: datetime | None = None) -> str:
        """Ask for an endpoint's sealed predictions to be scored anew by another bundle, as served; return the id.

        Only those with event times from `start` on and before `end`. Raises LinealError as `score` does.
        """
        past = PastPredictions(endpoint=endpoint)
        _between(past, start, end)
        return self._request(api.RequestScoringRequest(bundle_digest=self._bundle(bundle), predictions=past))

    def get(self, scoring_id: str) -> Scoring:
        """Return a scoring."""
        found: Scoring = self._services.scoring.call("GetScoring", api.GetScoringRequest(scoring_id=scoring_id)).scoring
        return found

    def watch(self, scoring_id: str) -> Iterator[Scoring]:
        """Yield a scoring whenever it got further, until it has ended."""
        last = Scoring()
        while True:
            found = self.get(scoring_id)
            if found != last:
                last = found
                yield found
            if found.state != ScoringState.SCORING_STATE_RUNNING:
                return
            time.sleep(_WATCH_SECONDS)

    def rows(self, scoring_id: str) -> pd.DataFrame:
        """Return the rows of a result; a frame without columns where no row was scored."""
        pieces = list(self._pieces(scoring_id))
        return from_pieces(pieces) if pieces else pd.DataFrame()

    def write(self, scoring_id: str, path: Path) -> None:
        """Write the rows of a result to a Parquet file, which is there only once it is whole.

        Raises LinealError where no row was scored, or the file cannot be written.
        """
        try:
            with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
                received, made = Path(folder) / "received", Path(folder) / path.name
                with received.open("wb") as file:
                    for piece in self._pieces(scoring_id):
                        file.write(piece)
                if not received.stat().st_size:
                    raise LinealError(f"scoring {scoring_id} has no rows, so {path} was not written")
                # A batch at a time, since there may be millions of rows.
                with (
                    pa.ipc.open_stream(received) as stream,
                    pq.ParquetWriter(made, stream.schema, compression="zstd") as sink,
                ):
                    for batch in stream:
                        sink.write_batch(batch)
                made.replace(path)
        except OSError as error:
            raise LinealError(f"{path} cannot be written: {error.strerror or error}") from error

    def _request(self, request: api.RequestScoringRequest) -> str:
        request.request_id = new_request_id()
        return str(self._services.scoring.call("RequestScoring", request).scoring_id)

    def _pieces(self, scoring_id: str) -> Iterator[bytes]:
        request = api.ReadScoringRequest(scoring_id=scoring_id)
        for piece in self._services.scoring.stream("ReadScoring", request, _READ_SECONDS):
            yield piece.arrow

    def _champion_or(self, name: str) -> str:
        """Return the champion of an endpoint, or the bundle of that name."""
        try:
            arms = self._services.registry.call("GetEndpoint", registry_api.GetEndpointRequest(name=name)).arms
        except CallFailed as error:
            if error.code != grpc.StatusCode.NOT_FOUND:
                raise
            return self._bundle(name, "endpoint or bundle")
        champions: list[str] = [arm.bundle_digest for arm in arms if arm.role == ArmRole.ARM_ROLE_CHAMPION]
        if not champions:
            raise LinealError(f"endpoint {name!r} has no champion; give the digest of a bundle")
        return champions[0]

    def _bundle(self, name: str, what: str = "bundle") -> str:
        found = self._services.registry.call("ListBundles", registry_api.ListBundlesRequest(page_size=1000)).bundles
        return _only([bundle.digest for bundle in found], name, what, "`lineal bundles` lists bundles")

    def _snapshot(self, dataset: str, name: str) -> str:
        ingest = self._services.ingest
        if not name:
            request = ingest_api.CreateSnapshotRequest(request_id=new_request_id(), dataset=dataset)
            return str(ingest.call("CreateSnapshot", request, timeout=_SNAPSHOT_SECONDS).snapshot.digest)
        found = ingest.call("ListSnapshots", ingest_api.ListSnapshotsRequest(dataset=dataset, page_size=1000)).snapshots
        digests = list(dict.fromkeys(snapshot.digest for snapshot in found))
        return _only(digests, name, f"snapshot of {dataset!r}", "leave it out to take a new one")


def _only(digests: list[str], name: str, what: str, remedy: str) -> str:
    if len(name) < _LEAST_CHARACTERS:
        raise LinealError(
            f"{name!r} names no {what}: give {_LEAST_CHARACTERS} characters of a digest at least; {remedy}"
        )
    fitting = [digest for digest in digests if digest.startswith(name)]
    if len(fitting) != 1:
        count = f"{len(fitting)} fit" if fitting else "none fits"
        raise LinealError(f"{name!r} names no {what}: {count}; {remedy}")
    return fitting[0]


def _between(source: Any, start: datetime | None, end: datetime | None) -> None:
    if start is not None:
        source.start_time.FromDatetime(start)
    if end is not None:
        source.end_time.FromDatetime(end)
