"""Settings of serving."""

import os
import socket

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from chassis.settings import ClusterSettings


class Settings(ClusterSettings):
    """`LINEAL_SERVING_*`, beside those of every service with a Dask cluster, which scores many rows at once.

    `replica_id` names this instance to the registry while it lives. `spool_bytes` is how much the spool of prediction
    records may hold while monitor is away. `trusted_keys` are ids, with commas between, of registry's signing keys that
    need nobody to vouch for them; without any it is the first key of the log. `loaded_bundles` is how many bundles are
    held in memory at most. `max_rows`, `max_columns` and `max_text_bytes` are how large a request may be, the last of
    one text in UTF-8.

    `worker` is 0 for a process that has its port to itself. Processes numbered from 1 share one port, a core each: the
    kernel divides connections among them (SO_REUSEPORT). Each is a replica with a lease and a spool of its own.
    """

    model_config = SettingsConfigDict(env_prefix="LINEAL_SERVING_")

    replica_id: str = Field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}")
    spool_bytes: int = Field(default=1 << 30, gt=0)
    trusted_keys: str = ""
    loaded_bundles: int = Field(default=64, gt=0)
    max_rows: int = Field(default=10_000, gt=0)
    max_columns: int = Field(default=1_000, gt=0)
    max_text_bytes: int = Field(default=10_000, gt=0)
    worker: int = Field(default=0, ge=0, le=999)

    @property
    def instance(self) -> str:
        """Return the name of what this process keeps on disk."""
        return f"{self.service_name()}-{self.worker}" if self.worker else self.service_name()

    @property
    def shares_port(self) -> bool:
        """Return whether other workers listen on the same port."""
        return self.worker > 0
