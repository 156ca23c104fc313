"""What a simulation draws instead of the system's randomness: whoever knows the seed knows it all."""

import hashlib

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes


class SeededRandom:
    """A RandomSource: AES-256-CTR under SHA-256(seed, purpose). It protects nobody; nothing outside
    `fedlora.simulation` may use it."""

    def __init__(self, seed: int, *purpose: str) -> None:
        material = "\0".join((str(seed), *purpose)).encode()
        key = hashlib.sha256(b"fedlora simulation\0" + material).digest()
        self._stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def bytes(self, count: int) -> bytes:
        """`count` bytes."""
        return self._stream.update(bytes(count))
