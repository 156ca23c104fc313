"""Write gram_peers.json: what ByzFL and scikit-learn's HDBSCAN answer.

Use, in an environment of its own with `pip install byzfl==0.0.11 scikit-learn`:
`python tests/unit/robust/golden/gram_peers.py [SEED]`.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import byzfl
import numpy as np
from sklearn.cluster import HDBSCAN
from sklearn.metrics.pairwise import cosine_distances

GOLDEN = Path(__file__).with_name("gram_peers.json")
CLIENTS, HOSTILE, DIMENSION, BUCKET = 11, 3, 6, 3
RADIUS, STEPS = 1.5, 3


def cohorts(rng):
    """Honest rows around a common mean; the last HOSTILE rows as each attack has them."""
    honest = rng.normal(size=(CLIENTS - HOSTILE, DIMENSION)) + rng.normal(size=DIMENSION)
    mean, deviation = honest.mean(axis=0), honest.std(axis=0)
    hostile = {
        "no attack": rng.normal(size=(HOSTILE, DIMENSION)) + mean,
        "sign flip x5": -5 * honest[:HOSTILE],
        "inner product manipulation x5": np.tile(-5 * mean, (HOSTILE, 1)),
        "a little is enough": np.tile(mean - 1.5 * deviation, (HOSTILE, 1)),
        "huge": 1e6 * rng.normal(size=(HOSTILE, DIMENSION)),
        "zero": np.zeros((HOSTILE, DIMENSION)),
    }
    return {name: rng.permutation(np.vstack([honest, rows])) for name, rows in hostile.items()}


def buckets(updates, seed):
    """ByzFL shuffles for itself: the order is read off buckets of one, whose rows are numbered."""
    np.random.seed(seed)
    order = byzfl.Bucketing(1)(np.arange(CLIENTS, dtype=float)[:, None])[:, 0].astype(int)
    np.random.seed(seed)
    return {"permutation": order.tolist(), "rows": byzfl.Bucketing(BUCKET)(updates).tolist()}


def densest_majority(updates):
    """The rows that FLAME admits."""
    clusters = HDBSCAN(
        min_cluster_size=CLIENTS // 2 + 1,
        min_samples=1,
        metric="precomputed",
        allow_single_cluster=True,
        copy=True,
    )
    return np.flatnonzero(clusters.fit(cosine_distances(updates)).labels_ == 0).tolist()


def answers(updates, seed):
    mixed = byzfl.NNM(HOSTILE)(updates)
    return {
        "updates": updates.tolist(),
        "krum": byzfl.Krum(HOSTILE)(updates).tolist(),
        "multi_krum": byzfl.MultiKrum(HOSTILE)(updates).tolist(),
        "geometric_median_3_steps": byzfl.GeometricMedian(nu=0.1, T=3)(updates).tolist(),
        "geometric_median": byzfl.GeometricMedian(nu=1e-9, T=5000)(updates).tolist(),
        "centred_clipping": byzfl.CenteredClipping(L=STEPS, tau=RADIUS)(updates).tolist(),
        "nearest_neighbour_mixing": mixed.tolist(),
        "mixing_then_multi_krum": byzfl.MultiKrum(HOSTILE)(mixed).tolist(),
        "mixing_then_geometric_median": byzfl.GeometricMedian(nu=1e-9, T=5000)(mixed).tolist(),
        "densest_majority": densest_majority(updates),
        "bucketing": buckets(updates, seed),
    }


def main(seed):
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    golden = {
        "versions": {name: version(name) for name in ("byzfl", "scikit-learn")},
        "seed": seed,
        "f": HOSTILE,
        "bucket": BUCKET,
        "radius": RADIUS,
        "steps": STEPS,
        "cohorts": {
            name: answers(updates, seed + i) for i, (name, updates) in enumerate(cohorts(rng).items())
        },
    }
    GOLDEN.write_text(
        json.dumps(golden, indent=None, separators=(",", ":")).replace('{"updates"', '\n{"updates"') + "\n"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20231)
