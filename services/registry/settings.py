"""Settings of the registry."""

from datetime import timedelta
from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from chassis.settings import ServiceSettings


class Settings(ServiceSettings):
    """`LINEAL_REGISTRY_*`, beside those of every service.

    `keys_dir` is where the keys lie that sign bundles, `keys` in the service's folder by default; `key_days` is how
    long one of them signs.
    """

    model_config = SettingsConfigDict(env_prefix="LINEAL_REGISTRY_")

    keys_dir: Path | None = None
    key_days: float = Field(default=365, gt=0)

    @property
    def key_life(self) -> timedelta:
        """Return how long a key signs."""
        return timedelta(days=self.key_days)
