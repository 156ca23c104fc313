"""From the opened Gram matrix to the selection that party 0 proposes, and what it says of each update."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from services.secure_aggregation.protocols.base import Judgement
from shared.core.robust.judging import Choice
from shared.core.robust.judging.verdict import judge
from shared.core.secagg.mpc3.selection import Selection
from shared.core.secagg.mpc3.weighing import select


@dataclass(frozen=True)
class Survivors:
    """Whose updates there are.

    Attributes:
        names: of all, ascending.
        digest: of the frozen set.
        members: of those that are judged, ascending, as the rows of the Gram matrix.
    """

    names: tuple[str, ...]
    digest: bytes
    members: tuple[str, ...]


@dataclass(frozen=True)
class Weighed:
    """What a rule made of the updates.

    Attributes:
        selection: of all survivors.
        part: what 1 of its integers counts.
        judgement: with the weights that the selection has, not those that were rounded to it.
    """

    selection: Selection
    part: float
    judgement: Judgement


def weigh(
    gram: NDArray[np.float64], survivors: Survivors, choice: Choice, key: bytes, largest: int
) -> Weighed:
    """Let the rule judge.

    Args:
        gram: (m, m) of the members, in units of the updates.
        survivors: the members and the others.
        choice: the rule; hostile ones that are found already do not count any more.
        key: 32 bytes that no client knows, used for this matrix alone.
        largest: integer of the selection.

    Raises: Refused or Rejected as `judge`; Rejected when no update has a weight.
    """
    members = survivors.members
    root = members.index(choice.root) if choice.root in members else None
    verdict = judge(gram, choice, root=root, key=key)
    weights = dict(zip(members, verdict.weights, strict=True))
    in_order = np.array([weights.get(client, 0.0) for client in survivors.names])
    selection, part = select(survivors.digest, in_order, largest)
    applied = {
        client: integer * part
        for client, integer in zip(survivors.names, selection.weights, strict=True)
        if client in weights and client != choice.root
    }
    reasons = {members[row]: reason for row, reason in verdict.reasons.items()}
    return Weighed(selection, part, Judgement(applied, reasons))


def fewer_hostile(choice: Choice, found: int) -> Choice:
    """The same rule when so many hostile clients are out already."""
    return replace(choice, hostile=max(0, choice.hostile - found))
