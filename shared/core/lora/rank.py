"""The rank of an adapter, chosen from public facts."""

import math

LEAST, MOST = 4, 64


def automatic_rank(records: float, steps: int, noise: float, outputs: int, scale: float) -> int:
    """The largest power of two r with kappa sigma sqrt(r sum m) <= b sqrt(T), within 4 and 64.

    Noise on B has energy sigma^2 r sum m over the adapted m x n matrices and T steps average it; the
    signal of b clipped records grows with b. Where one reaches the other, more rank is more noise.

    Args:
        records: b, expected in one released step of all clients together.
        steps: T, over all rounds.
        noise: sigma, standard deviation of that step's total noise over the clip norm.
        outputs: sum of m over the adapted layers.
        scale: kappa; 20 was fitted to two measurements, so it is a setting.
    """
    best = (records * math.sqrt(steps) / (scale * noise * math.sqrt(outputs))) ** 2
    return max(LEAST, min(MOST, 1 << math.floor(math.log2(max(best, 1.0)))))
