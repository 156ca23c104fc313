"""Honest clients whose updates resemble each other, malicious ones whose updates do harm, and what a rule makes
of both, computed here from whole matrices."""

import hashlib

import numpy as np

from shared.core.robust.gram import Root, fltrust
from shared.core.robust.judging import kind_of
from shared.core.secagg import fixed_point
from tests.integration.scripted_federation import specification

DIMENSION = 256
TRAINING = {"local_steps": 2, "learning_rate": 0.01}  # from which the bound on a coordinate follows


def drawn(seed, label, dimension=DIMENSION):
    digest = hashlib.sha256(f"{seed}/{label}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big")).normal(size=dimension)


def clients(count):
    return [f"client-{index:02}" for index in range(count)]


class Cohort:
    """Of a seed. The last `malicious` clients send five times the negative of what an honest one would.

    Attributes:
        sent: client -> (d,) float64, what its update is in fixed point, once it has sent it.
    """

    def __init__(self, seed, names, malicious=0, spread=0.5):
        self.seed, self.names, self.spread = seed, list(names), spread
        self.malicious = self.names[len(self.names) - malicious :]
        self.sent = {}

    def __call__(self, client, number, dimension):
        update = drawn(self.seed, number, dimension) + self.spread * drawn(
            self.seed, f"{client}/{number}", dimension
        )
        update = (1e-3 * (-5 if client in self.malicious else 1) * update).astype(np.float32)
        self.sent[client] = fixed_point.decode(fixed_point.encode(update))
        return update

    def rows(self, names):
        return np.array([self.sent[name] for name in names])

    def options(self, **options):
        return {name: {"dimension": DIMENSION, "sends": self, **options.get(name, {})} for name in self.names}

    def honest_mean(self, number=1):
        honest = [name for name in self.names if name not in self.malicious]
        return np.mean([self.sent[name] for name in honest], axis=0)


def weights_of(rule, rows, hostile, root=None):
    """What the rule on the Gram matrix of `rows` gives each."""
    gram = rows @ rows.T
    if root is not None:
        return fltrust(gram, Root(rows @ root, float(np.linalg.norm(root)))).weights
    return kind_of(rule).rule(gram, hostile).weights


def by_coordinate(rule, rows, hostile, bound, largest=2**15 - 1):
    """The rule on rows as small integers."""
    step = bound / largest
    ordered = np.sort(np.rint(np.clip(rows, -bound, bound) / step) * step, axis=0)
    if rule == "median":
        return np.median(ordered, axis=0)
    return ordered[hostile : len(ordered) - hostile].mean(axis=0)


def judged(rule, malicious, clients, *, rounds=None, **aggregation):
    """A job of one round, at least so many clients."""
    settings = {"secure": "none", "robust": rule, "malicious": malicious, **aggregation}
    least = {"count": 1, "min_clients": clients, **(rounds or {})}
    return specification(aggregation=settings, rounds=least, training=TRAINING)


async def update_in(fed, event):
    """(d,) of an UpdateAggregated."""
    return np.frombuffer(await fed.blobs.get(event.update), "<f4").astype(np.float64)
