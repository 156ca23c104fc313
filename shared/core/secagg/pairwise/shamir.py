"""Shamir's sharing of one 32-byte secret, and its reconstruction past wrong shares.

The field has 2^256 + 297 elements, the first probable prime above 2^256: every string of 32 bytes is an
element, where 2^256 - 189 would refuse some, and any number of holders has a point, where bytes of GF(256)
end at 255. A share takes 33 bytes. Arithmetic is that of Python's integers, which is not constant in time.

Source: Shamir 1979, Communications of the ACM 22(11).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from shared.core.randomness import RandomBytes
from shared.errors import Rejected

P = 2**256 + 297
SECRET_BYTES, SHARE_BYTES = 32, 33
_COEFFICIENT_BYTES = 48  # reduced modulo P: within 2^-127 of uniform


@dataclass(frozen=True)
class Opened:
    """A secret, and the points whose shares were wrong, ascending."""

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
    that leave a run of `threshold` right ones.

    Args:
        shares: by point from 1.
        threshold: that of `share`.
        fits: whether a secret is the one that was committed to.

    Raises: Rejected for too few shares, one that is no element, or when no run opens what fits.
    """
    values = {point: int.from_bytes(content, "big") for point, content in sorted(shares.items())}
    for point, content in shares.items():
        if point < 1 or len(content) != SHARE_BYTES or values[point] >= P:
            raise Rejected(f"the share of point {point} is no element of the field")
    points = tuple(values)
    if len(points) < threshold:
        raise Rejected(f"{len(points)} shares do not open a secret: {threshold} do")
    for start in range(len(points) if len(points) > threshold else 1):
        run = tuple(sorted((points + points)[start : start + threshold]))
        value = _interpolated(values, run, 0)
        if value < 2 ** (8 * SECRET_BYTES) and fits(secret := value.to_bytes(SECRET_BYTES, "big")):
            rest = (point for point in points if point not in run)
            return Opened(secret, tuple(p for p in rest if _interpolated(values, run, p) != values[p]))
    raise Rejected("the shares open no secret that fits its commitment")


def _value(polynomial: list[int], point: int) -> int:
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * point + coefficient) % P
    return value


def _interpolated(values: Mapping[int, int], run: tuple[int, ...], at: int) -> int:
    """f(at) of the polynomial of degree below len(run) through `run`; `at` is not among it.

    Source: Berrut and Trefethen 2004, SIAM Review 46(3), Section 3 (the first barycentric form).
    """
    total = sum(
        weight * values[point] % P * _inverse(at - point)
        for weight, point in zip(_weights(run), run, strict=True)
    )
    return math.prod(at - point for point in run) * total % P


@lru_cache(maxsize=16)
def _weights(points: tuple[int, ...]) -> tuple[int, ...]:
    """1 / product of the differences to all other points, for each; by one inversion for all.

    Source: Montgomery 1987, Mathematics of Computation 48, Section 10.3.1.
    """
    products = [math.prod(point - other for other in points if other != point) for point in points]
    before = list(accumulate(products, lambda left, right: left * right % P, initial=1))
    inverse, weights = pow(before[-1], -1, P), []
    for product, left in zip(reversed(products), reversed(before[:-1]), strict=True):
        weights.append(inverse * left % P)
        inverse = inverse * product % P
    return tuple(reversed(weights))


@lru_cache(maxsize=4096)
def _inverse(difference: int) -> int:
    return pow(difference, -1, P)
