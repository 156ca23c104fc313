"""Packed Shamir sharing modulo 2^31 - 1: several secrets a polynomial, additive, liars located.

Source: Franklin and Yung 1992, STOC, Section 3.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.core.secagg import key_stream
from shared.core.secagg.oneshot.interpolation import P, basis, error_positions, product
from shared.errors import Refused, Rejected

FEWEST_HOLDERS, MOST_HOLDERS = 2, 64
FIELD = "aggregation.committee"


@dataclass(frozen=True)
class Scheme:
    """How secrets are spread over a committee.

    Up to `privacy` shares say nothing. From `privacy` + 1 on they say something, and about small secrets
    soon everything: `pack` secrets of 8 bits are determined by a quarter of the relations that a quorum
    gives. So what two survivor sets must never both reach is not `quorum` but `privacy` + 1. As each honest
    holder answers for one set and a colluding one for any, two sets get at most holders + colluding
    answers: with 2 (privacy + 1) > holders + colluding, one of them stays within `privacy`.

    Attributes:
        holders: C, 2 to 64.
        colluding: how many may pass all they hold to the server and answer for any set.
        lost: how many may stay silent.

    Raises: Refused unless quorum = holders - lost > (holders + colluding) / 2.
    """

    holders: int
    colluding: int
    lost: int

    def __post_init__(self) -> None:
        if not FEWEST_HOLDERS <= self.holders <= MOST_HOLDERS:
            raise Refused(
                f"{FIELD}.holders",
                f"a committee of {self.holders}",
                f"name {FEWEST_HOLDERS} to {MOST_HOLDERS} key holders",
            )
        if not 0 <= self.colluding < self.holders:
            raise Refused(
                f"{FIELD}.colluding",
                f"{self.colluding} colluding of {self.holders} key holders",
                f"give 0 to {self.holders - 1}",
            )
        most = self.holders - self.privacy - 1
        if not 0 <= self.lost <= most:
            raise Refused(
                f"{FIELD}.lost",
                f"{self.lost} of {self.holders} key holders lost, when {self.colluding} may collude",
                f"give 0 to {most}, or name more key holders",
            )

    @property
    def privacy(self) -> int:
        """How many shares say nothing: the degree of randomness of a polynomial."""
        return (self.holders + self.colluding) // 2

    @property
    def quorum(self) -> int:
        """How many answers open a sum."""
        return self.holders - self.lost

    @property
    def pack(self) -> int:
        """How many secrets a polynomial carries, at least 1."""
        return self.quorum - self.privacy

    def blocks(self, count: int) -> int:
        """The length of a share of `count` secrets."""
        return -(-count // self.pack)

    @property
    def holder_points(self) -> tuple[int, ...]:
        """Where shares are read: holder i, counted from 0, at i + 1."""
        return tuple(range(1, self.holders + 1))

    @property
    def secret_points(self) -> tuple[int, ...]:
        """Where secrets sit: -1, ..., -pack."""
        return tuple(range(-1, -self.pack - 1, -1))

    @property
    def random_points(self) -> tuple[int, ...]:
        """Where the random values sit, above all holders."""
        return tuple(range(self.holders + 1, self.holders + self.privacy + 1))


def scheme_for(holders: int) -> Scheme:
    """A third may collude, and half of those that could then be done without may be lost.

    64: 21 collude, 11 lost, 11 secrets a polynomial. 2: none, none, 1. 3: none, 1, 1. 4: 1, 1, 1.
    Raises: Refused for a committee that is too small or too large.
    """
    colluding = max(0, holders - 1) // 3
    spare = holders - (holders + colluding) // 2 - 1
    return Scheme(holders, colluding, max(0, (spare + 1) // 2))


def share(secrets: NDArray[np.int64], scheme: Scheme, keys: bytes) -> NDArray[np.uint32]:
    """Spread secrets over the committee.

    Args:
        secrets: (count,), any signed integers; taken modulo P.
        scheme: for how many holders.
        keys: 64 bytes from a cryptographic source, used once.

    Returns: (holders, blocks), row i for holder i, each value below P.
    """
    blocks = scheme.blocks(len(secrets))
    padded = np.zeros(blocks * scheme.pack, np.uint64)
    padded[: len(secrets)] = secrets % P
    random = key_stream.below(P, scheme.privacy * blocks, keys).reshape(scheme.privacy, blocks)
    values = np.concatenate([padded.reshape(blocks, scheme.pack).T, random])
    spread = basis(scheme.secret_points + scheme.random_points, scheme.holder_points)
    return product(spread, values).astype(np.uint32)


def add(total: NDArray[np.uint32], term: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The share of the sum, both (blocks,) below P."""
    return ((total.astype(np.uint64) + term) % P).astype(np.uint32)


