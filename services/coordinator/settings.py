"""The coordinator's settings, read once from FEDLORA_COORDINATOR_* variables."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class CoordinatorSettings(BaseSettings):
    """How long the coordinator believes and waits."""

    model_config = SettingsConfigDict(env_prefix="FEDLORA_COORDINATOR_", extra="forbid", frozen=True)

    presence_s: float = Field(30.0, gt=0, description="a client counts as present after a sign of life")
    grace_s: float = Field(30.0, gt=0, description="after a round's deadline, for sums to arrive")
    look_again_s: float = Field(5.0, gt=0, description="between looks for enough clients")
    gather_everyone: bool = Field(
        False, description="a job's first round waits for all who were asked, even where it takes a few"
    )
