"""Settings of features."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from chassis.settings import ServiceSettings


class Settings(ServiceSettings):
    """`LINEAL_FEATURES_*` beside those of every service.

    `DASK_SCHEDULER` is the address of a Dask scheduler whose workers reach the artifact store; without it the service
    starts `DASK_WORKERS` processes of its own, each limited to `DASK_WORKER_MEBIBYTES`, when the first training set is
    asked for. `REDIS_URL` keeps online features in Redis instead of the service's database.
    """

    model_config = SettingsConfigDict(env_prefix="LINEAL_FEATURES_")

    dask_scheduler: str | None = None
    dask_workers: int = Field(default=2, gt=0)
    dask_worker_mebibytes: int = Field(default=1024, ge=256)
    redis_url: str | None = None
