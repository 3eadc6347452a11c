import asyncio
import io
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pyarrow as pa
import pyarrow.parquet
import pytest
from google.protobuf.text_format import Parse

from chassis.ids import new_request_id
from lineal import backup
from lineal.api.ingest.v1 import ingest_service_pb2 as api
from lineal.api.ingest.v1 import quarantine_service_pb2 as quarantine_api
from lineal.api.ingest.v1 import vault_service_pb2 as vault_api
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from lineal.api.ingest.v1.events_pb2 import BatchAccepted, ProtectedValuesRead
from lineal.api.ingest.v1.quarantine_service_pb2_grpc import QuarantineServiceStub
from lineal.api.ingest.v1.vault_service_pb2_grpc import VaultServiceStub
from lineal.backup_files import BackupDamaged
from lineal.calls import Services
from lineal.frames import ipc
from lineal.places import FolderPlace
from lineal.profile import Profile
from lineal.rows import decode, hashed
from services.ingest import restoring
from services.ingest.settings import Settings
from services.lineage import restoring as lineage_restoring
from services.lineage.settings import Settings as LineageSettings
from tests.integration.running import Suite, running

PEOPLE = """
name: "people" row_key: "person" entity_keys: "person"
fields { name: "person" type: FIELD_TYPE_INT64 }
fields { name: "faith" type: FIELD_TYPE_STRING pattern: "[a-z]{8,}" sensitivity: SENSITIVITY_PROTECTED_ATTRIBUTE }
fields { name: "born" type: FIELD_TYPE_INT64 nullable: true sensitivity: SENSITIVITY_PROTECTED_ATTRIBUTE }
fields { name: "amount" type: FIELD_TYPE_FLOAT64 minimum: 0 }
"""
ONE, OTHER = "zoroastrian", "mandaean"


class World:
    """Ingest with the dataset declared, and the stubs that the tests use."""

    def __init__(self, suite: Suite, channel: grpc.aio.Channel) -> None:
        self.suite = suite
        self.ingest = suite.stub("ingest")
        self.vault: Any = VaultServiceStub(channel)
        self.quarantine: Any = QuarantineServiceStub(channel)

    async def send(self, batch_id: str, **columns: list[Any]) -> api.IngestBatchesResponse:
        request = api.IngestBatchesRequest(dataset="people", batch_id=batch_id, arrow=ipc(pa.table(columns)))
        answer: api.IngestBatchesResponse
        (answer,) = [response async for response in self.ingest.IngestBatches(iter([request]))]
        return answer

    async def read(self, persons: list[int], position: int = 0, purpose: str = "a test") -> pa.Table:
        request = vault_api.ReadProtectedValuesRequest(
            request_id=new_request_id(), dataset="people", as_of_position=position, purpose=purpose
        )
        request.arrow = ipc(pa.table({"person": persons}))
        return pa.ipc.open_stream((await self.vault.ReadProtectedValues(request)).arrow).read_all()

    async def events(self, stream: str) -> list[Any]:
        found = await self.suite.servers["ingest"].harness.log.read_stream(stream)
        return [event.message for event in found]


@pytest.fixture
async def world(suite: Suite) -> Any:
    await suite.start("lineage", "ingest")
    dataset = Parse(PEOPLE, Dataset())
    stub = suite.stub("ingest")
    await stub.RegisterDataset(api.RegisterDatasetRequest(request_id=new_request_id(), dataset=dataset))
    async with grpc.aio.insecure_channel(suite.address("ingest")) as channel:
        yield World(suite, channel)


async def test_protected_values_are_in_the_vault_alone(world: World) -> None:
    sent: dict[str, list[Any]] = {
        "person": [1, 2, 3, 4],
        "faith": [ONE, OTHER, ONE, OTHER],
        "born": ["1970", "mandaean?", None, "1980"],
        "amount": [1.0, 2.0, 3.0, -4.0],
    }
    answer = await world.send("b", **sent)
    assert (answer.accepted_rows, answer.quarantined_rows) == (2, 2)
    assert (await world.send("b", **sent)).repeated_request
    folder = world.suite.folder
    held = [path for path in folder.rglob("*") if path.is_file() and b"mandaean" in path.read_bytes()]
    assert {path.name for path in held} <= {"ingest.db", "ingest.db-wal"}
    assert held
    (event,) = await world.events("batches/people")
    assert isinstance(event, BatchAccepted)
    assert list(event.vaulted_columns) == ["faith", "born"]
    for digest in (event.accepted_digest, event.quarantine_digest):
        names = pa.parquet.read_table(io.BytesIO(world.suite.artifacts.read(digest))).column_names
        assert not {"faith", "born"} & set(names)
    proven = await world.ingest.ProveRows(api.ProveRowsRequest(dataset="people", batch_id="b", rows=[1]))
    declared = hashed(Parse(PEOPLE, Dataset()), event.vaulted_columns)
    assert decode(declared, proven.rows[0].data) == {"person": 3, "amount": 3.0}
    request = api.CreateSnapshotRequest(request_id=new_request_id(), dataset="people")
    snapshot = (await world.ingest.CreateSnapshot(request)).snapshot
    pieces = world.ingest.ReadSnapshot(api.ReadSnapshotRequest(digest=snapshot.digest))
    rows = pa.ipc.open_stream(io.BytesIO(b"".join([piece.arrow async for piece in pieces]))).read_all()
    assert rows.column_names == ["person", "amount"]
    assert "faith" not in snapshot.profile_json


