"""Settings of ingest."""

from pathlib import Path

from pydantic_settings import SettingsConfigDict

from chassis.settings import ServiceSettings


class Settings(ServiceSettings):
    """`LINEAL_INGEST_PSEUDONYM_KEY_FILE`, beside the settings of every service."""

    model_config = SettingsConfigDict(env_prefix="LINEAL_INGEST_")

    pseudonym_key_file: Path | None = None

    @property
    def pseudonym_key(self) -> Path:
        """Return the file of the key that identifiers are pseudonymised under; made when it is missing."""
        return self.pseudonym_key_file or self.service_dir / "pseudonym.key"
