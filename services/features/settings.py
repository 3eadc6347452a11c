"""Settings of features."""

from pathlib import Path

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from chassis.settings import ServiceSettings


class Settings(ServiceSettings):
    """`LINEAL_FEATURES_*` beside those of every service.

    `DASK_SCHEDULER` is the address of a Dask scheduler whose workers reach the artifact store; without it the service
    starts `DASK_WORKERS` processes of its own, each limited to `DASK_WORKER_MEBIBYTES`, when the first training set is
    asked for. `DASK_TLS_CA`, `DASK_TLS_CERTIFICATE` and `DASK_TLS_KEY` are PEM files for a scheduler at `tls://`, all
    three or none. `REDIS_URL` keeps online features in Redis instead of the service's database.
    """

    model_config = SettingsConfigDict(env_prefix="LINEAL_FEATURES_")

    dask_scheduler: str | None = None
    dask_workers: int = Field(default=2, gt=0)
    dask_worker_mebibytes: int = Field(default=1024, ge=256)
    dask_tls_ca: Path | None = None
    dask_tls_certificate: Path | None = None
    dask_tls_key: Path | None = Field(default=None, validate_default=True)
    redis_url: str | None = None

    @field_validator("dask_tls_key")
    @classmethod
    def _tls_is_whole(cls, key: Path | None, others: ValidationInfo) -> Path | None:
        given = {key is None, *(others.data.get(name) is None for name in ("dask_tls_ca", "dask_tls_certificate"))}
        if len(given) > 1:
            raise ValueError("LINEAL_FEATURES_DASK_TLS_CA, _CERTIFICATE and _KEY go together: give all three or none")
        return key
