"""Sampling of symmetric integer distributions by inverse transform, exact to 2^-128."""

import decimal
import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from shared.core.noise.key_stream import KeyStream

ONE = 2**128  # the probability 1, in units of 2^-128
LOW_WORD = 2**64 - 1
TAIL_BITS = 140  # mass beyond the table: at most 2^-140
MAX_ENTRIES = 2**20
ARITHMETIC = decimal.Context(prec=80)  # roundings add up to 1e-67 at most; a unit is 3e-39


@dataclass(frozen=True)
class IntegerTable:
    """A distribution on -n, ..., n as cumulated integers out of 2^128.

    A draw is a uniform 128-bit number, compared with the boundaries exactly. It costs one 64-bit word; a
    second one is drawn only where the first equals a boundary's upper word (probability below
    entries * 2^-64), so the words used, unlike a rejection sampler's, tell next to nothing of the noise.

    Distance to the distribution that was asked for: each of the 2n boundaries is rounded to the
    nearest unit of 2^-128, so one draw is within a statistical distance of entries * 2^-128 (the tails
    that are cut, and those that round to nothing, included). By the union bound d draws are within
    eta = d * entries * 2^-128, and an (epsilon, delta) of the ideal noise holds with
    delta + (1 + e^epsilon) * eta. With the largest table, d = 2^19 and epsilon = 10 that adds under 2^-74
    (6e-23) a release: negligible beside a delta of 1e-5. That the stream looks uniform is AES's assumption.

    Attributes:
        upper: (2n,) the upper 64 bits of the boundaries P(X <= k), k = -n, ..., n - 1; ascending.
        lower: (2n,) their lower 64 bits.
        variance: of what is drawn, correctly rounded.
    """

    upper: NDArray[np.uint64]
    lower: NDArray[np.uint64]
    variance: float

    @property
    def largest(self) -> int:
        """The n of the support -n, ..., n."""
        return len(self.upper) // 2

    def draw(self, count: int, stream: KeyStream) -> NDArray[np.int64]:
        """(count,) independent draws."""
        words = stream.words(count)
        below = np.searchsorted(self.upper, words)
        next_upper = self.upper[np.minimum(below, len(self.upper) - 1)]
        ties = np.flatnonzero(next_upper == words)
        for tie, word in zip(ties, stream.words(len(ties)), strict=True):
            same = slice(below[tie], np.searchsorted(self.upper, words[tie], side="right"))
            below[tie] += np.searchsorted(self.lower[same], word, side="right")
        return below.astype(np.int64) - self.largest

    def add(self, total: NDArray[np.int64], stream: KeyStream) -> NDArray[np.int64]:
        """`total` (d,) with noise, modulo 2^64 as int64 is. Raises: ValueError unless it is int64."""
        if total.dtype != np.int64:
            raise ValueError(f"the vector is {total.dtype}: scale and round it to int64 before adding noise")
        return total + self.draw(total.size, stream)


def reach(log_tail: Callable[[int], float], bits: int = TAIL_BITS) -> int:
    """The least k with 2 exp(log_tail(k)) <= 2^-bits.

    Args:
        log_tail: an upper bound on ln P(X >= k), falling in k.
        bits: what is left of both tails, as a power of one half.

    Raises: ValueError when -k, ..., k has over 2^20 entries.
    """
    enough = -(bits + 1) * math.log(2)
    largest = bisect_left(range(1, MAX_ENTRIES // 2), True, key=lambda k: log_tail(k) <= enough) + 1
    if largest >= MAX_ENTRIES // 2:
        raise ValueError(
            f"the noise needs a table of over {MAX_ENTRIES} entries: scale vector and noise down"
        )
    return largest


def symmetric_table(half: Sequence[Decimal]) -> IntegerTable:
    """The table of P(X = k) = P(X = -k), proportional to half[k].

    Args:
        half: (n + 1,) weights of 0, ..., n to 50 digits or more, none negative.

    Raises: ValueError when P(X > 0) is half a unit of 2^-128 or less.
    """
    with decimal.localcontext(ARITHMETIC):
        unit = ONE / (2 * sum(half) - half[0])
        tails = [int((tail * unit).to_integral_value()) for tail in accumulate(reversed(half[1:]))]
    tails = [tail for tail in tails if tail]
    if not tails:
        raise ValueError("the noise would always be 0: scale vector and noise up")
    boundaries = [*tails, *(ONE - tail for tail in reversed(tails))]
    upper = np.array([boundary >> 64 for boundary in boundaries], np.uint64)
    lower = np.array([boundary & LOW_WORD for boundary in boundaries], np.uint64)
    for shared in (upper, lower):
        shared.flags.writeable = False
    # E X^2 = 2 sum (2k - 1) P(X >= k)
    moment = 2 * sum((2 * k - 1) * tail for k, tail in enumerate(reversed(tails), start=1))
    return IntegerTable(upper, lower, moment / ONE)
