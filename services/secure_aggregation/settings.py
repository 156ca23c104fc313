"""Secure aggregation's settings, and its keys."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.secure_aggregation.protocols.base import Keys
from shared.adapters.key_file import load_or_make
from shared.core.secagg.sealing import PRIVATE_BYTES, SealingKey
from shared.errors import Refused


class SecureAggregationSettings(BaseSettings):
    """FEDLORA_SECURE_AGGREGATION_* variables."""

    model_config = SettingsConfigDict(env_prefix="FEDLORA_SECURE_AGGREGATION_", extra="forbid", frozen=True)

    key_file: Path = Field(
        Path("~/.fedlora/aggregation.key"), description="sealing and signing key, made when absent"
    )
    rebuild_s: float = Field(5.0, ge=0, description="after a start, before a passed deadline counts")


def load_keys(path: Path) -> Keys:
    """The keys in `path`, made first when the file is absent. Raises: Refused for another content."""
    content = load_or_make(
        path, lambda: SealingKey.generate().to_bytes() + Ed25519PrivateKey.generate().private_bytes_raw()
    )
    if len(content) != PRIVATE_BYTES + 32:
        raise Refused(
            str(path),
            f"holds {len(content)} bytes, {PRIVATE_BYTES + 32} expected",
            "restore the key, or remove the file: clients that trusted it then need a new home",
        )
    return Keys(
        SealingKey.from_bytes(content[:PRIVATE_BYTES]),
        Ed25519PrivateKey.from_private_bytes(content[PRIVATE_BYTES:]),
    )
