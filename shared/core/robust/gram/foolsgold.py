"""FoolsGold: the more alike to another client, the less a client counts."""

import numpy as np

from shared.core.robust.gram.rule import Finding, Matrix, Weighing, cosines

ASSUMES = "two or more hostile clients send like updates, and honest ones do not"
WARNING = (
    "FoolsGold has no breakdown point. One hostile client that is like no other gets full weight, and honest "
    "clients with like data lose theirs. The weights were made for sums of updates over all rounds so far"
)
FULL = 1 / (1 + np.exp(-0.5))  # of the greatest trust: from here on the logit + 1/2 is 1


def foolsgold(gram: Matrix, _: int) -> Weighing:
    """Weigh clients by the inverse logit of their greatest cosine, after pardoning; weights then sum to 1.

    When every client is like another, nobody can be told from the rest and all weigh the same.

    Args:
        gram: (n, n), better of each client's updates summed over rounds than of one round's.
        _: not used.

    Source: Fung et al. 2020, RAID, Algorithm 1; features all weigh the same.
    """
    alike = cosines(gram)
    np.fill_diagonal(alike, 0)
    greatest = alike.max(axis=1)
    # Pardoning: who is like a client that is still more like a third is more likely honest than that one.
    ratio = np.divide(
        greatest[:, None], greatest, out=np.ones_like(alike), where=greatest > greatest[:, None]
    )
    likeness = (alike * ratio).max(axis=1)
    trust = np.clip(1 - likeness, 0, 1)
    most = float(trust.max())
    if most == 0:
        return Weighing(np.full(len(trust), 1 / len(trust)))
    trust = np.minimum(trust / most, 0.99)
    odds = np.divide(trust, 1 - trust, out=np.full_like(trust, np.finfo(np.float64).tiny), where=trust > 0)
    weights = np.clip(np.log(odds) + 0.5, 0, 1)
    limit = 1 - FULL * most
    findings = tuple(
        Finding(int(i), "likeness", float(likeness[i]), limit) for i in np.flatnonzero(weights < 1)
    )
    return Weighing(weights / weights.sum(), findings)


def largest_f(_: int) -> int:
    """None: one hostile client alone is not like another."""
    return 0
