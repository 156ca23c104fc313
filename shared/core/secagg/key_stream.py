"""Words of AES-256-CTR, as they are or uniform below a modulus."""

from collections.abc import Iterator

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

KEY_BYTES = 32
UNIFORM_KEY_BYTES = 64
_LOW_31_BITS = np.uint32(2**31 - 1)
_REPLACEMENTS_AT_ONCE = 64
_ZEROS = memoryview(bytes(2**17))


def words(key: bytes, count: int) -> NDArray[np.uint64]:
    """(count,), little-endian, from counter 0. A key that is used here is used once."""
    out = np.empty(count, "<u8")
    _fill(_stream(key), out.data.cast("B"))
    return out


def pieces(key: bytes, count: int, length: int) -> Iterator[NDArray[np.uint64]]:
    """The same words in pieces of `length`, the last one shorter; each is overwritten by the next."""
    stream, out = _stream(key), np.empty(min(count, length), "<u8")
    for start in range(0, count, length):
        piece = out[: min(length, count - start)]
        _fill(stream, piece.data.cast("B"))
        yield piece


def below(modulus: int, count: int, keys: bytes) -> NDArray[np.uint32]:
    """(count,), uniform in 0, ..., modulus - 1, by rejection.

    Words of the first key, cut to 31 bits; each that is `modulus` or more is replaced by the next that is
    not, in order, from the stream of the second key. A longer vector begins with the shorter one.

    Args:
        modulus: between 2^30 and 2^31.
        count: how many.
        keys: 64 bytes, used once, or public.
    """
    values = _low_words(_stream(keys[:KEY_BYTES]), count)
    spare = _stream(keys[KEY_BYTES:UNIFORM_KEY_BYTES])
    rejected = np.flatnonzero(values >= modulus)
    while len(rejected):
        drawn = _low_words(spare, _REPLACEMENTS_AT_ONCE)
        accepted = drawn[drawn < modulus][: len(rejected)]
        values[rejected[: len(accepted)]] = accepted
        rejected = rejected[len(accepted) :]
    return values


def _stream(key: bytes) -> CipherContext:
    return Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()


def _fill(stream: CipherContext, out: memoryview) -> None:
    for start in range(0, len(out), len(_ZEROS)):
        piece = out[start : start + len(_ZEROS)]
        stream.update_into(_ZEROS[: len(piece)], piece)


def _low_words(stream: CipherContext, count: int) -> NDArray[np.uint32]:
    out = np.empty(count, "<u4")
    _fill(stream, out.data.cast("B"))
    return np.asarray(np.bitwise_and(out, _LOW_31_BITS, out=out), np.uint32)
