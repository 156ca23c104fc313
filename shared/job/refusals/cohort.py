"""Whether a cohort of a given size can be summed as its job says."""

import math
from collections.abc import Iterator

from shared.core.lora.methods import METHODS
from shared.core.secagg.oneshot.packed_shamir import scheme_for
from shared.core.secagg.pairwise import graph
from shared.errors import Refused
from shared.job.hypergeometric import most_marked
from shared.job.plan import (
    LEAST_ROTATED,
    SECAGG_COLLUDING,
    SECAGG_LOST,
    clients_asked,
    fewest_selected,
    largest_group,
    smallest_group,
)
from shared.job.refusals.divided import divided_over
from shared.job.refusals.robust import breakdown, hostile_groups, too_long_for_a_sketch
from shared.job.specification import JobSpecification

FLOAT32_BYTES = 4
MOST_KEPT_BYTES = 2 * 1024**3


def cohort_refusals(
    specification: JobSpecification, clients: int, dimension: int | None = None
) -> tuple[Refused, ...]:
    """Everything that keeps a cohort from being summed; empty when it can be. Pure.

    Args:
        specification: a job that `refusals` let pass.
        clients: in the cohort.
        dimension: of an update, where it is known.
    """
    found = [refused for rule in COHORT_RULES for refused in rule(specification, clients)]
    if dimension is not None:
        for of_dimension in (_rotated, too_long_for_a_sketch, divided_over):
            found += of_dimension(specification, dimension)
        found += _kept(specification, clients, dimension)
    return tuple(found)


def known_cohorts(job: JobSpecification) -> Iterator[Refused]:
    """Of the smallest cohort and, where the job limits it, of the largest; one refusal a setting."""
    rounds = job.rounds
    found: dict[str, Refused] = {}
    for clients in (rounds.min_clients, clients_asked(job) or rounds.min_clients):
        for refused in cohort_refusals(job, clients):
            found.setdefault(refused.field, refused)
    yield from found.values()


def _overflow(job: JobSpecification, clients: int) -> Iterator[Refused]:
    from shared.core.secagg.encoding import cohorts  # noqa: PLC0415 - compiles

    secure, bits = job.aggregation.secure, job.aggregation.bits
    largest = largest_group(job, clients)
    try:
        cohorts.check_cohort(secure, largest, bits)
    except Refused as refused:
        if refused.field == "aggregation.bits":
            yield Refused(refused.field, refused.reason, refused.remedy.replace("it to", "aggregation.bits:"))
            return
        most = cohorts.PROTOCOLS[secure](bits)
        size = (most + 1) // 2
        if job.aggregation.group_size is None:
            setting, remedy = "rounds.clients_per_round", f"{most}, or aggregation.group_size: {size}"
        else:
            setting, remedy = "aggregation.group_size", f"{size}: groups have up to twice as many, less one"
        yield Refused(setting, refused.reason, f"set {setting}: {remedy}")


def _graph(job: JobSpecification, clients: int) -> Iterator[Refused]:
    if job.aggregation.secure != "secagg":
        return
    size = smallest_group(job, clients)
    if _has_graph(size):
        return
    enough = next(larger for larger in range(size + 1, 2 * size + 100) if _has_graph(larger))
    in_a_group = job.aggregation.group_size is not None and job.aggregation.group_size <= size
    setting = "aggregation.group_size" if in_a_group else "rounds.min_clients"
    yield Refused(
        setting,
        f"secagg among {size} clients opens nothing once one is lost and another colludes with the server",
        f"set {setting}: {enough}, or aggregation.secure: oneshot",
    )


def _has_graph(clients: int) -> bool:
    try:
        graph.plan(clients, SECAGG_LOST, SECAGG_COLLUDING)
    except Refused:
        return False
    return True


def _malicious(job: JobSpecification, clients: int) -> Iterator[Refused]:
    malicious = job.aggregation.malicious
    if malicious and 3 * malicious >= clients:
        yield Refused(
            "aggregation.malicious",
            f"{malicious} of a round of {clients} clients are a third or more, which nothing here withstands",
            f"set rounds.min_clients: {3 * malicious + 1}, or aggregation.malicious: {(clients - 1) // 3}",
        )
    elif malicious:
        yield from _together(job, clients)


def _together(job: JobSpecification, clients: int) -> Iterator[Refused]:
    """What malicious clients can do together where chance puts them."""
    malicious = job.aggregation.malicious
    for most, what, instead in _limits(job, clients):
        if malicious > most:
            yield Refused(
                "aggregation.malicious",
                f"{malicious} malicious of {clients} clients: {what}",
                f"set aggregation.malicious: {most}{instead}",
            )
            return
    yield from hostile_groups(job, clients)


def _limits(job: JobSpecification, clients: int) -> Iterator[tuple[int, str, str]]:
    """How many may be malicious, what more of them could do, and what else would help. A chance below
    2^-40 a round counts as none."""
    aggregation = job.aggregation
    least, largest = smallest_group(job, clients), largest_group(job, clients)
    groups = 1 if aggregation.group_size is None else max(1, clients // aggregation.group_size)
    if aggregation.secure != "none":
        fewest = min(fewest_selected(job), clients)
        most = most_marked(clients, largest, fewest - 2, groups)
        instead = ", or a larger aggregation.smallest_group" if aggregation.group_size else ""
        yield most, f"a sum over {fewest} may have fewer than 2 honest clients", instead
    if aggregation.secure == "oneshot" and not aggregation.key_holders:
        colluding = scheme_for(min(least, aggregation.committee)).colluding
        most = most_marked(clients, min(largest, aggregation.committee), colluding, groups)
        instead = ", or name aggregation.key_holders that do not collude"
        yield most, f"a committee may have more than the {colluding} that may collude", instead
    if aggregation.secure == "secagg":
        colluding = math.ceil(SECAGG_COLLUDING * least)
        most = most_marked(clients, largest, colluding, groups)
        yield most, f"more than the {colluding} that may collude may share a session", ""


def _rotated(job: JobSpecification, dimension: int) -> Iterator[Refused]:
    aggregation = job.aggregation
    if aggregation.rotate and aggregation.bound == "auto" and dimension < LEAST_ROTATED:
        yield Refused(
            "aggregation.rotate",
            f"an adapter of {dimension} coordinates is too small for the planned bound: "
            f"{LEAST_ROTATED} are needed",
            "set aggregation.rotate: false, or aggregation.bound: a rotated coordinate's largest change",
        )


def _kept(job: JobSpecification, clients: int, dimension: int) -> Iterator[Refused]:
    """Methods that see single updates have all of a round's in memory at once, in float32."""
    if METHODS[job.lora.method].linear or FLOAT32_BYTES * clients * dimension <= MOST_KEPT_BYTES:
        return
    most = MOST_KEPT_BYTES // (FLOAT32_BYTES * dimension)
    remedy = "set lora.method: ffa, whose updates are summed as they come"
    if most >= job.rounds.min_clients:
        remedy += f"; or rounds.clients_per_round: {most}"
    yield Refused(
        "lora.method",
        f"{job.lora.method} keeps {clients} updates of {dimension} values, more than 2 GiB",
        remedy,
    )


COHORT_RULES = (_overflow, _graph, _malicious, breakdown)
