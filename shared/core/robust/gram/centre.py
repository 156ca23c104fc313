"""A client in the middle, and how far its nearest half is: a start and a scale that no minority moves far."""

from typing import NamedTuple

import numpy as np

from shared.core.robust.gram.rule import Matrix, squared_distances


class Centre(NamedTuple):
    """At least half of all clients, itself too, are within `radius` of `client`; no other needs less."""

    client: int
    radius: float


def centre(gram: Matrix) -> Centre:
    """Find it, with its radius in units of the updates.

    Two clients may be each other's farthest of the nearest half: the one whose next distances are smaller is
    taken, or, when all are the same, the lower index.
    """
    between = squared_distances(gram)
    rank = (len(gram) - 1) // 2
    between.partition(rank, axis=1)
    squares = between[:, rank]
    tied = np.flatnonzero(squares == squares.min())
    beyond = np.sort(between[tied, rank:], axis=1)
    client = int(tied[np.lexsort(beyond.T[::-1])[0]])
    return Centre(client, float(np.sqrt(squares[client])))
