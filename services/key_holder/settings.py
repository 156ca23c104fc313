"""A key holder's settings, read once from FEDLORA_KEY_HOLDER_* variables."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.adapters.key_file import load_or_make
from shared.core.secagg.sealing import SealingKey
from shared.events.ids import ClientId


class KeyHolderSettings(BaseSettings):
    """Who this key holder is, and what it serves."""

    model_config = SettingsConfigDict(env_prefix="FEDLORA_KEY_HOLDER_", extra="forbid", frozen=True)

    holder_id: ClientId = Field(description="the name by which jobs ask for it, and the broker's user")
    home: Path = Field(Path("~/.fedlora"), description="holds its keys and its database")
    fewest: int = Field(2, ge=2, description="it helps to open no sum of fewer updates")
    keep_s: float = Field(86_400.0, gt=0, description="shares of a session that never ends are dropped after")

    @property
    def folder(self) -> Path:
        """`home`, with ~ expanded."""
        return self.home.expanduser()


def load_sealing_key(path: Path) -> SealingKey:
    """The key in `path`, made first when the file is absent."""
    return SealingKey.from_bytes(load_or_make(path, lambda: SealingKey.generate().to_bytes()))
