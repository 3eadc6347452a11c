"""Settle quarantined rows: fix, release, discard."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from chassis.aggregate import Repository
from chassis.artifacts import ArtifactStore
from chassis.errors import FieldViolation, InvalidArgument, NotFound, RuleViolated
from chassis.events import EventLog
from chassis.ids import check_request_id
from chassis.projection import ProjectionRunner
from chassis.retirement import refuse_retired
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from lineal.api.ingest.v1.events_pb2 import (
    BatchAccepted,
    QuarantinedRowsDiscarded,
    QuarantinedRowsFixed,
    QuarantinedRowsReleased,
)
from services.ingest import batch as batches
from services.ingest import projections, quarantine
from services.ingest.dataset import DatasetState
from services.ingest.pseudonyms import Pseudonyms, identifiers
from services.ingest.quarantine import QuarantineState, Settlement
from services.ingest.surroundings import Surroundings, Surveyor
from services.ingest.validation import REASONS, ROW_NUMBER, Validator, kinds_of, reasons_of
from services.ingest.vault import BatchName, Vault, take_off
from tabular.parquet import conform, to_parquet
from tabular.schema import SchemaMismatch, did_you_mean, normalise, protected, sent_schema

_MOST_SHOWN = 20


class QuarantinedRowUnknown(NotFound):
    """A batch has no quarantined row of that number."""


class FixRefused(InvalidArgument):
    """Rows are not valid with the values that they were to get."""


class ReleaseRefused(RuleViolated):
    """The type of the rows does not allow them to be used as they are."""


class Settling:
    """The use cases of `QuarantineService`; `load` returns a dataset's newest state or raises when there is none."""

    def __init__(
        self,
        log: EventLog,
        artifacts: ArtifactStore,
        tables: ProjectionRunner,
        load: Callable[[str], Awaitable[DatasetState]],
        surveyor: Surveyor,
        pseudonyms: Pseudonyms,
        vault: Vault,
    ) -> None:
        self._log = log
        self._artifacts = artifacts
        self._tables = tables
        self._load = load
        self._surveyor = surveyor
        self._pseudonyms = pseudonyms
        self._vault = vault
        self._quarantine = Repository(log, "quarantine", quarantine.decider)

    async def fix(
        self, *, request_id: str, dataset: str, batch_id: str, rows: Sequence[int], values: bytes, reason: str
    ) -> tuple[BatchAccepted, int]:
        """Replace values of rows and accept them. Raises FixRefused, RowSettled, QuarantinedRowUnknown."""
        quarantine.check(rows, reason, all_allowed=False)
        named = (await self._load(dataset)).dataset
        assert named is not None
        # Without the reference snapshot: a few rows are no population.
        around = Surroundings((await self._surveyor.of(named)).values)

        def made(declared: DatasetState, refused: pa.Table, _: QuarantineState) -> tuple[pa.Table, Settlement]:
            assert declared.dataset is not None
            new = _replaced(declared.dataset, _chosen(refused, rows), batches.read(batch_id, values), len(rows))
            table = self._valid(declared.dataset, new, rows, around)
            return table, QuarantinedRowsFixed(rows=rows, columns=new.given)

        return await self._accept(request_id, dataset, batch_id, reason, made)

    async def release(
        self, *, request_id: str, dataset: str, batch_id: str, rows: Sequence[int], reason: str
    ) -> tuple[BatchAccepted, int]:
        """Accept rows as they are. Raises ReleaseRefused, RowSettled, QuarantinedRowUnknown."""
        quarantine.check(rows, reason, all_allowed=True)

        def made(declared: DatasetState, refused: pa.Table, state: QuarantineState) -> tuple[pa.Table, Settlement]:
            assert declared.dataset is not None
            wanted = rows or quarantine.open_rows(state, dataset, batch_id, refused[ROW_NUMBER].to_pylist())
            chosen = _chosen(refused, wanted)
            _check_releasable(declared.dataset, chosen, wanted)
            return conform(chosen, sent_schema(declared.dataset)), QuarantinedRowsReleased(rows=wanted)

        return await self._accept(request_id, dataset, batch_id, reason, made)

    async def discard(
        self, *, request_id: str, dataset: str, batch_id: str, rows: Sequence[int], reason: str
    ) -> tuple[int, int]:
        """Give rows up; return how many and the log position. Raises RowSettled, QuarantinedRowUnknown."""
        quarantine.check(rows, reason, all_allowed=True)
        _, refused, _ = await self._batch(dataset, batch_id)
        numbers = refused[ROW_NUMBER].to_pylist()
        _chosen(refused, rows)
        outcome = await self._quarantine.execute(
            dataset,
            request_id=request_id,
            decide=lambda state: quarantine.settle(
                state,
                QuarantinedRowsDiscarded(
                    dataset=dataset,
                    batch_id=batch_id,
                    rows=rows or quarantine.open_rows(state, dataset, batch_id, numbers),
                    reason=reason,
                ),
                0,
                None,
            ),
        )
        (event,) = (e for e in outcome.events if isinstance(e, QuarantinedRowsDiscarded))
        return len(event.rows), outcome.position

    async def _accept(
        self,
        request_id: str,
        dataset: str,
        batch_id: str,
        reason: str,
        made: Callable[[DatasetState, pa.Table, QuarantineState], tuple[pa.Table, Settlement]],
    ) -> tuple[BatchAccepted, int]:
        name = quarantine.RESERVED + check_request_id(request_id)
        declared, refused, stored = await self._batch(dataset, batch_id)
        refuse_retired(declared.retired, f"dataset {dataset!r}", "dataset")
        state = (await self._quarantine.load(dataset)).state
        before = state.from_batch(batch_id)

        def prepared() -> tuple[Settlement, BatchAccepted]:
            assert declared.dataset is not None
            sent = BatchName(dataset, batch_id, stored.content_digest)
            table, event = made(declared, self._vault.put_back(declared.dataset, sent, refused), state)
            event.dataset, event.batch_id, event.reason = dataset, batch_id, reason
            # What is wrong with the request comes before what is wrong with the rows.
            quarantine.check_open(state, event)
            digests = [stored.accepted_digest, *(batch.accepted_digest for batch in before)]
            self._check_keys(declared.dataset, table, list(event.rows), [digest for digest in digests if digest])
            kept = take_off(declared.dataset, table)
            data = to_parquet(kept)
            self._artifacts.put(data)
            # The rows come from inside: what was sent for them is their file.
            digest = hashlib.sha256(data).hexdigest()
            accepted = batches.accepted_event(declared.dataset, declared.schema_version, name, kept, data, digest)
            if protected(declared.dataset):
                self._vault.keep(declared.dataset, BatchName(dataset, name, digest), table, None)
            accepted.quarantine_batch_id = batch_id
            accepted.quarantine_rows.extend(event.rows)
            if not isinstance(event, QuarantinedRowsDiscarded):
                event.accepted_batch_id = name
            return event, accepted

        known = state.named(name)
        event, batch = (None, known) if known else await asyncio.to_thread(prepared)
        outcome = await self._quarantine.execute(
            dataset,
            request_id=request_id,
            decide=lambda now: quarantine.settle(now, event, len(before), batch) if event else [],
        )
        return next(e for e in outcome.events if isinstance(e, BatchAccepted)), outcome.position

    async def _batch(self, dataset: str, batch_id: str) -> tuple[DatasetState, pa.Table, projections.StoredBatch]:
        declared = await self._load(dataset)
        # Whoever asks may have sent the batch a moment ago.
        head = await self._log.head()
        found = await self._tables.query(lambda connection: projections.batch(connection, dataset, batch_id), head)
        if found is None or not found.quarantine_digest:
            raise QuarantinedRowUnknown(
                f"dataset {dataset!r} has no batch {batch_id[:80]!r} with quarantined rows; `lineal quarantine list` "
                "shows them"
            )
        return declared, await asyncio.to_thread(self._read, found.quarantine_digest), found

    def _read(self, digest: str, columns: Sequence[str] | None = None) -> pa.Table:
        with self._artifacts.open(digest) as file, pq.ParquetFile(file) as parquet:
            return parquet.read(columns=columns)

    def _valid(self, dataset: Dataset, new: "_New", rows: Sequence[int], around: Surroundings) -> pa.Table:
        rules = Dataset()
        rules.CopyFrom(dataset)
        kept = identifiers(dataset) - set(new.given)
        for field in rules.fields:
            if field.name in kept:
                # A pseudonym from the quarantine: the rules are for what it stands for.
                field.ClearField("pattern")
                field.ClearField("allowed")
        parted = Validator(rules).validate(new.table, new.unreadable, around)
        if parted.quarantined.num_rows:
            raise FixRefused(
                f"{parted.quarantined.num_rows} of {len(rows)} rows are still refused; none was accepted",
                [
                    FieldViolation(f"rows[{number}].{reason.field}", reason.message)
                    for number, text in zip(
                        (rows[n] for n in parted.quarantined[ROW_NUMBER].to_pylist()[:_MOST_SHOWN]),
                        parted.quarantined[REASONS].to_pylist()[:_MOST_SHOWN],
                        strict=True,
                    )
                    for reason in reasons_of(text)
                ],
            )
        return self._pseudonyms.hide(parted.accepted, identifiers(dataset) & set(new.given))

    def _check_keys(self, dataset: Dataset, table: pa.Table, rows: Sequence[int], digests: Sequence[str]) -> None:
        """Refuse rows whose key was accepted from the same batch: they would count twice."""
        keys = list(dataset.row_key)
        wanted = table.select(keys).to_pandas()
        for digest in digests:
            there = self._read(digest, keys).to_pandas()
            twice = wanted.merge(there.drop_duplicates(), on=keys, how="left", indicator=True)["_merge"] == "both"
            if twice.any():
                number = rows[int(twice.to_numpy().argmax())]
                raise FixRefused(
                    f"the row key of row {number} was accepted from the same batch already; it would count twice",
                    [FieldViolation(f"rows[{number}].{','.join(keys)}", "give it its own key, or discard the row")],
                )


