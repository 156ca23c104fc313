"""Which records each simulated client holds."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv

from shared.core.noise import KeyStream
from shared.errors import Refused

Parts = list[NDArray[np.intp]]
FORMS = "write iid, dirichlet:ALPHA or by:COLUMN"


def column_of(partition: str) -> str:
    """The column that `by:COLUMN` names, or empty. Raises: Refused for no known partition."""
    kind, _, detail = partition.partition(":")
    if kind == "by" and detail:
        return detail
    if partition != "iid" and not (kind == "dirichlet" and _positive(detail)):
        raise Refused("--partition", f"{partition!r} is not one", FORMS)
    return ""


def divide(partition: str, values: Sequence[object], clients: int, stream: KeyStream) -> Parts:
    """Row numbers of each client, sorted, none empty.

    Args:
        partition: `iid`: even shares at random; `dirichlet:ALPHA`: each value's records in shares that are
            Dirichlet(ALPHA) over clients (Hsu et al. 2019, arXiv:1909.06335, there per client); `by:COLUMN`:
            records with the same value stay together.
        values: of each record: its label, or what the column holds.
        clients: how many parts.
        stream: what the shares are drawn from.

    Raises: Refused with fewer records, or for `by` fewer values, than clients.
    """
    column = column_of(partition)
    if len(values) < clients:
        raise Refused(
            "--clients", f"{len(values)} records for {clients} clients", "fewer clients, or more data"
        )
    order = np.argsort(stream.words(len(values)), kind="stable")
    if partition == "iid":
        return [np.sort(part) for part in np.array_split(order, clients)]
    groups: dict[object, list[int]] = defaultdict(list)
    for row in order:
        groups[values[row]].append(int(row))
    named = [groups[value] for value in sorted(groups, key=str)]
    if not column:
        return _dirichlet(named, float(partition.partition(":")[2]), clients, stream)
    if len(named) < clients:
        raise Refused("--clients", f"{column} has {len(named)} values for {clients} clients", "fewer clients")
    parts: list[list[int]] = [[] for _ in range(clients)]
    for group in sorted(named, key=len, reverse=True):
        min(parts, key=len).extend(group)
    return [np.sort(np.array(part, np.intp)) for part in parts]


def _dirichlet(groups: Sequence[Sequence[int]], alpha: float, clients: int, stream: KeyStream) -> Parts:
    parts: list[list[int]] = [[] for _ in range(clients)]
    for group in groups:
        gamma = gammaincinv(alpha, stream.uniform(clients)) + 1e-300
        ends = np.round(np.cumsum(gamma / gamma.sum()) * len(group)).astype(int)[:-1]
        for part, rows in zip(parts, np.split(np.array(group, np.intp), ends), strict=True):
            part.extend(int(row) for row in rows)
    for part in parts:  # a client without a record would be none
        if not part:
            part.append(max(parts, key=len).pop())
    return [np.sort(np.array(part, np.intp)) for part in parts]


def _positive(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False
