"""What a client's encoding and the server's decoding cost: `python benchmarks/encoding.py`.

16 bits, one thread, CPU time of this process and wall time in milliseconds; the best and the median of
several. `norm bound` keeps an L2 bound through rounding. Noise is not in it: its sampler is the client's.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import statistics
import time
from collections.abc import Callable

import numpy as np

from shared.core.secagg.encoding import Encoding, compiled, decode_sum, encode, predicted_error, rotation

REPEATS = 30
DIMENSIONS = (100_000, 1_000_000, 2**20)
SIGMA = 1e-3
ROUND_SEED = b"round"


def measured(name: str, task: Callable[[], object]) -> None:
    """Print CPU and wall milliseconds."""
    task()
    cpu_ms, wall_ms = [], []
    for _ in range(REPEATS):
        cpu, wall = time.process_time(), time.perf_counter()
        task()
        cpu_ms.append((time.process_time() - cpu) * 1e3)
        wall_ms.append((time.perf_counter() - wall) * 1e3)
    print(
        f"  {name:36} CPU {min(cpu_ms):6.2f} (median {statistics.median(cpu_ms):6.2f})"
        f"   wall {min(wall_ms):6.2f} (median {statistics.median(wall_ms):6.2f})"
    )


def bench(dimension: int) -> None:
    """Print one block."""
    update = (np.random.default_rng(7).standard_normal(dimension) * SIGMA).astype(np.float32)
    norm = float(np.linalg.norm(update))
    plain = Encoding(dimension, 16, 6 * SIGMA)
    rotated = Encoding(dimension, 16, 6 * SIGMA, ROUND_SEED)
    bounded = Encoding(dimension, 16, 6 * SIGMA, ROUND_SEED, norm_bound=norm / 2)
    print(f"d = {dimension}: {rotated.length} integers when rotated")
    values = np.zeros(rotated.length, np.float32)
    measured("Hadamard transform alone", lambda: compiled.hadamard(values, rotation.LARGEST_BLOCK))
    cases = {"": plain, ", rotated": rotated, ", rotated, norm bound": bounded}
    for name, encoding in cases.items():
        measured(f"encode{name}", lambda e=encoding: encode(e, update, 1.0, os.urandom))
    for name, encoding in (("", plain), (", rotated", rotated)):
        encoded = encode(encoding, update, 1.0, os.urandom)
        total = encoded.values.astype(np.float64)
        measured(f"decode a sum{name}", lambda e=encoding, t=total: decode_sum(e, t))
        error = float((decode_sum(encoding, total) - update).std()) / predicted_error(encoding, 1)
        print(f"  clipped {encoded.clipped:g}, error {error:.4f} of the predicted one")


def main() -> None:
    """Print what is measured."""
    for dimension in DIMENSIONS:
        bench(dimension)


if __name__ == "__main__":
    main()
