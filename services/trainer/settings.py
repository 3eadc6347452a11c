"""Settings of the trainer."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from chassis.settings import ServiceSettings


class Settings(ServiceSettings):
    """`LINEAL_TRAINER_*`, beside those of every service.

    `concurrent_jobs` fits, evaluations and imports go on at once, each in a process of its own.
    """

    model_config = SettingsConfigDict(env_prefix="LINEAL_TRAINER_")

    concurrent_jobs: int = Field(default=1, gt=0)
