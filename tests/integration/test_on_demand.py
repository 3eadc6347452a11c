"""Transforms of a feature set: a training set has for a row what serving computes for it, over both protocols."""

import asyncio
import json
from typing import Any

import grpc
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from chassis.ids import new_request_id
from lineal import features
from lineal.api.features.v1 import features_service_pb2 as features_api
from lineal.api.features.v1.feature_set_pb2 import FeatureSet
from lineal.api.inference.v2 import inference_service_pb2 as oip
from lineal.api.inference.v2.inference_service_pb2_grpc import GRPCInferenceServiceStub
from lineal.api.monitor.v1 import monitor_service_pb2 as monitor_api
from lineal.api.monitor.v1.prediction_pb2 import PredictionRecord
from lineal.api.registry.v1 import registry_service_pb2 as registry_api
from lineal.api.registry.v1.endpoint_pb2 import Arm, ArmRole, Endpoint
from lineal.api.registry.v1.model_pb2 import Model
from lineal.api.serving.v1 import scoring_pb2 as scoring_api
from lineal.api.serving.v1 import scoring_service_pb2 as scoring_service_api
from lineal.api.serving.v1 import serving_service_pb2 as serving_api
from lineal.api.trainer.v1 import trainer_service_pb2 as trainer_api
from lineal.api.trainer.v1.run_pb2 import Parameters, RunState
from tabular import columns
from tabular.bundle import Bundle
from tests.integration.features.world import World, ends, random_trips, trips
from tests.integration.running import Suite
from tests.unit.tabular.declarations import feature_set, view

pytestmark = pytest.mark.timeout(240)
TRANSFORMS = [
    features.ratio("km_over_mean", "km", "driver_delays_mean"),
    features.impute("known_ratio", "km_over_mean", -1.0, flag="ratio_unknown"),
    features.bins("ratio_bin", "known_ratio", [0.0, 1.0, 5.0]),
    features.calendar("minute", "start", "minute", zone="Asia/Kolkata"),
    features.difference("wait", "told", "start"),
    features.cross("weather_and_driver", "driver_delays_weather", "driver"),
    features.text_length("driver_letters", "driver"),
]
_DESCRIBE = serving_api.DescribeEndpointRequest(endpoint="late")
BROUGHT = ("km", "start", "told", "driver")


def declared() -> FeatureSet:
    found = feature_set()
    found.transforms.extend(TRANSFORMS)
    return found


