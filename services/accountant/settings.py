"""Limits that the federation's administrator sets."""

from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.core.privacy.limits import UNRAISED, LimitName, possible
from shared.events.ids import ClientId


class AccountantSettings(BaseSettings):
    """FEDLORA_ACCOUNTANT_ variables. They may lower a limit; `fedlora limits raise` raises one and says why.

    Attributes:
        clients: limits of clients that have their own, as JSON: {"alice": {"epsilon": 4}}.
    """

    model_config = SettingsConfigDict(env_prefix="FEDLORA_ACCOUNTANT_", extra="ignore", frozen=True)

    largest_epsilon: float = UNRAISED["epsilon"]  # of one job
    largest_delta: float = UNRAISED["delta"]
    largest_delta_times_records: float = UNRAISED["delta-times-records"]
    client_epsilon: float = UNRAISED["client-epsilon"]  # of one client over all jobs, at largest_delta
    clients: dict[ClientId, dict[LimitName, float]] = {}
    warn_at: float = Field(0.8, gt=0, le=1)  # fraction of a client's epsilon in a job

    @property
    def limits(self) -> dict[tuple[LimitName, str], float]:
        """By name and client; everyone's under the empty client."""
        everyone: dict[tuple[LimitName, str], float] = {
            ("epsilon", ""): self.largest_epsilon,
            ("delta", ""): self.largest_delta,
            ("delta-times-records", ""): self.largest_delta_times_records,
            ("client-epsilon", ""): self.client_epsilon,
        }
        own = {(name, client): value for client, of in self.clients.items() for name, value in of.items()}
        return everyone | own

    @model_validator(mode="after")
    def _only_lowers(self) -> Self:
        for (name, client), value in self.limits.items():
            if not possible(name, value) or value > UNRAISED[name]:
                whose = f"{client}'s {name}" if client else name
                raise ValueError(
                    f"{whose} is {value:g}; above 0 and at most {UNRAISED[name]:g} here, "
                    "go beyond with `fedlora limits raise`, which asks for a reason"
                )
        return self
