"""Settings of monitor."""

from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from chassis.settings import ServiceSettings


class Settings(ServiceSettings):
    """`LINEAL_MONITOR_*`, beside those of every service.

    `detector` is `alibi` (alibi-detect, Business Source License 1.1), `scipy`, or `auto`: alibi-detect where installed.
    `contest_days` is how long a person may take over a contested decision until it is overdue; 0 is no limit.
    """

    model_config = SettingsConfigDict(env_prefix="LINEAL_MONITOR_")

    detector: Literal["auto", "alibi", "scipy"] = "auto"
    # As long as article 12 (3) of the GDPR gives.
    contest_days: int = Field(default=30, ge=0)
