"""Bad input through SDK and CLI: each has an error that names the field and what to do, and nothing is lost."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import catboost
import grpc
import numpy as np
import pandas as pd
import pytest

from lineal.api.ingest.v1 import ingest_service_pb2 as ingest_api
from lineal.api.registry.v1 import registry_service_pb2 as registry_api
from lineal.api.serving.v1 import serving_service_pb2 as serving_api
from lineal.client import Client
from lineal.errors import CallFailed, ProjectInvalid
from tests.e2e.conftest import ROOT, Running

pytestmark = pytest.mark.timeout(240)

PROJECT = """
kind: Model
name: {name}
---
kind: Endpoint
name: {name}
model: {name}
strict: true
"""


@pytest.fixture
def client(suite: Running, notebook: dict[str, Any]) -> Any:
    """A client of a suite where the notebook has run."""
    with suite.client() as found:
        yield found


def rows(prefix: str, amounts: list[Any]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "order_id": [f"{prefix}-{number}" for number in range(len(amounts))],
            "customer": "c1",
            "amount": amounts,
            "country": "AT",
            "placed": pd.Timestamp("2026-04-01", tz="UTC"),
        }
    )


def stored(client: Client, prefix: str) -> list[str]:
    found = client.snapshot("orders")["order_id"]
    return sorted(found[found.str.startswith(f"{prefix}-")])


def test_a_row_of_the_wrong_type_is_quarantined_and_the_others_are_kept(client: Client) -> None:
    done = client.ingest("orders", rows("typed", [10.0, "ten euros", 12.5]))
    assert (done.accepted, done.quarantined) == (2, 1)
    assert done.reasons == {"amount: must be a number, not 'ten euros'": 1}
    assert stored(client, "typed") == ["typed-0", "typed-2"]
    request = ingest_api.ListQuarantinedRowsRequest(dataset="orders", page_size=1)
    client.services.ingest.call("GetDataset", ingest_api.GetDatasetRequest(name="orders", min_position=done.position))
    [kept] = client.services.ingest.call("ListQuarantinedRows", request).rows
    assert json.loads(kept.row_json)["order_id"] == "typed-1"
    assert "'ten euros'" in kept.reasons[0].message


def test_a_csv_with_one_bad_cell_keeps_its_good_rows(suite: Running, client: Client, tmp_path: Path) -> None:
    file = tmp_path / "cells.csv"
    rows("csv", [1.0, "1,5 EUR", 2.0]).to_csv(file, index=False, date_format="%Y-%m-%dT%H:%M:%SZ")
    said = suite.lineal("ingest", "orders", str(file))
    assert "amount: must be a number, not '1,5 EUR'" in said
    assert stored(client, "csv") == ["csv-0", "csv-2"]


def test_an_unknown_column_is_named_and_the_batch_can_be_sent_again(client: Client) -> None:
    wrong = rows("column", [1.0, 2.0]).rename(columns={"country": "contry"})
    with pytest.raises(CallFailed) as error:
        client.ingest("orders", wrong, batch_id="column")
    assert error.value.code == grpc.StatusCode.INVALID_ARGUMENT
    assert {violation.field for violation in error.value.violations} == {"arrow.contry", "arrow.country"}
    assert "did you mean 'country'?" in str(error.value)
    assert stored(client, "column") == []
    assert client.ingest("orders", wrong.rename(columns={"contry": "country"}), batch_id="column").accepted == 2
    assert len(stored(client, "column")) == 2


def test_a_duplicate_batch_leaves_one_copy(client: Client) -> None:
    first = client.ingest("orders", rows("twice", [1.0, 2.0]), batch_id="twice")
    again = client.ingest("orders", rows("twice", [1.0, 2.0]), batch_id="twice")
    assert (again.repeated, again.accepted, again.position) == (True, 2, first.position)
    with pytest.raises(CallFailed, match="send new rows under a new batch id") as error:
        client.ingest("orders", rows("twice", [3.0]), batch_id="twice")
    assert error.value.code == grpc.StatusCode.ALREADY_EXISTS
    assert len(stored(client, "twice")) == 2


def test_a_typo_in_yaml_is_told_with_file_line_and_field(suite: Running, client: Client, tmp_path: Path) -> None:
    text = (ROOT / "examples/shop/project.yaml").read_text()
    file = tmp_path / "project.yaml"
    file.write_text(text.replace("row_key: [order_id]", "row_keys: [order_id]", 1).replace("min_rows", "min_row"))
    with pytest.raises(ProjectInvalid) as error:
        client.apply(tmp_path)
    places = [(mistake.where, mistake.field) for mistake in error.value.mistakes]
    assert places == [(f"{file}:6", "row_keys"), (f"{file}:52", "gates.min_row")]
    assert all("did you mean" in mistake.what for mistake in error.value.mistakes)
    said = suite.lineal("apply", str(tmp_path), code=1)
    assert f"{file}:6: row_keys: is unknown, did you mean 'row_key'?" in said


def test_what_a_service_refuses_in_yaml_is_told_with_its_line(client: Client, tmp_path: Path) -> None:
    text = (ROOT / "examples/shop/project.yaml").read_text()
    file = tmp_path / "project.yaml"
    file.write_text(text.replace("event_time: placed", "event_time: place", 1))
    with pytest.raises(ProjectInvalid) as error:
        client.apply(tmp_path)
    assert error.value.mistakes[0].where == f"{file}:8"
    assert "'place'" in str(error.value)


def test_a_request_with_a_missing_feature_names_it(suite: Running, client: Client) -> None:
    before = counted(client, "unpaid")
    asked = pd.DataFrame({"customer": ["c1"], "amount": [3.0]})
    with pytest.raises(CallFailed) as error:
        client.predict("unpaid", asked)
    assert error.value.code == grpc.StatusCode.INVALID_ARGUMENT
    [violation] = error.value.violations
    assert violation.field == "columns[country]"
    assert "send it, null where unknown" in violation.description
    with pytest.raises(CallFailed, match="customer") as error:
        client.predict("unpaid", pd.DataFrame({"country": ["AT"], "amount": [3.0]}))
    assert "send the entity key" in str(error.value)
    after = counted(client, "unpaid")
    assert (after.failed_requests - before.failed_requests, after.served - before.served) == (2, 0)


def test_an_unknown_model_is_named_with_those_that_are_known(suite: Running, client: Client) -> None:
    with pytest.raises(CallFailed, match=r"endpoint 'unpayd' is unknown; there are: .*unpaid") as error:
        client.predict("unpayd", pd.DataFrame({"a": [1.0]}))
    assert error.value.code == grpc.StatusCode.NOT_FOUND
    with pytest.raises(CallFailed, match="model 'unpayd' was never declared; `lineal apply` declares it"):
        client.services.registry.call("GetModel", registry_api.GetModelRequest(name="unpayd"))
    assert "endpoint 'unpayd' was not declared" in suite.lineal("train", "unpayd", code=1)


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        profile = tmp_path / "profile.yaml"
        profile.write_text(f"serving: 127.0.0.1:{port}\n")
        command = [sys.executable, "-m", "lineal.local", str(tmp_path), str(ROOT)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
        assert done.returncode == 1
        assert f"127.0.0.1:{port} (serving)" in done.stderr
        assert "lineal up --free-ports" in done.stderr
        environment = {**os.environ, "LINEAL_DATA_DIR": str(tmp_path / "one"), "LINEAL_LINEAGE_PORT": str(port)}
        command = [sys.executable, "-m", "services.lineage"]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False, env=environment
        )
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "is already in use" in done.stderr
        assert "LINEAL_LINEAGE_PORT to a free port" in done.stderr


def test_a_model_file_that_is_no_model_is_refused(suite: Running, client: Client, tmp_path: Path) -> None:
    declare(client, tmp_path, "nonsense")
    file = tmp_path / "model.cbm"
    file.write_bytes(b"CBM1" + bytes(200))
    with pytest.raises(CallFailed) as error:
        client.import_model("nonsense", file)
    assert error.value.code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION)
    assert "CatBoost" in str(error.value)


def test_a_model_file_that_was_damaged_is_not_released_and_not_loaded(
    suite: Running, client: Client, tmp_path: Path
) -> None:
    declare(client, tmp_path, "damaged")
    champion, candidate = (bundle(client, tmp_path, "damaged", seed) for seed in (1, 2))
    *_, released = client.watch_saga(client.release("damaged", champion))
    assert "first champion" in released.outcome
    asked = pd.DataFrame({"amount": [1.0, 2.0]})
    answered = client.predict("damaged", asked)

    # The candidate's file: the release is refused at once, the champion goes on.
    with damage(suite, candidate) as file, pytest.raises(CallFailed) as error:
        client.release("damaged", candidate)
    assert error.value.code == grpc.StatusCode.FAILED_PRECONDITION
    assert f"bundle {candidate[:12]} is not intact: model.cbm: artifact {file}" in str(error.value)
    assert "restore it from a backup" in str(error.value)
    assert client.predict("damaged", asked)["score"].tolist() == answered["score"].tolist()
    assert [saga.saga_id for saga in client.sagas("damaged")] == [released.saga_id]

    # The champion's file: who has it loaded goes on; who starts anew refuses it, says so, and serves the others.
    with damage(suite, champion) as file:
        assert client.predict("damaged", asked)["bundle_digest"].tolist() == [champion] * 2
        os.kill(suite.pid("serving"), signal.SIGKILL)
        client.predict("unpaid", pd.DataFrame({"customer": ["c1"], "amount": [3.0], "country": ["AT"]}))
        assert counted(client, "damaged").refused_generation == 1
        with suite.client(deadline_seconds=2) as hasty, pytest.raises(CallFailed) as error:
            hasty.predict("damaged", asked)
        assert f"endpoint 'damaged' has no champion: bundle {champion[:12]} cannot be loaded" in str(error.value)
        assert f"artifact {file}" in str(error.value)
        said = suite.lineal("doctor", "--json", code=1)
        found = [check for check in json.loads(said) if not check["ok"]]
        assert ["serves the newest arms of damaged" in check["check"] for check in found] == [True]
        assert file in found[0]["finding"]
    # Restored, it is loaded without a restart, and nothing that was answered is lost.
    assert client.predict("damaged", asked)["score"].tolist() == answered["score"].tolist()
    recorded = client.predictions("damaged")
    assert set(answered["prediction_id"]) <= set(recorded["prediction_id"])
    assert recorded["prediction_id"].is_unique


class damage:  # noqa: N801 used like a function
    """Damage one byte of a bundle's model file in the artifact store within a block; yields the file's digest."""

    def __init__(self, suite: Running, bundle: str) -> None:
        artifacts = suite.data / "artifacts"
        [manifest] = artifacts.rglob(bundle)
        self._digest = str(json.loads(manifest.read_bytes())["files"]["model.cbm"])
        [self._path] = artifacts.rglob(self._digest)
        self._whole = self._path.read_bytes()

    def __enter__(self) -> str:
        self._path.chmod(0o600)
        self._path.write_bytes(self._whole[:200] + bytes([self._whole[200] ^ 1]) + self._whole[201:])
        return self._digest

    def __exit__(self, *_: object) -> None:
        self._path.write_bytes(self._whole)


def declare(client: Client, folder: Path, name: str) -> None:
    (folder / "project.yaml").write_text(PROJECT.format(name=name))
    client.apply(folder)


def bundle(client: Client, folder: Path, model: str, seed: int) -> str:
    """Import a model; return the digest of its bundle, which may be released."""
    amount = np.random.default_rng(seed).normal(size=300)
    fitted = catboost.CatBoostClassifier(
        iterations=5, random_seed=seed, thread_count=1, verbose=False, allow_writing_files=False
    )
    fitted.fit(catboost.Pool(amount.reshape(-1, 1), (amount > 0).astype(int), feature_names=["amount"]))
    file = folder / f"{seed}.cbm"
    fitted.save_model(str(file))
    digest = client.import_model(model, file)
    client.approve(digest, "test")
    return digest


def counted(client: Client, endpoint: str) -> serving_api.EndpointCounters:
    """Return what serving counts, once it knows the endpoint."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        answer: serving_api.GetCountersResponse = client.services.serving.call(
            "GetCounters", serving_api.GetCountersRequest()
        )
        for found in answer.endpoints:
            if found.endpoint == endpoint:
                return found
    raise AssertionError(f"serving counts nothing of {endpoint}")
