"""Limits that the federation's administrator sets."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class AccountantSettings(BaseSettings):
    """FEDLORA_ACCOUNTANT_ variables."""

    model_config = SettingsConfigDict(env_prefix="FEDLORA_ACCOUNTANT_", extra="ignore", frozen=True)

    largest_epsilon: float = Field(10.0, gt=0)  # of one job
    largest_delta: float = Field(1e-5, gt=0, lt=1)
    client_epsilon: float = Field(10.0, gt=0)  # of one client over all jobs, at largest_delta
    warn_at: float = Field(0.8, gt=0, le=1)  # fraction of a client's epsilon in a job
