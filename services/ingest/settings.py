"""Settings of ingest."""

from pydantic_settings import SettingsConfigDict

from chassis.settings import ServiceSettings


class Settings(ServiceSettings):
    """`LINEAL_INGEST_*`; it has none beside those of every service."""

    model_config = SettingsConfigDict(env_prefix="LINEAL_INGEST_")
