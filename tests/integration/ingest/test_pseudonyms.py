import stat
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pyarrow as pa
import pyarrow.parquet
import pytest
from google.protobuf.text_format import Parse

from chassis.ids import new_request_id
from lineal.api.ingest.v1 import ingest_service_pb2 as api
from lineal.api.ingest.v1 import quarantine_service_pb2 as quarantine_api
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from lineal.api.ingest.v1.events_pb2 import DatasetRegistered
from lineal.api.ingest.v1.quarantine_service_pb2_grpc import QuarantineServiceStub
from lineal.frames import ipc
from services.ingest.dataset import DatasetState, SchemaIncompatible, evolve, register
from services.ingest.pseudonyms import PseudonymKeyUnusable, Pseudonyms, identifier_violations
from tests.integration.running import Suite

PEOPLE = """
name: "people" row_key: "person" entity_keys: "person"
fields { name: "person" type: FIELD_TYPE_INT64 }
fields { name: "mail" type: FIELD_TYPE_STRING nullable: true pattern: "[^@]+@[^@]+"
         sensitivity: SENSITIVITY_DIRECT_IDENTIFIER }
fields { name: "amount" type: FIELD_TYPE_FLOAT64 minimum: 0 }
"""
ADA, BOB = "ada.secret@example.org", "bob.secret@example.org"


async def send(stub: Any, **columns: list[Any]) -> api.IngestBatchesResponse:
    request = api.IngestBatchesRequest(dataset="people", batch_id="b", arrow=ipc(pa.table(columns)))
    answer: api.IngestBatchesResponse
    (answer,) = [response async for response in stub.IngestBatches(iter([request]))]
    return answer


async def test_identifiers_are_kept_nowhere_but_as_pseudonyms(suite: Suite) -> None:
    await suite.start("lineage", "ingest")
    stub = suite.stub("ingest")
    dataset = Parse(PEOPLE, Dataset())
    await stub.RegisterDataset(api.RegisterDatasetRequest(request_id=new_request_id(), dataset=dataset))
    columns: dict[str, list[Any]] = {
        "person": [1, 2, 3, 4, 5],
        "mail": [ADA, ADA, None, BOB, "no.secret"],
        "amount": [1.0, 2.0, 3.0, -4.0, 5.0],
    }
    sent = await send(stub, **columns)
    assert (sent.accepted_rows, sent.quarantined_rows) == (3, 2)
    assert (await send(stub, **columns)).repeated_request
    async with grpc.aio.insecure_channel(suite.address("ingest")) as channel:
        fix = quarantine_api.FixRowsRequest(
            request_id=new_request_id(), dataset="people", batch_id="b", rows=[3], reason="a sign too many"
        )
        fix.arrow = ipc(pa.table({"amount": [4.0]}))
        fixed = await QuarantineServiceStub(channel).FixRows(fix)
        other = quarantine_api.FixRowsRequest(
            request_id=new_request_id(), dataset="people", batch_id="b", rows=[4], reason="it was bob"
        )
        other.arrow = ipc(pa.table({"mail": [BOB]}))
        await QuarantineServiceStub(channel).FixRows(other)
    # Whoever has the value finds its rows; the same value has one pseudonym in every batch.
    find = api.FindRowsRequest(dataset="people", key={"mail": BOB}, until_position=fixed.position + 2)
    assert len((await stub.FindRows(find)).rows) == 2
    folder = suite.folder
    key = folder / "ingest" / "pseudonym.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    held = [path for path in folder.rglob("*") if path.is_file() and b"secret" in path.read_bytes()]
    assert held == []
    digests = [path for path in (folder / "artifacts").rglob("*") if path.is_file()]
    tables = [pa.parquet.read_table(path) for path in digests if path.read_bytes()[:4] == b"PAR1"]
    mails = [mail for table in tables for mail in table["mail"].to_pylist()]
    assert len(mails) == 7
    assert all(mail is None or mail.startswith("p:") for mail in mails)
    log = suite.servers["ingest"].harness.log
    events = [*await log.read_stream("batches/people"), *await log.read_stream("quarantine/people")]
    assert all(b"secret" not in event.message.SerializeToString() for event in events if event.message)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ('row_key: "mail"', "row_key[1]"),
        ('entity_keys: "mail"', "entity_keys[1]"),
        ('distribution_checks { name: "c" column: "mail" new_categories: 0 }', "distribution_checks[0]"),
        ('rules { name: "r" compare { column: "mail" operator: OPERATOR_IS_PRESENT } }', "rules[0]"),
        ('fields { name: "n" type: FIELD_TYPE_INT64 sensitivity: SENSITIVITY_DIRECT_IDENTIFIER }', "fields[3].type"),
    ],
)
def test_an_identifier_is_refused_where_its_pseudonym_would_not_do(change: str, field: str) -> None:
    found = identifier_violations(Parse(PEOPLE + change, Dataset()))
    assert [violation.field for violation in found] == [field]


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert Pseudonyms.load(path).of("x") == Pseudonyms.load(path).of("x")
    assert Pseudonyms(bytes(32)).of("x") != Pseudonyms.load(path).of("x")
    path.chmod(0o640)
    with pytest.raises(PseudonymKeyUnusable, match="chmod 600"):
        Pseudonyms.load(path)


def test_a_column_cannot_begin_to_be_an_identifier() -> None:
    declared = Parse(PEOPLE, Dataset())
    before = Parse(PEOPLE, Dataset())
    before.fields[1].ClearField("sensitivity")
    state = evolve(DatasetState(), DatasetRegistered(dataset=before, schema_version=1))
    with pytest.raises(SchemaIncompatible, match="direct identifier"):
        register(state, declared)