@dataclass(frozen=True)
class Opened:
    """The secrets (count,), signed and centred, and the holders whose shares were wrong."""

    secrets: NDArray[np.int64]
    liars: tuple[int, ...]


def reconstruct(shares: Mapping[int, NDArray[np.uint32]], count: int, scheme: Scheme) -> Opened:
    """Open secrets from any quorum of shares.

    Every share beyond the quorum is compared. With r of them, wrong shares are noticed up to r and located up
    to r / 2; a quorum alone notices nothing. More wrong shares than r may pass.

    Args:
        shares: by holder from 0, (blocks,) each, below P.
        count: how many secrets.
        scheme: that of `share`.

    Raises: Rejected for too few shares, an unknown holder, a share of another length or out of range, or
        shares that contradict each other so that the wrong ones cannot be told.
    """
    length = scheme.blocks(count)
    for holder, values in shares.items():
        if not 0 <= holder < scheme.holders:
            raise Rejected(f"the committee has no holder {holder}")
        if values.shape != (length,) or int(values.max()) >= P:
            raise Rejected(f"the share of holder {holder} is not {length} values below 2^31 - 1")
    if len(shares) < scheme.quorum:
        raise Rejected(f"{len(shares)} shares do not open a sum: {scheme.quorum} do")
    holders = tuple(sorted(shares))
    rows = np.stack([shares[holder] for holder in holders]).astype(np.uint64)
    liars: tuple[int, ...] = ()
    if not _agree(holders, rows, scheme):
        word = _combined(rows)
        wrong = error_positions([holder + 1 for holder in holders], word, scheme.quorum)
        liars = tuple(holders[position] for position in wrong)
        kept = [position for position in range(len(holders)) if position not in wrong]
        holders, rows = tuple(holders[position] for position in kept), rows[kept]
        if not liars or not _agree(holders, rows, scheme):
            raise Rejected("the committee's answers contradict each other, and too many to tell who is wrong")
    points = tuple(holder + 1 for holder in holders[: scheme.quorum])
    opened = product(basis(points, scheme.secret_points), rows[: scheme.quorum])
    secrets = opened.T.reshape(-1)[:count].astype(np.int64)
    return Opened(np.where(secrets > P // 2, secrets - P, secrets), liars)


def _agree(holders: tuple[int, ...], rows: NDArray[np.uint64], scheme: Scheme) -> bool:
    """Whether all rows lie on polynomials of degree below the quorum."""
    points = tuple(holder + 1 for holder in holders)
    first, rest = points[: scheme.quorum], points[scheme.quorum :]
    if not rest:
        return True
    return bool((product(basis(first, rest), rows[: scheme.quorum]) == rows[scheme.quorum :]).all())


def _combined(rows: NDArray[np.uint64]) -> list[int]:
    """One value a holder: a combination of its blocks by coefficients that hash all answers.

    A wrong row passes for a right one with probability 2^-31.
    """
    keys = hashlib.shake_256(rows.tobytes()).digest(key_stream.UNIFORM_KEY_BYTES)
    coefficients = key_stream.below(P, rows.shape[1], keys).astype(np.uint64)
    return [int(value) for value in ((rows * coefficients) % P).sum(axis=1) % P]
