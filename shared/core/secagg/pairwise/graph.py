"""Who masks with whom: a ring in random order, each client tied to the next k / 2 on either side.

Source: Bell et al. 2020, CCS (ePrint 2020/704), Section 3: the Harary graph on a random permutation, and the
three events of a good graph. Their tails are computed here exactly, in integers; `plan` says which.
"""

from bisect import bisect_left
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property, partial
from math import ceil, comb

from shared.errors import Refused

FIELD = "aggregation.graph"
SECURITY_BITS = 40
CORRECTNESS_BITS = 30
FEWEST_CLIENTS = 2


@dataclass(frozen=True)
class Plan:
    """How many neighbours a client has, and how many shares open a secret.

    Attributes:
        clients: n, at least 2.
        colluding: how many may pass all they know to the server.
        lost: how many may fall silent in the whole round.
        neighbours: k, even; or n - 1, the complete graph.
        threshold: t. A client and its k neighbours hold the k + 1 shares of its secrets; t open them. Each
            client in a sum has t - 1 neighbours in it, or nobody opens the sum.

    Raises: Refused unless (k + 1) / 2 < t <= k + 1, and, for the complete graph, t > colluding + 1; or when
        `lost` leaves fewer than the quorum or `fewest_survivors`.
    """

    clients: int
    colluding: int
    lost: int
    neighbours: int
    threshold: int

    def __post_init__(self) -> None:
        if self.clients < FEWEST_CLIENTS:
            raise Refused(f"{FIELD}.clients", f"a cohort of {self.clients} hides nothing", "name at least 2")
        if not self.complete and (self.neighbours % 2 or not 2 <= self.neighbours < self.clients):
            raise Refused(
                f"{FIELD}.neighbours",
                f"{self.neighbours} neighbours each among {self.clients} clients",
                f"give an even number below {self.clients - 1}, or {self.clients - 1}",
            )
        least = (self.neighbours + 1) // 2 + 1
        if self.complete:
            least = max(least, self.colluding + 2)
        if not least <= self.threshold <= self.neighbours + 1:
            raise Refused(
                f"{FIELD}.threshold",
                f"{self.threshold} of {self.neighbours + 1} shares, when {self.colluding} may collude",
                f"give {least} to {self.neighbours + 1}",
            )
        most = self.clients - max(self.quorum, self.fewest_survivors)
        if not 0 <= self.lost <= most or self.colluding < 0:
            raise Refused(
                f"{FIELD}.lost",
                f"{self.lost} of {self.clients} clients lost, when {self.colluding} may collude",
                f"give 0 to {most}" if most >= 0 else "expect fewer clients to collude",
            )

    @property
    def complete(self) -> bool:
        """Whether every client is every other's neighbour."""
        return self.neighbours == self.clients - 1

    @property
    def quorum(self) -> int:
        """How many clients endorse a survivor set before any share is revealed: over (n + colluding) / 2.

        An honest client endorses one set, so that no two sets reach it.
        Source: Bonawitz et al. 2017, CCS (ePrint 2017/281), Section 6.2, the round of consistency checks.
        """
        return (self.clients + self.colluding) // 2 + 1

    @property
    def fewest_survivors(self) -> int:
        """No smaller sum is opened: it holds at least two honest clients, and t clients."""
        return max(self.threshold, self.colluding + 2)


def plan(clients: int, lost_rate: float, colluding_rate: float) -> Plan:
    """The sparsest graph that is private but for 2^-40 and opens but for 2^-30, or the complete one.

    Colluding clients are fixed before the ring is drawn; silent ones, for correctness only, do not depend on
    it. With H(m, K) hypergeometric, m draws from n - 1 of which K are marked, and unions over n clients:

    - a client's colluding neighbours open its secrets: n P[H(k, colluding) >= t];
    - the server chooses whom it calls lost so as to cut honest survivors into parts. Every survivor has t - 1
      surviving neighbours, at most k / 2 of them on one side; at the edge of a cut the t - 1 - k / 2 of the
      other side all collude: 2 n P[H(k / 2, colluding) >= t - 1 - k / 2]. Bell et al. bound losses that are
      not chosen, n P[a run of k / 2 is gone], which needs about half the neighbours;
    - a client's secrets do not open: n P[H(k, lost) > k - t].

    Args:
        clients: n.
        lost_rate: the part that may fall silent in the whole round, rounded up to clients.
        colluding_rate: the part that may collude with the server, likewise.

    Raises: Refused when not even the complete graph allows both rates.
    """
    colluding, lost = (ceil(rate * clients - 1e-9) for rate in (colluding_rate, lost_rate))
    for neighbours in range(2, clients - 1, 2):
        safe = partial(_safe, clients, colluding, neighbours)
        threshold = bisect_left(range(neighbours + 1), True, lo=neighbours // 2 + 1, key=safe)
        if threshold <= neighbours and _opens(clients, lost, neighbours, threshold):
            return Plan(clients, colluding, lost, neighbours, threshold)
    return Plan(clients, colluding, lost, clients - 1, max(clients // 2 + 1, colluding + 2))


def _safe(clients: int, colluding: int, neighbours: int, threshold: int) -> bool:
    side = neighbours // 2
    opened = _tail(clients - 1, colluding, neighbours, threshold)
    cut = _tail(clients - 1, colluding, side, threshold - 1 - side)
    return clients * (opened + 2 * cut) <= 2.0**-SECURITY_BITS


def _opens(clients: int, lost: int, neighbours: int, threshold: int) -> bool:
    tail = _tail(clients - 1, lost, neighbours, neighbours - threshold + 1)
    return clients * tail <= 2.0**-CORRECTNESS_BITS


def _tail(population: int, marked: int, draws: int, least: int) -> float:
    """P[at least `least` of `draws` without replacement are marked]."""
    ways = sum(
        comb(marked, hits) * comb(population - marked, draws - hits)
        for hits in range(max(least, 0), min(marked, draws) + 1)
    )
    return ways / comb(population, draws)


@dataclass(frozen=True)
class Graph:
    """The ring, and how far each client's ties reach in it."""

    ring: tuple[str, ...]
    neighbours: int

    @cached_property
    def _holders(self) -> dict[str, tuple[str, ...]]:
        size, after = len(self.ring), self.neighbours - self.neighbours // 2
        offsets = (*range(after + 1), *range(after - self.neighbours, 0))
        return {
            client: tuple(self.ring[(position + offset) % size] for offset in offsets)
            for position, client in enumerate(self.ring)
        }

    def holders(self, client: str) -> tuple[str, ...]:
        """Who holds the shares of `client`'s secrets, by point from 1: itself, then its neighbours."""
        return self._holders[client]

    def around(self, client: str) -> tuple[str, ...]:
        """Its neighbours."""
        return self.holders(client)[1:]

    def unsupported(self, present: Collection[str], threshold: int) -> frozenset[str]:
        """Those of `present` who, with their neighbours in it, are fewer than `threshold`."""
        there = frozenset(present)
        return frozenset(c for c in there if len(there.intersection(self.holders(c))) < threshold)

    def supported(self, present: Collection[str], threshold: int) -> frozenset[str]:
        """The largest part of `present` in which nobody is `unsupported`."""
        left = frozenset(present)
        while gone := self.unsupported(left, threshold):
            left -= gone
        return left
