"""The ring Z_q[X] / (X^2048 + 1): its number-theoretic transform and product, in numpy.

Arrays of polynomials are (..., N, lanes): coefficient j of the polynomial in lane b is [..., j, b].
Transforms leave the values in bit-reversed order, the same for all parties, never mixed with another.
`compiled` does the bulk of the work; what is here defines it.
"""

import numpy as np
from numpy.typing import NDArray

N = 2048
Q = 2_147_389_441  # the largest prime below 2^31 that is 1 modulo 2N
ROOT_BITS = N.bit_length() - 1


def primitive_root() -> int:
    """The first psi = g^((q-1)/2N), g = 2, 3, ..., that is a primitive 2N-th root of unity modulo q."""
    candidates = (pow(base, (Q - 1) // (2 * N), Q) for base in range(2, 1000))
    return next(psi for psi in candidates if pow(psi, N, Q) == Q - 1)


PSI = primitive_root()
INVERSE_N = pow(N, -1, Q)


def powers(root: int) -> NDArray[np.uint32]:
    """(N,) of root^bitreverse(i) modulo q."""
    exponents = [int(format(i, f"0{ROOT_BITS}b")[::-1], 2) for i in range(N)]
    table = np.array([pow(root, exponent, Q) for exponent in exponents], np.uint32)
    table.flags.writeable = False
    return table


TWIDDLES = powers(PSI)
INVERSE_TWIDDLES = powers(pow(PSI, -1, Q))
_Q = np.uint64(Q)


def forward(polynomials: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The negacyclic transform of each polynomial.

    Args:
        polynomials: (..., N, lanes), each coefficient below q.

    Returns: the same shape, in bit-reversed order.
    Source: Longa and Naehrig 2016, CANS, Algorithm 1 (Cooley-Tukey butterflies).
    """
    shape = polynomials.shape
    values = polynomials.astype(np.uint64).reshape(-1, N, shape[-1])
    blocks = 1
    while blocks < N:
        pairs = values.reshape(len(values), blocks, 2, N // (2 * blocks), shape[-1])
        twiddles = TWIDDLES[blocks : 2 * blocks].astype(np.uint64)[:, None, None]
        low, high = pairs[:, :, 0].copy(), pairs[:, :, 1] * twiddles % _Q
        pairs[:, :, 0] = (low + high) % _Q
        pairs[:, :, 1] = (low + _Q - high) % _Q
        blocks *= 2
    return values.reshape(shape).astype(np.uint32)


def inverse(transforms: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Inverse of `forward`. Source: Longa and Naehrig 2016, Algorithm 2 (Gentleman-Sande butterflies)."""
    shape = transforms.shape
    values = transforms.astype(np.uint64).reshape(-1, N, shape[-1])
    blocks = N // 2
    while blocks:
        pairs = values.reshape(len(values), blocks, 2, N // (2 * blocks), shape[-1])
        twiddles = INVERSE_TWIDDLES[blocks : 2 * blocks].astype(np.uint64)[:, None, None]
        low, high = pairs[:, :, 0].copy(), pairs[:, :, 1].copy()
        pairs[:, :, 0] = (low + high) % _Q
        pairs[:, :, 1] = (low + _Q - high) % _Q * twiddles % _Q
        blocks //= 2
    return (values * np.uint64(INVERSE_N) % _Q).reshape(shape).astype(np.uint32)


def multiply(left: NDArray[np.uint32], right: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The product of polynomials (..., N, lanes) modulo X^N + 1 and q; shapes broadcast."""
    product = forward(left).astype(np.uint64) * forward(right) % _Q
    return inverse(product.astype(np.uint32))


def residues(integers: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Signed integers as residues in 0, ..., q - 1."""
    return np.asarray(integers % Q, np.uint32)


def centred(values: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Residues as signed integers in -(q-1)/2, ..., (q-1)/2."""
    signed = values.astype(np.int64)
    return np.where(signed > Q // 2, signed - Q, signed)
