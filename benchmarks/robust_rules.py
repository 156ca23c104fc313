"""What rules on the Gram matrix cost after the last update: `python benchmarks/robust_rules.py [n] [d]`.

The way of `judging.rows`: every update is sketched and kept as it arrives, and the Gram matrix of sketches
grows; after the last one come its last block, the rule, and the weighted sum of all updates. A fifth of the
updates are sign-flipped and five times as long; the rules are asked to bear three tenths, so that some honest
ones are left out too. Weights are compared with those that the exact Gram matrix gives.

ByzFL and Flower, where installed, do everything at the end, on the same float32 rows, once. Of ByzFL the
faster of NumPy and torch counts. CPU milliseconds, one thread, all in one run; see `robust.py`.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from robust import DIMENSION, HOSTILE, SIGMA, UPDATES, byzfl_rules, installed, measured

from shared.core.robust.gram.centre import centre
from shared.core.robust.judging import Choice, Mix, judge
from shared.core.robust.judging.rows import Precision, rows_for

FLIPPED = 0.2
REPEATS, STEPS = 7, 5
RULES_MEASURED = (
    ("krum", Mix.NONE),
    ("multi-krum", Mix.NONE),
    ("multi-krum", Mix.NEAREST_NEIGHBOUR),
    ("geometric-median", Mix.NONE),
    ("geometric-median", Mix.NEAREST_NEIGHBOUR),
    ("centred-clipping", Mix.NONE),
    ("norm-clipped-mean", Mix.NONE),
    ("cosine-clustering", Mix.NONE),
)


def updates(count: int, dimension: int) -> np.ndarray:
    """(n, d) float32: a common direction with noise of different sizes; the first are hostile."""
    rng = np.random.default_rng(7)
    rows = rng.standard_normal((count, dimension), dtype=np.float32)
    rows *= rng.uniform(0.5, 1.5, (count, 1)).astype(np.float32)
    rows += rng.standard_normal(dimension, dtype=np.float32)
    rows[: int(FLIPPED * count)] *= -5
    return rows * np.float32(SIGMA)


def peers(rows: np.ndarray, f: int, radius: float) -> dict[str, dict[str, Callable[[], Any]]]:
    """By rule, by name. ByzFL's geometric median takes its 3 steps; centred clipping 5, with the radius that
    is found here, from 0."""
    found: dict[str, dict[str, Callable[[], Any]]] = {}
    byzfl, torch = byzfl_rules(), installed("torch")
    if byzfl is not None and torch is not None:
        torch.set_num_threads(1)
        for kind, given in (("NumPy", rows), ("torch", torch.from_numpy(rows))):
            name = f"ByzFL, {kind}"

            def clip(given: Any = given) -> Any:
                return byzfl.CenteredClipping(L=STEPS, tau=radius)(given)

            for rule, task in (
                ("krum", lambda given=given: byzfl.Krum(f)(given)),
                ("multi-krum", lambda given=given: byzfl.MultiKrum(f)(given)),
                ("geometric-median", lambda given=given: byzfl.GeometricMedian(nu=1e-6)(given)),
                ("centred-clipping", clip),
            ):
                found.setdefault(rule, {})[name] = task
    flower = installed("flwr.server.strategy.aggregate")
    if flower is not None:
        results = [([row], 1) for row in rows]
        found.setdefault("krum", {})["Flower"] = lambda: flower.aggregate_krum(results, f, 0)
        found.setdefault("multi-krum", {})["Flower"] = lambda: flower.aggregate_krum(
            results, f, len(rows) - f
        )
    return found


def exact_gram(rows: np.ndarray) -> np.ndarray:
    """(n, n) float64, a few rows at a time."""
    parts = [rows[:, at : at + 10_000].astype(np.float64) for at in range(0, rows.shape[1], 10_000)]
    return sum((part @ part.T for part in parts), np.zeros((len(rows), len(rows))))


def main() -> None:
    """Print what is measured."""
    count, dimension = (int(given) for given in (*sys.argv[1:], *(UPDATES, DIMENSION)[len(sys.argv) - 1 :]))
    f = int(HOSTILE * count)
    rows = updates(count, dimension)
    gram = exact_gram(rows)
    print(f"n = {count}, d = {dimension}, f = {f}, {int(FLIPPED * count)} hostile; milliseconds, one thread")
    names = [f"client-{i:04}" for i in range(count)]
    own: dict[tuple[str, Mix], float] = {}
    for name, mix in RULES_MEASURED:
        choice = Choice(name, f, mix)
        taken = []

        def take(choice: Choice = choice, taken: list[Any] = taken) -> None:
            taken[:] = [rows_for(choice, dimension, count, Precision(8, 1.0), bytes(32))]
            for client, row in zip(names, rows, strict=True):
                taken[0].add(client, row)

        if not own:
            take()  # compiles
        one = measured(f"{name} {mix}: one update", take, 1, count)
        after = measured(f"{name} {mix}: after the last update", lambda of=taken: of[0].finish(f), REPEATS)
        own[name, mix] = after
        weights = np.array(list(taken[0].finish(f).weights.values()))
        total = one * count + after
        print(f"      in total {total:.0f}; {compared(weights, gram, choice)}", flush=True)
    for rule, tasks in peers(rows, f, centre(gram).radius).items():
        for name, task in tasks.items():
            cost = measured(f"{rule}: {name}", task, 1)
            print(f"      {cost / own[rule, Mix.NONE]:.0f} times as long")


def compared(weights: np.ndarray, gram: np.ndarray, choice: Choice) -> str:
    """What the weights of sketches are beside those of the exact matrix."""
    exact = judge(gram, choice).weights
    hostile = int(FLIPPED * len(gram))
    off = weights - exact
    distance = np.sqrt(max(off @ gram @ off, 0) / (exact @ gram @ exact))
    both = ((weights > 0) & (exact > 0)).sum()
    return (
        f"{both} of {(exact > 0).sum()} that the exact matrix weighs; hostile weight "
        f"{weights[:hostile].sum():.3f} ({exact[:hostile].sum():.3f}); update off by {distance:.1%}"
    )


if __name__ == "__main__":
    main()
