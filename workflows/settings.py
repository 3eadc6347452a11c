"""Settings of the worker and the bridge."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from chassis.settings import ServiceSettings


class Settings(ServiceSettings):
    """`LINEAL_WORKFLOWS_*`, beside those of every service; the profile has Temporal's address.

    `watch_seconds` is how often each endpoint's periods are examined, `parity_seconds` how often its newest predictions
    are computed anew, `judge_seconds` how often a release is looked at, `approval_seconds` how long a person may take
    before a saga that waits is undone.
    """

    model_config = SettingsConfigDict(env_prefix="LINEAL_WORKFLOWS_")

    namespace: str = "default"
    task_queue: str = "lineal"
    watch_seconds: float = Field(default=60.0, gt=0)
    parity_seconds: float = Field(default=600.0, gt=0)
    judge_seconds: float = Field(default=1.0, gt=0)
    approval_seconds: float = Field(default=604_800.0, gt=0)
