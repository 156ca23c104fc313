"""Secure aggregation's settings, and the key that clients seal their updates to."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.adapters.key_file import load_or_make


class SecureAggregationSettings(BaseSettings):
    """FEDLORA_SECURE_AGGREGATION_* variables."""

    model_config = SettingsConfigDict(env_prefix="FEDLORA_SECURE_AGGREGATION_", extra="forbid", frozen=True)

    key_file: Path = Field(Path("~/.fedlora/aggregation.key"), description="X25519 key, made when absent")
    rebuild_s: float = Field(5.0, ge=0, description="after a start, before a passed deadline counts")


def load_key(path: Path) -> X25519PrivateKey:
    """The key in `path`, made first when the file is absent."""
    return X25519PrivateKey.from_private_bytes(
        load_or_make(path, lambda: X25519PrivateKey.generate().private_bytes_raw())
    )