async def test_values_are_read_by_key_and_position_and_the_reading_is_recorded(world: World) -> None:
    first = await world.send("b", person=[1, 2], faith=[ONE, ONE], born=[1970, None], amount=[1.0, 2.0])
    later = await world.send("c", person=[2], faith=[OTHER], born=[1971], amount=[2.0])
    assert (await world.read([2, 9, 1])).to_pydict() == {"faith": [OTHER, None, ONE], "born": [1971, None, 1970]}
    assert (await world.read([2], first.position)).to_pydict() == {"faith": [ONE], "born": [None]}
    told = await world.events("vault/people")
    assert [type(event) for event in told] == [ProtectedValuesRead, ProtectedValuesRead]
    assert (told[0].rows, list(told[0].columns), told[0].purpose) == (3, ["faith", "born"], "a test")
    assert told[0].as_of_position >= later.position
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await world.read([1], purpose=" ")
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_quarantined_row_gets_its_values_back(world: World) -> None:
    await world.send("b", person=[1, 2, 3], faith=[ONE, OTHER, "no"], born=[1, 2, 3], amount=[-1.0, -2.0, 3.0])
    assert (await world.read([1, 2])).to_pydict() == {"faith": [None, None], "born": [None, None]}
    release = quarantine_api.ReleaseRowsRequest(request_id=new_request_id(), dataset="people", batch_id="b", rows=[0])
    release.reason = "a test"
    await world.quarantine.ReleaseRows(release)
    for row, columns in ((1, {"amount": [2.0]}), (2, {"faith": [OTHER]})):
        fix = quarantine_api.FixRowsRequest(
            request_id=new_request_id(), dataset="people", batch_id="b", rows=[row], reason="a test"
        )
        fix.arrow = ipc(pa.table(columns))
        await world.quarantine.FixRows(fix)
    assert (await world.read([1, 2, 3])).to_pydict() == {"faith": [ONE, OTHER, OTHER], "born": [1, 2, 3]}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ('row_key: "faith"', "dataset.row_key[1]"),
        ('entity_keys: "faith"', "dataset.entity_keys[1]"),
        (
            'distribution_checks { name: "c" column: "faith" new_categories: 0 }',
            "dataset.distribution_checks[0].column",
        ),
    ],
)
async def test_a_protected_attribute_is_refused_where_rows_would_need_it(world: World, change: str, field: str) -> None:
    dataset = Parse(PEOPLE.replace('"people"', '"others"') + change, Dataset())
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await world.ingest.RegisterDataset(api.RegisterDatasetRequest(request_id=new_request_id(), dataset=dataset))
    assert field.encode() in dict(refused.value.trailing_metadata())["grpc-status-details-bin"]


async def test_a_column_cannot_cease_to_be_protected(world: World) -> None:
    dataset = Parse(PEOPLE, Dataset())
    dataset.fields[1].ClearField("sensitivity")
    with pytest.raises(grpc.aio.AioRpcError, match="protected attribute"):
        await world.ingest.RegisterDataset(api.RegisterDatasetRequest(request_id=new_request_id(), dataset=dataset))


async def test_the_vault_is_exported_whole(world: World) -> None:
    await world.send("b", person=[1, 2], faith=[ONE, "no"], born=[1, 2], amount=[1.0, 2.0])
    pieces = [piece.arrow async for piece in world.vault.ExportVault(vault_api.ExportVaultRequest())]
    facts = pa.ipc.open_stream(io.BytesIO(b"".join(pieces))).read_all().to_pylist()
    assert [(fact["row_key"], fact["quarantined"], fact["row"]) for fact in facts] == [
        ("[1]", False, 0),
        ("[2]", True, 1),
    ]


async def test_a_backup_has_the_vault(world: World, tmp_path: Path) -> None:
    await world.send("b", person=[1, 2], faith=[ONE, OTHER], born=[1, None], amount=[1.0, 2.0])
    place, data = FolderPlace(tmp_path / "backup"), tmp_path / "restored"
    with Services(Profile.load(world.suite.profile)) as services:
        await asyncio.to_thread(backup.run, services, place, lambda *_: None)
        # What has not changed is not written again.
        await asyncio.to_thread(backup.run, services, place, lambda *_: None)
    (file,) = (tmp_path / "backup" / "vault").iterdir()
    await asyncio.to_thread(lineage_restoring.restore, LineageSettings(data_dir=data), place, None, None)
    assert await asyncio.to_thread(restoring.restore, Settings(data_dir=data), place) == 2
    async with running(data) as new:
        await new.start("lineage", "ingest")
        async with grpc.aio.insecure_channel(new.address("ingest")) as channel:
            found = await World(new, channel).read([2, 1])
    assert found.to_pydict() == {"faith": [OTHER, ONE], "born": [None, 1]}
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BackupDamaged, match=file.name):
        await asyncio.to_thread(restoring.restore, Settings(data_dir=tmp_path / "other"), place)
