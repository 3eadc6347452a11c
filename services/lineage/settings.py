"""What lineage reads from the environment."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from chassis.settings import ServiceSettings


class Settings(ServiceSettings):
    """`LINEAL_LINEAGE_*`: see README.md."""

    model_config = SettingsConfigDict(env_prefix="LINEAL_LINEAGE_")

    # Name of the log in its checkpoints; made up when the first key is made.
    origin: str | None = None
    # Folder of the keys that sign; `keys` in the service's folder.
    keys_dir: Path | None = None
    # A folder or fsspec URL that keeps signed checkpoints, best on another machine; a folder of the service by default.
    checkpoints_url: str | None = None
    checkpoint_seconds: float = Field(default=60.0, gt=0)
    max_message_bytes: int = Field(default=16 * 1024 * 1024, gt=0)
    max_pending_appends: int = Field(default=1024, gt=0)
    # A writer that does nothing for so long loses its session, and a standby takes over (PostgreSQL).
    writer_timeout_seconds: float = Field(default=4.0, gt=0)
    max_event_bytes: int = Field(default=1024 * 1024, gt=0)
