"""Shamir's sharing of one 32-byte secret, and its reconstruction past wrong shares.

The field has 2^256 + 297 elements, the first probable prime above 2^256: every string of 32 bytes is an
element, where 2^256 - 189 would refuse some, and any number of holders has a point, where bytes of GF(256)
end at 255. A share takes 33 bytes. Arithmetic is that of Python's integers, which is not constant in time.

Source: Shamir 1979, Communications of the ACM 22(11).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from shared.core.randomness import RandomBytes
from shared.errors import Rejected

P = 2**256 + 297
SECRET_BYTES, SHARE_BYTES = 32, 33
_END = P.to_bytes(SHARE_BYTES, "big")
_COEFFICIENT_BYTES = 48  # reduced modulo P: within 2^-127 of uniform


@dataclass(frozen=True)
class Opened:
    """A secret, and the points whose wrong shares stood in its way, or beside those that did, ascending."""

    secret: bytes
    liars: tuple[int, ...]


def share(secret: bytes, threshold: int, holders: int, random_bytes: RandomBytes) -> tuple[bytes, ...]:
    """The shares of points 1, ..., `holders`, 33 bytes each; `threshold` of them open `secret` (32 bytes) and
    fewer say nothing.

    Raises: Rejected for a secret of another length, or a threshold outside 1 to `holders`.
    """
    if len(secret) != SECRET_BYTES or not 1 <= threshold <= holders:
        raise Rejected(f"a threshold of {threshold} of {holders} for a secret of {len(secret)} bytes")
    coefficients = [int.from_bytes(random_bytes(_COEFFICIENT_BYTES), "big") % P for _ in range(threshold - 1)]
    polynomial = [int.from_bytes(secret, "big"), *coefficients]
    return tuple(_value(polynomial, point).to_bytes(SHARE_BYTES, "big") for point in range(1, holders + 1))


def reconstruct(shares: Mapping[int, bytes], threshold: int, fits: Callable[[bytes], bool]) -> Opened:
    """Open a secret from at least `threshold` shares, of which some may be wrong.

    The shares, in order of their points and around the end, are tried `threshold` consecutive ones at a time
    until `fits` accepts the secret. One wrong share among threshold + 1 is always passed over; of more, those
    that leave a run of `threshold` right ones. Shares are compared with each other when one stood in the way,
    not when the first run opens the secret.

    Args:
        shares: by point from 1; one that is no element of the field is a wrong one.
        threshold: that of `share`.
        fits: whether a secret is the one that was committed to.

    Raises: Rejected for too few shares, or when no run opens what fits.
    """
    points = tuple(sorted(shares))
    if len(points) < threshold:
        raise Rejected(f"{len(points)} shares do not open a secret: {threshold} do")
    for start in range(len(points) if len(points) > threshold else 1):
        run = tuple(sorted((points + points)[start : start + threshold]))
        value = _at_zero(shares, run)
        if value < 2 ** (8 * SECRET_BYTES) and fits(secret := value.to_bytes(SECRET_BYTES, "big")):
            rest = (point for point in points if start and point not in run)
            return Opened(secret, tuple(p for p in rest if _difference(shares, tuple(sorted((*run, p))))))
    raise Rejected("the shares open no secret that fits its commitment")


def _value(polynomial: list[int], point: int) -> int:
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * point + coefficient) % P
    return value


def is_element(share: bytes) -> bool:
    """Whether these bytes can be a share."""
    return len(share) == SHARE_BYTES and share < _END


def _at_zero(shares: Mapping[int, bytes], run: tuple[int, ...]) -> int:
    """f(0) of the polynomial of degree below len(run) through `run`: the difference over 0 and `run` is 0."""
    of_zero, *weights = _weights((0, *run))
    return -_combined(shares, run, weights) * _inverse(of_zero) % P


def _difference(shares: Mapping[int, bytes], points: tuple[int, ...]) -> int:
    """A multiple of the divided difference over `points`: 0 if a polynomial of degree below len(points) - 1
    goes through them."""
    return _combined(shares, points, _weights(points)) % P


def _combined(shares: Mapping[int, bytes], points: tuple[int, ...], weights: Sequence[int]) -> int:
    return sum(
        [weight * int.from_bytes(shares[point], "big") for point, weight in zip(points, weights, strict=True)]
    )


@lru_cache(maxsize=256)  # where nobody is lost, all secrets open from the same points
def _weights(points: tuple[int, ...]) -> tuple[int, ...]:
    """For each of `points`, ascending from 0 or more, a weight of the divided difference over them, times one
    number for all: small integers, without an inversion.

    Over 0, ..., m the weights are 1 / (i! (m - i)!) with alternating signs, times m! binomials; what is
    missing between cancels its own factor.

    Source: Berrut and Trefethen 2004, SIAM Review 46(3), Sections 3 and 5 (equidistant nodes).
    """
    binomials = _signed_binomials(points[-1])
    weights = [binomials[point] for point in points]
    for other in set(range(points[-1])).difference(points):
        weights = [weight * (point - other) for weight, point in zip(weights, points, strict=True)]
    return tuple(weights)


@lru_cache(maxsize=64)
def _signed_binomials(order: int) -> tuple[int, ...]:
    return tuple((-1) ** i * math.comb(order, i) for i in range(order + 1))


@lru_cache(maxsize=4096)
def _inverse(value: int) -> int:
    return pow(value, -1, P)
