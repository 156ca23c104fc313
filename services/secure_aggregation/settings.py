"""Secure aggregation's settings, and the key that clients seal their updates to."""

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class SecureAggregationSettings(BaseSettings):
    """FEDLORA_SECURE_AGGREGATION_* variables."""

    model_config = SettingsConfigDict(env_prefix="FEDLORA_SECURE_AGGREGATION_", extra="forbid", frozen=True)

    key_file: Path = Field(Path("~/.fedlora/aggregation.key"), description="X25519 key, made when absent")
    rebuild_s: float = Field(5.0, ge=0, description="after a start, before a passed deadline counts")


def load_key(path: Path) -> X25519PrivateKey:
    """The key in `path`, made first (mode 0600) when the file is absent."""
    path = path.expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        fresh = path.with_name(f"{path.name}.{os.getpid()}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(X25519PrivateKey.generate().private_bytes_raw())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(fresh, path)  # the first of two processes wins, and both read its key
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return X25519PrivateKey.from_private_bytes(path.read_bytes())
