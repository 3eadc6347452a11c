"""Composition root of the trainer."""

from chassis.server import Harness
from lineal.api.trainer.v1 import trainer_service_pb2
from lineal.api.trainer.v1.trainer_service_pb2_grpc import add_TrainerServiceServicer_to_server
from services.trainer.application import Trainer
from services.trainer.projections import TrainerTables
from services.trainer.servicer import TrainerServicer
from services.trainer.settings import Settings


async def build(harness: Harness) -> None:
    """Put the trainer together."""
    settings = harness.settings
    assert isinstance(settings, Settings)
    trainer = Trainer(
        harness.log,
        harness.artifacts,
        harness.add_projection(TrainerTables()),
        artifacts_url=settings.artifacts,
        folder=settings.service_dir,
        concurrent_jobs=settings.concurrent_jobs,
        profile=harness.profile,
    )
    harness.add_task("jobs", trainer.take_up)
    harness.add_servicer(
        add_TrainerServiceServicer_to_server,
        TrainerServicer(trainer),
        trainer_service_pb2.DESCRIPTOR.services_by_name["TrainerService"].full_name,
    )
