"""A model whose ten features are looked up by tail number, and the flights that it is asked about.

The rows to ask about go into two folders, as `benchmarks.serving_flights` has them: `sent` has all the columns of the
bundle, `keys` the tail number in the place of those that are looked up. Both endpoints have the same champion.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa

from benchmarks import landings, online_load
from benchmarks.serving_suite import promote
from chassis.ids import new_request_id
from examples.flights import source
from lineal.api.features.v1 import features_service_pb2 as features_api
from lineal.api.ingest.v1 import ingest_service_pb2 as ingest_api
from lineal.api.registry.v1 import registry_service_pb2 as registry_api
from lineal.api.registry.v1.model_pb2 import Model
from lineal.api.trainer.v1 import trainer_service_pb2 as trainer_api
from lineal.api.trainer.v1.run_pb2 import Parameters, RunState
from lineal.client import Client, connect
from lineal.profile import Profile
from tabular.parquet import conform
from tabular.schema import arrow_schema

SENT, KEYS = "sent", "keys"
# The cut-off of a flight's features: two hours before it departs, as the feature set says.
_BEFORE = pd.Timedelta(hours=2)
_ASKED = 2_000
_SECONDS = 600.0
_TREES = Parameters(iterations=300, depth=6, early_stopping_rounds=300)


class RunFailed(RuntimeError):
    """A model could not be trained."""


def release(profile: Path, folder: Path, rows: int) -> None:
    """Send so many landings, train on the flights until then, release, and write the rows to ask about."""
    with connect(profile, _SECONDS) as client:
        found = asyncio.run(
            online_load.fill(client.profile.address("ingest"), client.profile.address("features"), rows)
        )
        (declared,) = (dataset for dataset in landings.datasets() if dataset.name != landings.DATASET)
        schema = arrow_schema(declared)
        last = pd.Timestamp(found["cutoff"], unit="us", tz="UTC")
        flights = source.load().flights
        learnt = flights[flights["event_time"] <= last]
        client.ingest(declared.name, conform(pa.Table.from_pandas(learnt, preserve_index=False), schema))
        digest = _trained(client, [declared.name, landings.DATASET])
        soon = flights[(flights["event_time"] - _BEFORE > last) & flights["tailnum"].isin(set(found["tails"]))]
        _write(client, folder, soon.sort_values("event_time").head(_ASKED))
    for name in (SENT, KEYS):
        promote(profile, name, landings.FEATURE_SET, digest)


def otherwise(profile: Path, folder: Path, address: str) -> int:
    """Count the rows that are scored otherwise by keys than by the columns that keys stand for."""
    scores = []
    addresses = {**Profile.load(profile).addresses, "serving": address}
    with connect(Profile(addresses), _SECONDS) as client:
        for name in (SENT, KEYS):
            asked = pd.read_parquet(folder / name / "rows.parquet")
            times = pd.to_datetime(asked.pop("event_time"))
            scores.append(client.predict(name, asked, event_time=times)["score"])
    return int((scores[0] != scores[1]).sum())


def _trained(client: Client, datasets: list[str]) -> str:
    """Return the digest of an approved bundle of the feature set."""
    call, name = client.services.registry.call, landings.FEATURE_SET
    model = Model(name=name, feature_set=name)
    call("RegisterModel", registry_api.RegisterModelRequest(request_id=new_request_id(), model=model))
    request = features_api.BuildTrainingSetRequest(
        request_id=new_request_id(), feature_set=name, snapshots=dict(_snapshots(client, datasets))
    )
    built = list(client.services.features.stream("BuildTrainingSet", request, _SECONDS))[-1].training_set
    start = trainer_api.StartRunRequest(
        request_id=new_request_id(), model=name, training_set_digest=built.digest, parameters=_TREES
    )
    run_id = client.services.trainer.call("StartRun", start).run_id
    watch = trainer_api.WatchRunRequest(run_id=run_id)
    run = list(client.services.trainer.stream("WatchRun", watch, _SECONDS))[-1].run
    if run.state != RunState.RUN_STATE_COMPLETED:
        raise RunFailed(run.failure)
    digest = str(run.bundle_digest)
    evaluated = client.services.trainer.call(
        "EvaluateBundles",
        trainer_api.EvaluateBundlesRequest(
            request_id=new_request_id(), training_set_digest=built.digest, bundle_digests=[digest]
        ),
    )
    call(
        "RegisterBundle",
        registry_api.RegisterBundleRequest(request_id=new_request_id(), model=name, bundle_digest=digest),
    )
    call(
        "EvaluateGates",
        registry_api.EvaluateGatesRequest(
            request_id=new_request_id(), bundle_digest=digest, evaluation_digest=evaluated.evaluation_digest
        ),
    )
    client.approve(digest, "measured")
    return digest


def _snapshots(client: Client, datasets: list[str]) -> Iterator[tuple[str, str]]:
    for name in datasets:
        request = ingest_api.CreateSnapshotRequest(request_id=new_request_id(), dataset=name)
        yield name, client.services.ingest.call("CreateSnapshot", request).snapshot.digest


def _write(client: Client, folder: Path, asked: pd.DataFrame) -> None:
    asked = asked.reset_index(drop=True)
    times = asked["event_time"] - _BEFORE
    found = client.online_features(landings.FEATURE_SET, asked[["tailnum"]], at=times)
    plain = asked[[each.column for each in landings.feature_set().request_features]]
    plain = plain.assign(event_time=[time.isoformat() for time in times])
    for name, frame in ((SENT, pd.concat([plain, found], axis=1)), (KEYS, plain.assign(tailnum=asked["tailnum"]))):
        (folder / name).mkdir(parents=True)
        texts = [column for column in frame if not pd.api.types.is_numeric_dtype(frame[column])]
        frame.astype(dict.fromkeys(texts, "object")).to_parquet(folder / name / "rows.parquet", index=False)
