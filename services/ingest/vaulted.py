"""Read the vault: the use cases of `VaultService`. Every reading is an event before it is answered."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from chassis.errors import FieldViolation, InvalidArgument
from chassis.events import EventLog
from chassis.projection import ProjectionRunner
from lineal.api.ingest.v1 import vault_service_pb2 as api
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from lineal.api.ingest.v1.events_pb2 import ProtectedValuesRead
from lineal.frames import ipc
from services.ingest import projections
from services.ingest.batch import BatchUnreadable, read
from services.ingest.dataset import DatasetState
from services.ingest.vault import EXPORTED, Vault
from tabular import keys
from tabular.parquet import ipc_pieces
from tabular.schema import SchemaMismatch, normalise, protected

MOST_KEYS = 50_000


class VaultRequestInvalid(InvalidArgument):
    """A request to the vault does not say which rows, or what for."""


class VaultReading:
    """`load` returns a dataset's newest state or raises, `position_of` a position that the log has, its head for 0."""

    def __init__(
        self,
        log: EventLog,
        tables: ProjectionRunner,
        load: Callable[[str], Awaitable[DatasetState]],
        position_of: Callable[[int], Awaitable[int]],
        vault: Vault,
    ) -> None:
        self._log = log
        self._tables = tables
        self._load = load
        self._position_of = position_of
        self._vault = vault

    async def read(self, request: api.ReadProtectedValuesRequest) -> api.ReadProtectedValuesResponse:
        """Return protected attributes by row key. Raises VaultRequestInvalid, DatasetUnknown, PositionAhead."""
        if not request.purpose.strip():
            raise VaultRequestInvalid(
                "no purpose is given", [FieldViolation("purpose", "say what for: it is recorded")]
            )
        declared = (await self._load(request.dataset)).dataset
        assert declared is not None
        row_keys = _row_keys(declared, request.arrow)
        until = await self._position_of(request.as_of_position)
        batches = await self._tables.query(lambda c: projections.batches_until(c, declared.name, until), until)
        positions = {(batch.batch_id, batch.content_digest): batch.position for batch in batches}
        values = await asyncio.to_thread(self._vault.values, declared, row_keys, positions)
        event = ProtectedValuesRead(
            dataset=declared.name,
            columns=protected(declared),
            rows=len(row_keys),
            as_of_position=until,
            purpose=request.purpose,
        )
        result = await self._log.append(
            f"vault/{declared.name}", [event], request_id=request.request_id, expected_revision=None
        )
        return api.ReadProtectedValuesResponse(arrow=ipc(values), position=result.position)

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the whole vault as pieces of an Arrow IPC stream."""
        facts = self._vault.export()
        pieces = ipc_pieces(EXPORTED, facts)
        try:
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                yield piece
        finally:
            # A caller that hung up leaves a transaction open otherwise.
            await asyncio.to_thread(facts.close)


def _row_keys(declared: Dataset, data: bytes) -> list[str | None]:
    of_key = Dataset(name=declared.name, fields=[field for field in declared.fields if field.name in declared.row_key])
    try:
        table, unreadable = normalise(read("of row keys", data), of_key)
    except (SchemaMismatch, BatchUnreadable) as error:
        raise VaultRequestInvalid(f"the row keys do not read: {error}", [_KEYS_WANTED]) from None
    if unreadable or not 1 <= table.num_rows <= MOST_KEYS:
        raise VaultRequestInvalid(
            f"{table.num_rows:,} row keys, {len(unreadable)} of which do not read", [_KEYS_WANTED]
        )
    return keys.encode([table[name] for name in declared.row_key])


_KEYS_WANTED = FieldViolation("arrow", f"send the columns of the row key, 1 to {MOST_KEYS:,} rows")
