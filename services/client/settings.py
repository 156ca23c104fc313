"""The client worker's settings, read once from FEDLORA_CLIENT_* variables."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.events.ids import ClientId


class ClientSettings(BaseSettings):
    """Who this worker is, and where its owner keeps data, keys and policy."""

    model_config = SettingsConfigDict(env_prefix="FEDLORA_CLIENT_", extra="forbid", frozen=True)

    client_id: ClientId = Field(description="the name that the federation knows, and the broker's user")
    home: Path = Field(Path("~/.fedlora"), description="holds the signing key and the worker's database")
    data: Path = Field(description="the owner's records; they never leave this machine")
    policy_file: Path | None = Field(None, description="default: worker.toml in home, where there is one")
    device: str = Field("auto", description="cuda, cuda:1, mps, cpu; auto takes the first there is")
    memory_mib: int | None = Field(
        None, ge=64, description="for activations and gradients; default: a share of what is free"
    )
    max_rank: int | None = Field(
        None, ge=1, description="of an adapter; jobs with mixed ranks take part with it, others do not"
    )
    heartbeat_s: float = Field(5.0, gt=0, description="between signs of life")

    @property
    def folder(self) -> Path:
        """`home`, with ~ expanded."""
        return self.home.expanduser()

    @property
    def key_path(self) -> Path:
        """Where the Ed25519 signing key is."""
        return self.folder / "signing.key"

    @property
    def token_cache(self) -> Path:
        """Where tokenised records are kept."""
        return self.folder / "tokens"

    @property
    def policy_path(self) -> Path | None:
        """The policy file to read, or None where the defaults hold. A file that was named must exist."""
        if self.policy_file is not None:
            return self.policy_file.expanduser()
        default = self.folder / "worker.toml"
        return default if default.exists() else None
