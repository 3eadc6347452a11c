"""Scorings: many rows, or past predictions, scored by one bundle in a process of their own."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any

import pyarrow.parquet as pq
from google.protobuf.json_format import ParseDict

from chassis.aggregate import Repository
from chassis.artifacts import ArtifactStore
from chassis.errors import NotFound, RuleViolated
from chassis.events import EventLog
from chassis.ids import check_request_id, request_id_from
from chassis.jobs import run_job
from chassis.journal import Journal
from chassis.settings import ClusterSettings
from lineal.api.serving.v1.events_pb2 import ScoringCompleted
from lineal.api.serving.v1.scoring_pb2 import PastPredictions, Scoring, ScoringResult, ScoringState, SnapshotRows
from services.serving import scoring as decisions
from services.serving.loader import Loader
from services.serving.signatures import TYPES, Signatures
from services.serving.sources import Sources
from tabular.parquet import ipc_pieces

_JOB = "services.serving.batch"
_CLUSTER = {name for name in ClusterSettings.model_fields if name.startswith("dask_")}
# So many times at most the log is told how far a scoring is.
_TOLD = 20
Report = tuple[str, int, int]


class ScoringUnknown(NotFound):
    """There is no scoring of that id."""


class ResultMissing(RuleViolated):
    """A scoring has no result, or not yet."""


class Scorings:
    """The application of scorings."""

    def __init__(
        self,
        log: EventLog,
        artifacts: ArtifactStore,
        settings: ClusterSettings,
        *,
        monitor: str,
        trusted: Sequence[str],
    ) -> None:
        """Take monitor's address and the ids of trusted signing keys."""
        self._log = log
        self._artifacts = artifacts
        self._settings = settings
        self._monitor = monitor
        self._trusted = trusted
        self._sources = Sources(log, artifacts)
        self._scorings = Repository(log, "scoring", decisions.decider)
        # One takes all the workers there are, so others wait.
        self._turn = asyncio.Semaphore(1)

    async def request(
        self, *, request_id: str, bundle_digest: str, source: SnapshotRows | PastPredictions | None
    ) -> tuple[str, int]:
        """Ask for a scoring; return its id and the log position. Raises SourceUnknown, SourceUnfit, NothingToScore."""
        # The command's id is the scoring's, so that a repeated command names the same scoring.
        scoring_id = check_request_id(request_id)
        plan = await self._sources.plan(bundle_digest, source)
        outcome = await self._scorings.execute(
            scoring_id,
            request_id=request_id,
            decide=lambda state: decisions.request(state, scoring_id=scoring_id, plan=plan),
        )
        return scoring_id, outcome.position

    async def scoring(self, scoring_id: str) -> Scoring:
        """Return a scoring. Raises ScoringUnknown."""
        found = (await self._scorings.load(scoring_id)).state if scoring_id else Scoring()
        if not found.scoring_id:
            raise ScoringUnknown(f"there is no scoring {scoring_id[:80]!r}; `lineal score` asks for one")
        return found

    async def pieces(self, scoring_id: str) -> AsyncIterator[bytes]:
        """Yield the rows of a result as pieces of an Arrow IPC stream. Raises ScoringUnknown, ResultMissing."""
        found = await self.scoring(scoring_id)
        if not found.HasField("result"):
            raise ResultMissing(f"scoring {scoring_id} has no result: {found.failure or found.stage}")
        pieces = await asyncio.to_thread(self._pieces, found.result.result_digest)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield piece

    async def advance(self, *, request_id: str, scoring_id: str, stage: str, done: int = 0, total: int = 0) -> int:
        """Say what is being done; return the log position. Raises ScoringUnknown, ScoringEnded."""
        await self.scoring(scoring_id)
        outcome = await self._scorings.execute(
            scoring_id,
            request_id=request_id,
            decide=lambda state: decisions.advance(state, stage=stage, done=done, total=total),
        )
        return outcome.position

    async def fail(self, *, request_id: str, scoring_id: str, failure: str) -> int:
        """End a scoring without a result; return the log position. Raises ScoringUnknown, ScoringEnded."""
        await self.scoring(scoring_id)
        outcome = await self._scorings.execute(
            scoring_id, request_id=request_id, decide=lambda state: decisions.fail(state, failure=failure)
        )
        await asyncio.to_thread(self._forget, scoring_id)
        return outcome.position

    async def run(self, *, request_id: str, scoring_id: str, training_set_digest: str) -> AsyncIterator[Scoring]:
        """Score what was planned, yielding the scoring whenever it got further, at last with its result.

        Raises ScoringUnknown, ScoringEnded, BundleUnloadable, JobFailed. What is done already is not done again.
        """
        async with self._turn:
            found = await self.scoring(scoring_id)
            if found.state != ScoringState.SCORING_STATE_COMPLETED:
                decisions.still_running(found)
                await self._check(found.plan.bundle_digest)
                read = await self._sources.read(found.plan, training_set_digest)
                async with aclosing(self._scored(found, read)) as results:
                    async for report, result in results:
                        if result is None:
                            yield await self._advanced(found, *report)
                        else:
                            await self._complete(request_id, found, read, result)
            # Also where a death came between the end and this.
            await asyncio.to_thread(self._forget, scoring_id)
        yield await self.scoring(scoring_id)

    async def _scored(
        self, found: Scoring, read: Mapping[str, Any]
    ) -> AsyncGenerator[tuple[Report, Mapping[str, Any] | None], None]:
        """Yield what the job reports, and at last its result."""
        spec = {
            "scoring_id": found.scoring_id,
            "bundle": found.plan.bundle_digest,
            "folder": str(self._settings.service_dir.resolve()),
            "artifacts": self._settings.artifacts,
            "monitor": self._monitor,
            "cluster": json.loads(self._settings.model_dump_json(include=_CLUSTER)),
            **read,
        }
        reports: asyncio.Queue[Report | None] = asyncio.Queue()
        job = asyncio.create_task(run_job(_JOB, spec, lambda *report: reports.put_nowait(report)))
        job.add_done_callback(lambda _: reports.put_nowait(None))
        try:
            while (report := await reports.get()) is not None:
                yield report, None
            yield ("done", 0, 0), await job
        finally:
            # Whoever asked may have hung up: the process ends with this task.
            job.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await job

    async def _advanced(self, found: Scoring, stage: str, done: int, total: int) -> Scoring:
        """Return the scoring as far as it is, and tell the log now and then."""
        told = done * _TOLD // total if total else 0
        # The same step again, after a crash, is not told again.
        request_id = request_id_from(found.scoring_id, f"{stage}/{told}")
        await self.advance(request_id=request_id, scoring_id=found.scoring_id, stage=stage, done=done, total=total)
        current = Scoring(stage=stage, done=done, total=total)
        current.MergeFrom(Scoring(scoring_id=found.scoring_id, plan=found.plan, state=found.state))
        return current

    async def _complete(
        self, request_id: str, found: Scoring, read: Mapping[str, Any], made: Mapping[str, Any]
    ) -> None:
        completed = ScoringCompleted(
            scoring_id=found.scoring_id,
            bundle_digest=found.plan.bundle_digest,
            snapshot_digest=found.plan.snapshot.snapshot_digest,
            training_set_digest=read["source"].get("training_set", ""),
            answering_bundle_digests=read.get("answering", ()),
            result=ParseDict(dict(made), ScoringResult()),
        )
        await self._scorings.execute(
            found.scoring_id, request_id=request_id, decide=lambda state: decisions.complete(state, completed)
        )

    async def _check(self, digest: str) -> None:
        """Raise BundleUnloadable unless a bundle is whole, signed, and survives a trial."""
        signatures = Signatures(self._artifacts, self._trusted)
        async with aclosing(self._log.subscribe(0, TYPES)) as deliveries:
            async for delivery in deliveries:
                for event in delivery.events:
                    signatures.apply(event)
                if delivery.live:
                    break
        await Loader(self._artifacts, signatures).check(digest)

    def _pieces(self, digest: str) -> Iterator[bytes]:
        files = [file["digest"] for file in json.loads(self._artifacts.read(digest))["files"]]
        if not files:
            return iter(())
        # A row group at a time, or a large result would be held at once.
        opened = [pq.ParquetFile(self._artifacts.path(file)) for file in files]
        groups = (each.read_row_group(n) for each in opened for n in range(each.num_row_groups))
        return ipc_pieces(opened[0].schema_arrow, groups)

    def _forget(self, scoring_id: str) -> None:
        Journal(self._settings.service_dir / "scorings", scoring_id, self._settings.artifacts).end()
