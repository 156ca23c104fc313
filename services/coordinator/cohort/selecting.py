"""Whom a round asks: at random, or rather those that finish rounds, or do so soon."""

import math
from collections.abc import Mapping, Sequence
from statistics import median

from services.coordinator.cohort.pace import Pace
from shared.core.randomness import RandomBytes
from shared.job.plan import clients_asked
from shared.job.specification import JobSpecification

PRECISION = 2.0**-53


def enough(specification: JobSpecification, group: int, reserved: int) -> int | None:
    """Of a group, uploads that end its upload stage; None where all are waited for.

    Args:
        specification: of the job.
        group: clients in it.
        reserved: clients of all groups.
    """
    wanted = specification.rounds.clients_per_round
    if wanted is None or not specification.rounds.over_selection or reserved <= wanted:
        return None
    return math.ceil(group * wanted / reserved)


def weights(specification: JobSpecification, paces: Mapping[str, Pace]) -> dict[str, float]:
    """How much rather a client is asked than another, above 0.

    `availability`: the share of its rounds that it finished. `bandwidth`: one over the seconds that it is
    expected to take, the median's where it is not known; next to nothing beyond the deadline.
    """
    rounds = specification.rounds
    if rounds.selection == "availability":
        return {client: pace.availability for client, pace in paces.items()}
    if rounds.selection == "uniform":
        return dict.fromkeys(paces, 1.0)
    known = [pace.seconds for pace in paces.values() if pace.seconds is not None]
    usual = median(known) if known else 1.0
    expected = {client: pace.seconds or usual for client, pace in paces.items()}
    return {
        client: (1.0 if seconds <= rounds.deadline_s else PRECISION) / max(seconds, PRECISION)
        for client, seconds in expected.items()
    }


def sample(weighed: Mapping[str, float], count: int | None, random: RandomBytes) -> tuple[str, ...]:
    """`count` clients (all for None), sorted: each draw is in proportion to the weights that are left.

    A key -ln(u) / w each, the smallest are taken: Efraimidis, Spirakis 2006, "Weighted random sampling with
    a reservoir", algorithm A.
    """
    if count is None or count >= len(weighed):
        return tuple(sorted(weighed))
    keys = {client: -math.log(_uniform(random)) / weight for client, weight in sorted(weighed.items())}
    return tuple(sorted(sorted(keys, key=lambda client: (keys[client], client))[:count]))


def cohort(
    specification: JobSpecification, candidates: Sequence[str], paces: Mapping[str, Pace], random: RandomBytes
) -> tuple[str, ...]:
    """Whom a round asks; the root client, if there is one, always."""
    root, count = specification.aggregation.root, clients_asked(specification)
    known = {client: paces.get(client) or Pace(client_id=client) for client in candidates}
    weighed = weights(specification, known)
    if root is None:
        return sample(weighed, count, random)
    del weighed[root]
    return tuple(sorted((root, *sample(weighed, None if count is None else count - 1, random))))


def _uniform(random: RandomBytes) -> float:
    """In (0, 1], 53 bits."""
    return ((int.from_bytes(random(8), "big") >> 11) + 1) * PRECISION
