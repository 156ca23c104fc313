"""The gateway's settings, read once from FEDLORA_GATEWAY_* variables."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class GatewaySettings(BaseSettings):
    """Where the gateway listens, and how it waits."""

    model_config = SettingsConfigDict(env_prefix="FEDLORA_GATEWAY_", extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", description="address to listen on; there is no login yet, so loopback")
    port: int = Field(8480, ge=0, le=65535, description="0 takes a free one")
    longest_wait_s: float = Field(30.0, gt=0, le=300, description="of a long poll")
    poll_s: float = Field(0.1, gt=0, le=5, description="between looks at the feed during a long poll")
