"""The robust aggregator's settings, read once from FEDLORA_ROBUST_AGGREGATOR_* variables."""

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class RobustAggregatorSettings(BaseSettings):
    """Which rule, and how many sums at once."""

    model_config = SettingsConfigDict(env_prefix="FEDLORA_ROBUST_AGGREGATOR_", extra="forbid", frozen=True)

    rule: Literal["mean"] = Field("mean", description="a name in shared/core/robust")