class _New:
    """Rows with their new values, and what of these did not read."""

    def __init__(self, table: pa.Table, unreadable: dict[int, dict[str, str]], given: list[str]) -> None:
        self.table = table
        self.unreadable = unreadable
        self.given = given


def _replaced(dataset: Dataset, chosen: pa.Table, values: pa.Table, rows: int) -> _New:
    table = conform(chosen, sent_schema(dataset))
    names = [field.name for field in dataset.fields]
    wrong = [
        FieldViolation(f"arrow.{name}", f"{dataset.name} has no such column{did_you_mean(name, names)}; leave it out")
        for name in values.column_names
        if name not in names
    ]
    if values.num_rows != rows or not values.num_columns:
        wrong.append(FieldViolation("arrow", f"send one row for each of the {rows} rows, with the columns to replace"))
    if wrong:
        raise FixRefused("the new values do not fit the rows", wrong)
    given = Dataset(name=dataset.name, fields=[f for f in dataset.fields if f.name in values.column_names])
    try:
        new = normalise(values, given)
    except SchemaMismatch as error:
        raise FixRefused(
            "the new values do not read", [FieldViolation(f"arrow.{v.field}", v.description) for v in error.violations]
        ) from None
    for name in new.table.column_names:
        table = table.set_column(names.index(name), table.schema.field(name), new.table[name])
    return _New(table, {row: dict(found) for row, found in new.unreadable.items()}, new.table.column_names)


