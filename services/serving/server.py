"""Composition root of serving."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from chassis.server import Harness
from lineal.api.inference.v2 import inference_service_pb2
from lineal.api.inference.v2.inference_service_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from lineal.api.monitor.v1.monitor_service_pb2 import RecordPredictionsRequest
from lineal.api.monitor.v1.monitor_service_pb2_grpc import MonitorServiceStub
from lineal.api.serving.v1 import serving_service_pb2
from lineal.api.serving.v1.serving_service_pb2_grpc import add_ServingServiceServicer_to_server
from services.serving.arms import ArmTable
from services.serving.explaining import Explainer
from services.serving.input_limits import InputLimits
from services.serving.lease import LeaseKeeper
from services.serving.limiter import Limiter
from services.serving.loader import Loader
from services.serving.lookups import Lookups
from services.serving.metrics import prediction_durations, serving_metrics
from services.serving.oip_servicer import InferenceServicer
from services.serving.predictor import Predictor
from services.serving.recorder import Recorder
from services.serving.scorers import Scorers
from services.serving.scoring_servicer import add_scorings
from services.serving.servicer import ServingServicer
from services.serving.settings import Settings
from services.serving.signatures import Signatures
from services.serving.spool import Spool

_RECORD_SECONDS = 10.0


async def build(harness: Harness) -> None:
    """Put serving together."""
    settings = harness.settings
    assert isinstance(settings, Settings)
    monitor = MonitorServiceStub(harness.channel("monitor"))

    async def send(batch: RecordPredictionsRequest) -> int:
        return (await monitor.RecordPredictions(batch, timeout=_RECORD_SECONDS)).recorded

    spool = Spool(settings.service_dir / "spool", max_bytes=settings.spool_bytes)
    recorder = Recorder(settings.replica_id, spool, send)
    lease = LeaseKeeper(harness.channel("registry"), settings.replica_id)
    signatures = Signatures(harness.artifacts, settings.trusted_keys.split(","))
    scorers = Scorers(Loader(harness.artifacts, signatures), settings.loaded_bundles)
    arms = ArmTable(harness.log, scorers, signatures, lease.renew_soon)
    lease.generations = lambda: arms.generations
    lease.refused = lambda: arms.refused
    durations = prediction_durations()
    harness.telemetry.histograms.append(durations)
    harness.add_metrics(serving_metrics(arms.names, recorder.counters, durations, scorers))
    lookups = Lookups(harness.channel("features"))
    limiter = Limiter(time.time)
    predictor = Predictor(
        arms, scorers, lookups, recorder, lease, limiter, harness.clock, harness.telemetry.tracer, durations
    )
    limits = InputLimits(settings.max_rows, settings.max_columns, settings.max_text_bytes)
    explainer = Explainer(predictor, arms, harness.artifacts)

    @asynccontextmanager
    async def life() -> AsyncIterator[None]:
        try:
            yield
        finally:
            await lease.leave()
            explainer.close()
            await predictor.drain()
            # What monitor does not take now waits in the spool for the next start.
            await recorder.drain()
            spool.close()

    await harness.enter(life())
    tasks = {"arms": arms.run, "refused arms": arms.retry, "lease": lease.run, "records": recorder.run}
    for name, task in tasks.items():
        harness.add_task(name, task)
    harness.add_check("arms", arms.check)
    harness.add_check("lease", lease.check)
    harness.add_servicer(
        add_ServingServiceServicer_to_server,
        ServingServicer(
            predictor,
            explainer,
            arms,
            recorder,
            settings.replica_id,
            limits,
            harness.clock,
            harness.telemetry.tracer,
            harness.draining,
        ),
        serving_service_pb2.DESCRIPTOR.services_by_name["ServingService"].full_name,
    )
    harness.add_servicer(
        add_GRPCInferenceServiceServicer_to_server,
        InferenceServicer(predictor, arms, lease, limits, harness.clock),
        inference_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name,
    )
    add_scorings(harness, settings)
