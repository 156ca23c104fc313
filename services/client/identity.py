"""Who the worker is: its Ed25519 signing key, in a file that only its owner reads."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.adapters.key_file import load_or_make


def load_signing_key(path: Path) -> Ed25519PrivateKey:
    """The key in `path`, made first when the file is absent."""
    return Ed25519PrivateKey.from_private_bytes(
        load_or_make(path, lambda: Ed25519PrivateKey.generate().private_bytes_raw())
    )