def _chosen(refused: pa.Table, rows: Sequence[int]) -> pa.Table:
    """Return the named rows in the order in which they are named. Raises QuarantinedRowUnknown."""
    places = {number: place for place, number in enumerate(refused[ROW_NUMBER].to_pylist())}
    missing = [row for row in rows if row not in places]
    if missing:
        raise QuarantinedRowUnknown(f"row {missing[0]} of the batch is not in quarantine; {len(places)} rows are")
    return refused.take(pa.array([places[row] for row in rows], pa.int64()))


def _check_releasable(dataset: Dataset, chosen: pa.Table, rows: Sequence[int]) -> None:
    table = conform(chosen, sent_schema(dataset))
    for field in dataset.fields:
        if not field.nullable and table[field.name].null_count:
            row = rows[table[field.name].is_null().to_pylist().index(True)]
            raise ReleaseRefused(
                f"row {row} has no {field.name}, which is not nullable, or one that did not read; fix or discard it"
            )
    for row, text in zip(rows, chosen[REASONS].to_pylist(), strict=True):
        barred = sorted(kinds_of(text) & {"type", "duplicate"})
        if barred:
            why = "its row key is in the batch already" if barred == ["duplicate"] else "a value of it did not read"
            raise ReleaseRefused(f"row {row} cannot be used as it is, {why}; fix or discard it")
