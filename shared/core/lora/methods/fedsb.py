"""Fed-SB: W + U R V^T with U and V fixed; R alone, r x r, is trained and averaged.

U is kept as the factor B, V^T as the factor A. The paper's published script takes them from gradients of
private samples, without noise: that is a release that nobody accounted for. Here they come from
`initial_tensor` (the public seed), or from `frames` of a matrix that is public or was released with noise.
"""

import numpy as np
from numpy.typing import NDArray

from shared.core.lora.initialisation import GRID
from shared.core.lora.methods.averaging import averaged
from shared.core.lora.methods.method import Exact, Factor, Factors, Method, Ranks, always
from shared.errors import Refused

METHOD = Method(
    source="Singhal et al. 2025, arXiv:2502.15436; LoRA-SB: Ponkshe et al. 2024, arXiv:2411.19557",
    trained=always(Factor.R),
    combine=averaged,
    exact=Exact.YES,
    ranks=Ranks.NESTED,
)


def frames(matrix: NDArray[np.float32], rank: int) -> Factors:
    """U, R = 0 and V^T for one layer, U and V the singular vectors of its `rank` largest singular values.

    One party computes them and sends them: where singular values are close, linear-algebra libraries
    disagree about the vectors, and clients whose U differ have nothing to average.

    Args:
        matrix: (m, n): the layer's W, its gradient on public data, or one clipped, summed and noised
            gradient that was charged to the ledger. Never a private gradient as it is.
        rank: r.

    Raises: Refused when the layer is too small for the rank.
    """
    if rank > min(matrix.shape):
        raise Refused(
            "lora.rank", f"rank {rank} for a layer {matrix.shape}", f"set it to {min(matrix.shape)}"
        )
    left, _, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    left, right = left[:, :rank], right[:rank]
    signs = np.sign(left[np.abs(left).argmax(axis=0), np.arange(rank)])
    return {
        Factor.A: _on_grid(right * signs[:, None]),
        Factor.B: _on_grid(left * signs),
        Factor.R: np.zeros((rank, rank), np.float32),
    }


def as_lora(factors: Factors) -> Factors:
    """The same update as plain LoRA, for a file that PEFT reads: B = U R, A = V^T."""
    left = factors[Factor.B].astype(np.float64) @ factors[Factor.R].astype(np.float64)
    return {Factor.A: factors[Factor.A], Factor.B: left.astype(np.float32)}


def _on_grid(values: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.asarray(np.rint(values * GRID) / GRID, np.float32)
