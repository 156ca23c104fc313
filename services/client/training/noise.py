"""What training draws noise and samples from: the operating system's source."""

import os

from shared.core import noise
from shared.core.noise import noised
from shared.core.randomness import RandomBytes

__all__ = ["KeyStream", "noised"]


class KeyStream(noise.KeyStream):
    """A stream of the core's, under a key from the operating system."""

    def __init__(self, random_bytes: RandomBytes = os.urandom) -> None:
        super().__init__(random_bytes)
