"""Settings of monitor."""

from typing import Literal

from pydantic_settings import SettingsConfigDict

from chassis.settings import ServiceSettings


class Settings(ServiceSettings):
    """`LINEAL_MONITOR_*`, beside those of every service.

    `detector` is `alibi` (alibi-detect, Business Source License 1.1), `scipy`, or `auto`: alibi-detect where installed.
    """

    model_config = SettingsConfigDict(env_prefix="LINEAL_MONITOR_")

    detector: Literal["auto", "alibi", "scipy"] = "auto"
