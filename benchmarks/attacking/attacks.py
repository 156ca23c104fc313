"""What hostile clients send: each attack a pure function of what the honest ones send, with its paper.

The attackers know all honest updates of the round, as the papers assume, and send at the last moment.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]

FLIP, IPM_FACTOR, LENGTHS = 5.0, 5.0, 10.0


@dataclass(frozen=True)
class Seen:
    """What the attackers of a round know.

    Attributes:
        honest: (h, d), the updates of honest clients.
        own: (m, d), what the m attackers would send as honest clients.
        normal: (m, d) standard normal draws, for attacks that are random.
    """

    honest: Rows
    own: Rows
    normal: Rows

    @property
    def length(self) -> float:
        """The median norm of an honest update."""
        return float(np.median(np.linalg.norm(self.honest, axis=1)))


def nothing(seen: Seen) -> Rows:
    """(m, d): what honest clients send."""
    return seen.own


def sign_flip(seen: Seen) -> Rows:
    """(m, d): each its own update, times -5.

    Source: Li et al. 2019, AAAI, arXiv:1811.03761 (RSA), "sign-flipping attack"; there times -4.
    """
    return -FLIP * seen.own


def inner_product_manipulation(seen: Seen) -> Rows:
    """(m, d): all send the honest mean, times -5.

    Source: Xie, Koyejo, Gupta 2019, UAI, arXiv:1903.03936, Section 4.
    """
    return np.tile(-IPM_FACTOR * seen.honest.mean(axis=0), (len(seen.own), 1))


def largest_z(clients: int, hostile: int) -> float:
    """z_max: so many standard deviations off, s honest clients are farther from the honest mean; they and the
    attackers are a majority.

    Source: Baruch, Baruch, Goldberg 2019, NeurIPS, arXiv:1902.06156, Algorithm 3.
    """
    supporters = clients // 2 + 1 - hostile
    honest = clients - hostile
    return NormalDist().inv_cdf((honest - supporters) / honest)


def little_is_enough(seen: Seen) -> Rows:
    """(m, d): all send the honest mean minus z_max standard deviations, in each coordinate.

    Source: Baruch, Baruch, Goldberg 2019, NeurIPS, arXiv:1902.06156 (ALIE), Algorithm 3.
    """
    hostile = len(seen.own)
    z = largest_z(len(seen.honest) + hostile, hostile)
    return np.tile(seen.honest.mean(axis=0) - z * seen.honest.std(axis=0), (hostile, 1))


def gaussian(seen: Seen) -> Rows:
    """(m, d): noise of mean 0 in every coordinate, ten times as long as an honest update on average.

    Source: Blanchard et al. 2017, NeurIPS, Section 5; there with a standard deviation of 200 for any model.
    """
    return seen.normal * (LENGTHS * seen.length / np.sqrt(seen.honest.shape[1]))


def collusion(seen: Seen) -> Rows:
    """(m, d): all send one vector of an honest update's length, straight against the honest mean.

    Source: Xie, Koyejo, Gupta 2019, UAI, arXiv:1903.03936, with the factor that makes the length honest.
    """
    mean = seen.honest.mean(axis=0)
    return np.tile(-mean * (seen.length / np.linalg.norm(mean)), (len(seen.own), 1))


def flipped(labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Class c becomes class C - 1 - c; who trains on it sends what it learns, as an honest client would.

    Source: Karimireddy, He, Jaggi 2022, ICLR, arXiv:2006.09365, Section 6 (9 - c, of ten classes).
    """
    return classes - 1 - labels


ATTACKS: Mapping[str, Callable[[Seen], Rows]] = {
    "sign flip x5": sign_flip,
    "IPM x5": inner_product_manipulation,
    "ALIE": little_is_enough,
    "label flip": nothing,  # the harm is in the labels that `own` was trained on
    "Gaussian": gaussian,
    "collusion": collusion,
}
