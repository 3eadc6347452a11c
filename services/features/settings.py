"""Settings of features."""

from pydantic_settings import SettingsConfigDict

from chassis.settings import ClusterSettings


class Settings(ClusterSettings):
    """`LINEAL_FEATURES_*`, beside those of every service with a Dask cluster.

    Workers start when the first training set is asked for. `REDIS_URL` keeps online features in Redis instead of the
    service's database.
    """

    model_config = SettingsConfigDict(env_prefix="LINEAL_FEATURES_")

    redis_url: str | None = None
