"""The settings that every service has. A service adds its own in a subclass with `env_prefix="LINEAL_<SERVICE>_"`."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from lineal.profile import PORTS


class SettingsInvalid(SystemExit):
    """A setting cannot be used. Left alone it ends the process with one line per setting."""


class ServiceSettings(BaseSettings):
    """Read once, from the environment.

    `LINEAL_<SERVICE>_HOST`, `_PORT`, `_METRICS_PORT` (without it there is no `/metrics`), `_DATABASE_URL`,
    `_DEADLINE_SECONDS`, `_DRAIN_SECONDS`, `_MAX_CONCURRENT_RPCS` and `_MAX_MESSAGE_BYTES` are the service's own;
    `LINEAL_DATA_DIR`, `LINEAL_ARTIFACTS_URL`, `LINEAL_PROFILE`, `LINEAL_DEV`, `LINEAL_LOG_LEVEL` and
    `LINEAL_ALLOW_INSECURE_BIND` are shared by all. Instances for tests take the names of the fields.
    """

    model_config = SettingsConfigDict(env_prefix="LINEAL_", populate_by_name=True, extra="ignore", frozen=True)

    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    database_url: str | None = None
    deadline_seconds: float = Field(default=30.0, gt=0)
    drain_seconds: float = Field(default=1.0, ge=0)
    max_concurrent_rpcs: int = Field(default=1024, gt=0)
    max_message_bytes: int = Field(default=4 * 1024 * 1024, gt=0)

    data_dir: Path = Field(default=Path("data"), validation_alias="LINEAL_DATA_DIR")
    artifacts_url: str | None = Field(default=None, validation_alias="LINEAL_ARTIFACTS_URL")
    profile: Path | None = Field(default=None, validation_alias="LINEAL_PROFILE")
    dev: bool = Field(default=False, validation_alias="LINEAL_DEV")
    log_level: str = Field(default="INFO", validation_alias="LINEAL_LOG_LEVEL")
    allow_insecure_bind: bool = Field(default=False, validation_alias="LINEAL_ALLOW_INSECURE_BIND")

    def __init__(self, **values: Any) -> None:
        """Read the settings.

        Raises SettingsInvalid, which names each environment variable that is wrong.
        """
        try:
            super().__init__(**values)
        except ValidationError as error:
            lines = [self._explained(str(wrong["loc"][0]), wrong["msg"], wrong["input"]) for wrong in error.errors()]
            raise SettingsInvalid("\n".join(lines)) from None

    @classmethod
    def _explained(cls, name: str, why: str, found: Any) -> str:
        variable = name if name.startswith("LINEAL_") else f"{cls.model_config.get('env_prefix', '')}{name.upper()}"
        return f"{cls.service_name()}: {variable}={found} cannot be used: {why}"

    @model_validator(mode="before")
    @classmethod
    def _usual_port(cls, values: Any) -> Any:
        if isinstance(values, dict) and "port" not in values and cls.service_name() in PORTS:
            return values | {"port": PORTS[cls.service_name()]}
        return values

    @classmethod
    def service_name(cls) -> str:
        """Return the name of the service, as its prefix of environment variables has it."""
        prefix = cls.model_config.get("env_prefix", "")
        return prefix.removeprefix("LINEAL_").rstrip("_").lower().replace("_", "-")

    def address(self, port: int) -> str:
        """Return the host with a port, as gRPC wants it."""
        return f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"

    @property
    def instance(self) -> str:
        """Return the name of what this process keeps on disk: the service's, unless several share a port."""
        return self.service_name()

    @property
    def shares_port(self) -> bool:
        """Return whether other processes of the service listen on the same port, among which calls are divided."""
        return False

    @property
    def service_dir(self) -> Path:
        """Return the folder of this process; it may not exist yet."""
        return self.data_dir / self.instance

    @property
    def database(self) -> str:
        """Return the SQLAlchemy URL of the service's database."""
        if self.database_url:
            return self.database_url
        return f"sqlite:///{quote(str(self.service_dir.resolve() / f'{self.service_name()}.db'))}"

    @property
    def artifacts(self) -> str:
        """Return the root of the artifact store that all services share: a folder or an fsspec URL."""
        return self.artifacts_url or str(self.data_dir.resolve() / "artifacts")


class ClusterSettings(ServiceSettings):
    """Settings of a service that computes on Dask, beside those of every service.

    `DASK_SCHEDULER` is the address of a Dask scheduler whose workers reach the artifact store; without it the service
    starts `DASK_WORKERS` processes of its own, each limited to `DASK_WORKER_MEBIBYTES`, when there is something to
    compute. `DASK_TLS_CA`, `DASK_TLS_CERTIFICATE` and `DASK_TLS_KEY` are PEM files for a scheduler at `tls://`, all
    three or none.
    """

    dask_scheduler: str | None = None
    dask_workers: int = Field(default=2, gt=0)
    dask_worker_mebibytes: int = Field(default=1024, ge=256)
    dask_tls_ca: Path | None = None
    dask_tls_certificate: Path | None = None
    dask_tls_key: Path | None = Field(default=None, validate_default=True)

    @field_validator("dask_tls_key")
    @classmethod
    def _tls_is_whole(cls, key: Path | None, others: ValidationInfo) -> Path | None:
        given = {key is None, *(others.data.get(name) is None for name in ("dask_tls_ca", "dask_tls_certificate"))}
        if len(given) > 1:
            prefix = cls.model_config.get("env_prefix", "")
            raise ValueError(f"{prefix}DASK_TLS_CA, _CERTIFICATE and _KEY go together: give all three or none")
        return key
