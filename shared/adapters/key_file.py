"""Private keys in files that only their owner reads, made where they are used."""

import os
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def load_or_make(path: Path, make: Callable[[], bytes]) -> bytes:
    """The key in `path`, made first (mode 0600) when the file is absent."""
    path = path.expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        fresh = path.with_name(f"{path.name}.{os.getpid()}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(make())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(fresh, path)  # the first of two processes wins, and both use its key
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return path.read_bytes()


def load_signing_key(path: Path) -> Ed25519PrivateKey:
    """The Ed25519 key in `path`, by which others know who signs; made first when the file is absent."""
    return Ed25519PrivateKey.from_private_bytes(
        load_or_make(path, lambda: Ed25519PrivateKey.generate().private_bytes_raw())
    )
