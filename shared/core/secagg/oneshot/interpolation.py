"""Polynomials over the field of 2^31 - 1 elements: interpolation, and decoding with errors."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from shared.errors import Rejected

P = 2**31 - 1
LARGEST_DIFFERENCE = 255
MOST_TERMS = 64
_P = np.uint64(P)
_INVERSES = np.array([0, *(pow(i, -1, P) for i in range(1, LARGEST_DIFFERENCE + 1))], np.uint64)


def product(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The matrix product modulo P, exact: 64 terms of 16 bits by 31 bits stay below 2^53 in float64.

    Args:
        left: (m, r), below P, r at most 64.
        right: (r, n), below P.
    """
    if left.shape[1] > MOST_TERMS:
        raise Rejected(f"a product of {left.shape[1]} terms is not exact")
    factor = right.astype(np.float64)
    upper = ((left >> np.uint64(16)).astype(np.float64) @ factor).astype(np.uint64) % _P
    lower = ((left & np.uint64(0xFFFF)).astype(np.float64) @ factor).astype(np.uint64)
    return ((upper << np.uint64(16)) + lower) % _P


@lru_cache(maxsize=64)
def basis(points: tuple[int, ...], at: tuple[int, ...]) -> NDArray[np.uint64]:
    """(len(at), len(points)) Lagrange basis: f(at) = basis @ f(points) for a degree below len(points).

    All differences are at most 255 and no point of `at` is among `points`.
    """
    x, y = np.array(points, np.int64), np.array(at, np.int64)
    own = x[:, None] - x[None, :]
    weights = _multiplied(_inverse(own) + np.eye(len(x), dtype=np.uint64))
    to_points = y[:, None] - x[None, :]
    everything = _multiplied((to_points % P).astype(np.uint64))
    out = _inverse(to_points) * weights[None, :] % _P * everything[:, None] % _P
    out.flags.writeable = False
    return out


def _inverse(differences: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Inverses modulo P; 0 of 0."""
    inverses = _INVERSES[np.abs(differences)]
    return np.where(differences < 0, (_P - inverses) % _P, inverses)


def _multiplied(rows: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The product of each row, by halves."""
    while rows.shape[1] > 1:
        if rows.shape[1] % 2:
            rows = np.concatenate([rows, np.ones((len(rows), 1), np.uint64)], axis=1)
        rows = rows[:, ::2] * rows[:, 1::2] % _P
    return rows[:, 0]


def error_positions(points: list[int], word: list[int], dimension: int) -> tuple[int, ...]:
    """Where `word` differs from the values of one polynomial of degree below `dimension`.

    Up to (len(points) - dimension) / 2 errors have one solution; past that nothing is found, or, rarely, what
    is not so.

    Source: Welch and Berlekamp 1986, US patent 4,633,470 (expired): E(x) f(x) = E(x) word(x), E monic.
    Returns: positions, empty when there is no error or no solution.
    """
    for errors in range(1, (len(points) - dimension) // 2 + 1):
        unknowns = dimension + errors
        equations = []
        for x, y in zip(points, word, strict=True):
            powers = [pow(x, k, P) for k in range(unknowns)]
            known = y * pow(x, errors, P) % P
            equations.append([*powers, *(-y * power % P for power in powers[:errors]), known])
        solution = _solve(equations, unknowns + errors)
        if solution is None:
            continue
        locator = [*solution[unknowns:], 1]
        at = [sum(c * pow(x, k, P) for k, c in enumerate(locator)) % P for x in points]
        positions = tuple(i for i, value in enumerate(at) if value == 0)
        if len(positions) == errors:
            return positions
    return ()


def _solve(equations: list[list[int]], unknowns: int) -> list[int] | None:
    """One solution modulo P by elimination, free unknowns 0; None when there is none."""
    rows = [list(row) for row in equations]
    pivots: list[int] = []
    for column in range(unknowns):
        rank = len(pivots)
        pivot = next((r for r in range(rank, len(rows)) if rows[r][column]), None)
        if pivot is None:
            continue
        rows[rank], rows[pivot] = rows[pivot], rows[rank]
        inverse = pow(rows[rank][column], -1, P)
        rows[rank] = [value * inverse % P for value in rows[rank]]
        for other, row in enumerate(rows):
            if other != rank and row[column]:
                factor = row[column]
                rows[other] = [(a - factor * b) % P for a, b in zip(row, rows[rank], strict=True)]
        pivots.append(column)
    if any(row[-1] for row in rows[len(pivots) :]):
        return None
    solution = [0] * unknowns
    for row, column in zip(rows, pivots, strict=False):
        solution[column] = row[-1]
    return solution
