"""What lineage reads from the environment."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from chassis.settings import ServiceSettings


class Settings(ServiceSettings):
    """`LINEAL_LINEAGE_*`: see README.md."""

    model_config = SettingsConfigDict(env_prefix="LINEAL_LINEAGE_")

    max_message_bytes: int = Field(default=16 * 1024 * 1024, gt=0)
    max_pending_appends: int = Field(default=1024, gt=0)
    max_event_bytes: int = Field(default=1024 * 1024, gt=0)
