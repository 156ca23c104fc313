"""Initial adapter tensors as a pure function of a public seed (docs/adr/0005)."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

GRID = 2.0**20  # linear-algebra libraries differ by 1e-15; rounded to this grid they agree
ORTHONORMAL_A, ORTHONORMAL_B = frozenset({"ffa", "fedsb"}), frozenset({"fedsb"})
SIDES = {True: "inputs", False: "outputs"}


def initial_tensor(seed: int, name: str, shape: Sequence[int], method: str) -> NDArray[np.float32]:
    """The tensor called `name` before round 1.

    `lora_A`, shape (r, n): orthonormal rows for `ffa` and `fedsb` (frozen), else uniform in +-1/sqrt(n),
    PEFT's default (Hu et al. 2022, arXiv:2106.09685, Section 4.1; Sun et al. 2024, arXiv:2403.12313 for FFA).
    `lora_B`, shape (m, r): orthonormal columns for `fedsb` (frozen), else zero.
    Everything else, `lora_R` and a classifier head: zero.

    Args:
        seed: of the job; public.
        name: PEFT state-dict name.
        shape: of the tensor.
        method: of the job's `lora` section.

    Raises: ValueError when the rank is larger than the side of the layer that must be orthonormal.
    """
    is_a, is_b = ".lora_A." in name, ".lora_B." in name
    if not (is_a or (is_b and method in ORTHONORMAL_B)):
        return np.zeros(tuple(shape), np.float32)
    digest = hashlib.sha256(f"fedlora/initial/{seed}/{name}".encode()).digest()
    # A counter-based generator with a fixed algorithm; what it makes is public, so it need not be secret.
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
    rank, width = shape if is_a else (shape[1], shape[0])
    if method not in ORTHONORMAL_A:
        bound = 1.0 / np.sqrt(width)
        return np.asarray(generator.random((rank, width)) * 2 * bound - bound, np.float32)
    if rank > width:
        raise ValueError(f"{name}: rank {rank} is larger than the layer's {width} {SIDES[is_a]}")
    # Box-Muller by hand: NumPy may change how it draws normals, not how it draws uniforms.
    radius = np.sqrt(-2.0 * np.log(1.0 - generator.random((width, rank))))
    gaussian = radius * np.cos(2.0 * np.pi * generator.random((width, rank)))
    orthogonal, triangular = np.linalg.qr(gaussian)
    columns = orthogonal * np.sign(np.diagonal(triangular))
    return np.asarray(np.rint((columns.T if is_a else columns) * GRID) / GRID, np.float32)