class Served:
    """An endpoint `late` whose champion was trained on rows that have the transforms."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self.position = 0
        self.recorded = 0
        self.rows = pd.DataFrame()
        self.bundle: Bundle

    async def begin(self) -> None:
        world = World(self.suite)
        await world.declare(trips(), ends(), view(), declared())
        started, ended = random_trips(seed=5, count=150)
        for row in started:
            row["km"] = None if row["km"] < 5 else row["km"]
        for row in ended:
            # Whole numbers add up exactly, in whichever order.
            row["delay"] = None if row["delay"] is None else float(round(row["delay"]))
        self.position = max(await world.send(trips(), started), await world.send(ends(), ended))
        built = (await world.build("late", await world.snapshots("trips", "ends")))[-1].training_set
        rows = await world.read(built.digest)
        self.rows = rows.merge(pd.DataFrame(started)[["trip", "start", "told"]], on="trip")
        digest = await self.trained(built.digest)
        self.bundle = Bundle.from_bytes(self.suite.artifacts.read(digest))
        registry = self.suite.stub("registry")
        model = Model(name="late", feature_set="late")
        model.gates.min_rows = 1
        evaluated = await self.suite.stub("trainer").EvaluateBundles(
            trainer_api.EvaluateBundlesRequest(
                request_id=new_request_id(), training_set_digest=built.digest, bundle_digests=[digest]
            )
        )
        evidence = evaluated.evaluation_digest
        endpoint = Endpoint(name="late", model="late", strict=True)
        arms = [Arm(bundle_digest=digest, role=ArmRole.ARM_ROLE_CHAMPION)]
        for request in (
            registry_api.RegisterModelRequest(request_id=new_request_id(), model=model),
            registry_api.RegisterEndpointRequest(request_id=new_request_id(), endpoint=endpoint),
            registry_api.RegisterBundleRequest(request_id=new_request_id(), model="late", bundle_digest=digest),
            registry_api.EvaluateGatesRequest(
                request_id=new_request_id(), bundle_digest=digest, evaluation_digest=evidence
            ),
            registry_api.ApproveBundleRequest(request_id=new_request_id(), bundle_digest=digest, reason="test"),
            registry_api.ChangeArmsRequest(
                request_id=new_request_id(), endpoint="late", generation=0, arms=arms, reason="test"
            ),
        ):
            answer = await getattr(registry, type(request).__name__.removesuffix("Request"))(request)
        waiting = registry_api.WaitForGenerationRequest(endpoint="late", generation=answer.generation)
        await registry.WaitForGeneration(waiting, timeout=60)

    async def trained(self, digest: str) -> str:
        trainer = self.suite.stub("trainer")
        parameters = Parameters(iterations=5, exclude_columns=["driver_delays_weather", "ratio_unknown"])
        request = trainer_api.StartRunRequest(
            request_id=new_request_id(), model="late", training_set_digest=digest, parameters=parameters
        )
        run_id = (await trainer.StartRun(request)).run_id
        run = [one.run async for one in trainer.WatchRun(trainer_api.WatchRunRequest(run_id=run_id))][-1]
        assert run.state == RunState.RUN_STATE_COMPLETED, run.failure
        found: str = run.bundle_digest
        return found

    async def predict(self, rows: pd.DataFrame, **given: Any) -> serving_api.PredictResponse:
        sent = rows[list(BROUGHT)].assign(**given)
        request = serving_api.PredictRequest(
            endpoint="late",
            request_id=new_request_id(),
            columns=columns.from_frame(sent),
            event_time_micros=micros(rows["cutoff"]),
            min_position=self.position,
        )
        response: serving_api.PredictResponse = await self.suite.stub("serving").Predict(request)
        return response

    async def records(self, ids: list[str]) -> list[PredictionRecord]:
        """Return records by id, once monitor has all that were made."""
        self.recorded += len(ids)
        monitor = self.suite.stub("monitor")
        async with asyncio.timeout(60):
            while True:
                counters = (await monitor.GetCounters(monitor_api.GetCountersRequest(endpoint="late"))).endpoints
                if counters and counters[0].recorded >= self.recorded:
                    break
                await asyncio.sleep(0.05)
        requests = [monitor_api.GetPredictionRequest(prediction_id=one) for one in ids]
        return [(await monitor.GetPrediction(request)).prediction for request in requests]

    def differing(self, record: PredictionRecord, row: Any) -> list[str]:
        """Return the columns of which a record has another value than a row of the training set."""
        numbers = dict(zip(self.bundle.numeric, record.numeric_values, strict=True))
        texts = dict(zip(self.bundle.categorical, record.categorical_values, strict=True))
        wrong = [name for name, value in numbers.items() if not np.array_equal(value, row[name], equal_nan=True)]
        return wrong + [name for name, text in texts.items() if text != (row[name] or "")]


def micros(times: Any) -> list[int]:
    return [round(time.timestamp() * 1e6) for time in times]


@pytest.fixture
async def served(suite: Suite) -> Served:
    await suite.start("lineage", "ingest", "features", dask_workers=1)
    await suite.start("trainer", "registry", "monitor", "serving")
    found = Served(suite)
    await found.begin()
    return found


async def test_a_served_value_is_that_of_the_training_set(served: Served) -> None:
    """One suite for all of it, since it takes longer to train a model than to ask it."""
    await both_have_the_same(served)
    for times in ("INT64", "BYTES"):
        await the_other_protocol_gives_the_same(served, times)
    await what_is_missing_or_mistyped_is_named(served)
    await what_is_given_is_recorded(served)
    await what_was_made_is_checked(served)
    await rows_of_a_snapshot_score_the_same(served)


async def both_have_the_same(served: Served) -> None:
    rows = served.rows
    assert rows["km_over_mean"].notna().sum() > 20
    assert rows["km"].isna().any()
    assert set(rows["minute"]) == {30, 31, 32, 33, 34, 35, 36, 37, 38, 39}
    assert {"rain|ann", "sun|bob", None} <= set(rows["weather_and_driver"])
    made = [column.name for column in served.bundle.columns if column.source == "transform"]
    assert made == [
        *("km_over_mean", "known_ratio", "ratio_bin", "minute", "wait", "driver_letters", "weather_and_driver")
    ]
    answer = await served.predict(rows)
    records = await served.records(list(answer.prediction_ids))
    for record, (_, row) in zip(records, rows.iterrows(), strict=True):
        assert served.differing(record, row) == []
        assert not record.given_columns


async def the_other_protocol_gives_the_same(served: Served, times: str) -> None:
    rows = served.rows[served.rows["driver"].notna()].iloc[:: len(served.rows) // 8]
    async with grpc.aio.insecure_channel(served.suite.address("serving")) as channel:
        stub = GRPCInferenceServiceStub(channel)
        described = await stub.ModelMetadata(oip.ModelMetadataRequest(name="late"))
        assert {tensor.name: tensor.datatype for tensor in described.inputs} == {
            "km": "FP64",
            "start": "INT64",
            "told": "INT64",
            "driver": "BYTES",
        }
        ids = []
        for _, row in rows.iterrows():
            request = oip.ModelInferRequest(model_name="late", id=new_request_id())
            request.parameters["event_time"].string_param = row["cutoff"].isoformat()
            tensor(request, "km", "FP64").contents.fp64_contents.append(row["km"])
            tensor(request, "driver", "BYTES").contents.bytes_contents.append(row["driver"].encode())
            for name in ("start", "told"):
                contents = tensor(request, name, times).contents
                if times == "INT64":
                    contents.int64_contents.extend(micros([row[name]]))
                else:
                    contents.bytes_contents.append(row[name].isoformat().encode())
            ids.append((await stub.ModelInfer(request)).parameters["prediction_id"].string_param)
    records = await served.records(ids)
    for record, (_, row) in zip(records, rows.iterrows(), strict=True):
        assert served.differing(record, row) == []


def tensor(request: oip.ModelInferRequest, name: str, datatype: str) -> oip.ModelInferRequest.InferInputTensor:
    return request.inputs.add(name=name, datatype=datatype, shape=[1])


async def what_is_missing_or_mistyped_is_named(served: Served) -> None:
    rows = served.rows[:3]
    asked = serving_api.DescribeEndpointRequest(endpoint="late")
    described = await served.suite.stub("serving").DescribeEndpoint(asked)
    assert [column.name for column in described.columns] == ["km", "start", "told", "driver"]
    with pytest.raises(grpc.aio.AioRpcError, match=r"'start' must hold times with a zone"):
        await served.predict(rows, start="2024-05-01")
    request = serving_api.PredictRequest(endpoint="late", columns=columns.from_frame(rows[["km", "driver"]]))
    with pytest.raises(grpc.aio.AioRpcError, match="features are missing: told, start"):
        await served.suite.stub("serving").Predict(request)


async def what_is_given_is_recorded(served: Served) -> None:
    answer = await served.predict(served.rows[:3], ratio_bin=[7.0, 8.0, 9.0])
    record = (await served.records(list(answer.prediction_ids)))[1]
    assert list(record.given_columns) == ["ratio_bin"]
    assert record.numeric_values[served.bundle.numeric.index("ratio_bin")] == 8.0


async def rows_of_a_snapshot_score_the_same(served: Served) -> None:
    """Every row is scored, with a label or without, with features computed for it offline and looked up alike."""
    world, scorings = World(served.suite), served.suite.stub("serving", within="scoring")
    snapshots = await world.snapshots("trips", "ends")
    rows = scoring_api.SnapshotRows(dataset="trips", snapshot_digest=snapshots["trips"])
    digest = (await served.suite.stub("serving").DescribeEndpoint(_DESCRIBE)).champion_digest
    request = scoring_service_api.RequestScoringRequest(
        request_id=new_request_id(), bundle_digest=digest, snapshot=rows
    )
    asked = await scorings.RequestScoring(request)
    wanted = features_api.BuildTrainingSetRequest(
        request_id=new_request_id(), feature_set="late", snapshots=snapshots, unlabelled=True
    )
    built = [one async for one in served.suite.stub("features").BuildTrainingSet(wanted)][-1].training_set
    run = scoring_service_api.RunScoringRequest(
        request_id=new_request_id(), scoring_id=asked.scoring_id, training_set_digest=built.digest
    )
    result = [one async for one in scorings.RunScoring(run)][-1].scoring.result
    assert result.rows == built.rows == 150 > len(served.rows)
    read = scoring_service_api.ReadScoringRequest(scoring_id=asked.scoring_id)
    pieces = [one.arrow async for one in scorings.ReadScoring(read)]
    scored = pa.ipc.open_stream(b"".join(pieces)).read_all().to_pandas().set_index("trip")
    answer = await served.predict(served.rows)
    await served.records(list(answer.prediction_ids))
    assert scored.loc[served.rows["trip"], "score"].tolist() == list(answer.scores)
    refused = trainer_api.StartRunRequest(request_id=new_request_id(), model="late", training_set_digest=built.digest)
    with pytest.raises(grpc.aio.AioRpcError, match="has no labels"):
        await served.suite.stub("trainer").StartRun(refused)
    wrong = scoring_api.SnapshotRows(dataset="ends", snapshot_digest=snapshots["ends"])
    request = scoring_service_api.RequestScoringRequest(
        request_id=new_request_id(), bundle_digest=digest, snapshot=wrong
    )
    with pytest.raises(grpc.aio.AioRpcError, match="scores rows of dataset 'trips', not of 'ends'"):
        await scorings.RequestScoring(request)


async def what_was_made_is_checked(served: Served) -> None:
    monitor = served.suite.stub("monitor")
    answer = await served.predict(served.rows[:5])
    honest = (await served.records(list(answer.prediction_ids)))[0]
    check = await monitor.CheckParity(monitor_api.CheckParityRequest(request_id=new_request_id(), endpoint="late"))
    every = served.recorded - 3  # of three the request brought one of the columns
    checked = [column for column in served.bundle.columns if column.source != "request"]
    # The model does not take the weather, but a transform does.
    assert check.check.values == (every + 3) * (len(checked) + 1) - 3
    assert list(check.report.differences) == []

    wrong = PredictionRecord()
    wrong.CopyFrom(honest)
    wrong.prediction_id = "wrong/0"
    wrong.numeric_values[served.bundle.numeric.index("minute")] += 1
    without = PredictionRecord()
    without.CopyFrom(honest)
    without.prediction_id = "without/0"
    del without.inputs[:]
    await monitor.RecordPredictions(monitor_api.RecordPredictionsRequest(predictions=[wrong, without]))
    again = await monitor.CheckParity(monitor_api.CheckParityRequest(request_id=new_request_id(), endpoint="late"))
    made = sum(column.source == "transform" for column in checked)
    assert again.check.values - check.check.values == 2 * (len(checked) + 1) - made - 1
    (found,) = again.report.differences
    assert (found.prediction_id, found.served.column) == ("wrong/0", "minute")
    assert found.served.number == found.computed.number + 1
    assert len(again.alarms) == 1


def test_a_manifest_is_read_as_it_was_written() -> None:
    bundle = Bundle(model="m", problem="binary", columns=(), files={}, transforms=tuple(TRANSFORMS))
    assert Bundle.from_bytes(json.dumps(bundle.to_json()).encode()) == bundle
