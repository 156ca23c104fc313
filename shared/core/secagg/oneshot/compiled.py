"""The loops over all coefficients, compiled: transform, sampling and sums at memory speed.

`ring` and `noise` say what they compute, and the tests compare. Multiplication by a known constant is that of
Shoup: x w mod q from the upper half of x floor(w 2^32 / q), without a division.
Source: Harvey 2014, J. Symbolic Computation 60, arXiv:1205.2926, Section 3.
"""

from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
from numba import types
from numpy.typing import NDArray

from shared.core.compiling import loop
from shared.core.secagg.oneshot import noise, ring
from shared.core.secagg.oneshot.beacon import LANES

_U32, _I32, _U64, _I64 = np.uint32, np.int32, np.uint64, np.int64
_Q = np.uint32(ring.Q)
_HALF = np.int32(ring.Q // 2)
_N = ring.N
_LANES = LANES
_TABLE, _ENTRIES = noise.TABLE, len(noise.TABLE)


def _quotients(factors: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Shoup's floor(w 2^32 / q) of each factor."""
    return ((factors.astype(np.uint64) << np.uint64(32)) // np.uint64(ring.Q)).astype(np.uint32)


_INVERSE_TWIDDLES, _INVERSE_QUOTIENTS = ring.INVERSE_TWIDDLES, _quotients(ring.INVERSE_TWIDDLES)
_INVERSE_N = np.array([ring.INVERSE_N], np.uint32)
_INVERSE_N_QUOTIENT = _quotients(_INVERSE_N)

_U32S, _I32S = types.Array(types.uint32, 1, "C"), types.Array(types.int32, 1, "C")
_U64S, _F64S = types.Array(types.uint64, 1, "C"), types.Array(types.float64, 1, "C")
_READ_ONLY = types.Array(types.uint32, 3, "C", readonly=True)
_POLYNOMIALS = types.Array(types.uint32, 3, "C")


@numba.njit(inline="always")  # type: ignore[untyped-decorator, unused-ignore]
def _times(value: Any, factor: Any, quotient: Any) -> Any:  # noqa: ANN401
    """value factor mod q, below q; any 32-bit value. The difference wraps, so the smaller one is right."""
    upper = _U32((_U64(value) * _U64(quotient)) >> _U64(32))
    remainder = _U32(_U32(value * factor) - _U32(upper * _Q))
    return min(remainder, _U32(remainder - _Q))


@loop(_READ_ONLY, _U32S, _U32S, _POLYNOMIALS)
def _mask(transforms: Any, secret: Any, quotients: Any, out: Any) -> None:  # noqa: ANN401
    """As `mask`: the product, then Gentleman-Sande butterflies, `LANES` polynomials side by side."""
    for group in range(out.shape[0]):
        block = out[group]
        for j in range(_N):
            for lane in range(_LANES):
                block[j, lane] = _times(transforms[group, j, lane], secret[j], quotients[j])
        half, blocks = 1, _N // 2
        while blocks:
            first = 0
            for i in range(blocks):
                twiddle, quotient = _INVERSE_TWIDDLES[blocks + i], _INVERSE_QUOTIENTS[blocks + i]
                for j in range(first, first + half):
                    for lane in range(_LANES):
                        low, high = block[j, lane], block[j + half, lane]
                        total, difference = _U32(low + high), _U32(low - high)
                        block[j, lane] = min(total, _U32(total - _Q))
                        difference = min(difference, _U32(difference + _Q))
                        block[j + half, lane] = _times(difference, twiddle, quotient)
                first += 2 * half
            half *= 2
            blocks //= 2
        for j in range(_N):
            for lane in range(_LANES):
                block[j, lane] = _times(block[j, lane], _INVERSE_N[0], _INVERSE_N_QUOTIENT[0])


@loop(_U32S, _U64S, _I32S, types.int32)
def _conceal(masked: Any, words: Any, values: Any, scale: Any) -> None:  # noqa: ANN401
    """As `conceal`. The table is scanned whole for every draw, without a branch."""
    for i in range(masked.size):
        uniform = _I64(words[i] >> _U64(1))
        magnitude = _I64(0)
        for entry in range(_ENTRIES):
            magnitude += _I64(uniform >= _TABLE[entry])
        sign = -_I64(words[i] & _U64(1))
        plain = _I32((magnitude ^ sign) - sign) + values[i] * scale
        residue = _U32(plain + (_I32(_Q) & (plain >> _I32(31))))
        total = _U32(masked[i] + residue)
        masked[i] = min(total, _U32(total - _Q))


@loop(_U32S, types.Array(types.uint32, 1, "C", readonly=True))
def _add(total: Any, term: Any) -> None:  # noqa: ANN401
    for i in range(total.size):
        both = _U32(total[i] + term[i])
        total[i] = min(both, _U32(both - _Q))


@loop(_U32S, _U32S, _F64S, types.float64)
def _reveal(total: Any, masks: Any, out: Any, unit: Any) -> None:  # noqa: ANN401
    for i in range(out.size):
        residue = _U32(total[i] - masks[i])
        signed = _I32(min(residue, _U32(residue + _Q)))
        signed -= _I32(_Q) & -_I32(signed > _HALF)
        out[i] = signed * unit


def mask(transforms: NDArray[np.uint32], secret: NDArray[np.int64]) -> NDArray[np.uint32]:
    """The products a s of every polynomial a with one s.

    Args:
        transforms: (groups, N, LANES), those of a.
        secret: (N,) coefficients of s.

    Returns: (groups * N * LANES,), flat, below q.
    """
    out = np.empty(transforms.shape, np.uint32)
    _mask(transforms, *_transformed(secret), out)
    return out.reshape(-1)


def masks(transforms: NDArray[np.uint32], secret: NDArray[np.int64]) -> Iterator[NDArray[np.uint32]]:
    """The same, group by group, (N * LANES,) each; each is overwritten by the next."""
    factors, out = _transformed(secret), np.empty((1, *transforms.shape[1:]), np.uint32)
    for group in range(len(transforms)):
        _mask(transforms[group : group + 1], *factors, out)
        yield out.reshape(-1)


def _transformed(secret: NDArray[np.int64]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """The transform of s, and Shoup's quotients of it."""
    transformed = ring.forward(ring.residues(secret)[:, None])[:, 0].copy()
    return transformed, _quotients(transformed)


def conceal(
    masked: NDArray[np.uint32], words: NDArray[np.uint64], values: NDArray[np.int32], scale: int
) -> None:
    """Add `scale` times each value and an error drawn from one word each, modulo q, in place; all (d,)."""
    _conceal(masked, words, values, np.int32(scale))


def add(total: NDArray[np.uint32], term: NDArray[np.uint32]) -> None:
    """Add `term` modulo q, in place; both (d,), below q."""
    _add(total, term)


def reveal(total: NDArray[np.uint32], masks: NDArray[np.uint32], unit: float) -> NDArray[np.float64]:
    """The centred residues of total - masks, both (d,), times `unit`."""
    out = np.empty(len(total), np.float64)
    _reveal(total, masks[: len(total)], out, unit)
    return out
