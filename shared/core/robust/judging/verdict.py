"""From a Gram matrix to a weight for each row, whatever of updates the matrix was made of."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.core.robust.gram import (
    Finding,
    Mixing,
    Root,
    Weighing,
    bucketing,
    fltrust,
    nearest_neighbour_mixing,
    weigh_mixed,
)
from shared.core.robust.gram.rule import FIELD, Matrix, Rule, Vector, check_gram
from shared.core.robust.judging.choice import Choice
from shared.core.robust.judging.table import Mix, Needs
from shared.core.secagg import key_stream
from shared.errors import Refused, Rejected


@dataclass(frozen=True)
class Reason:
    """Why one row counts for less than the others.

    Attributes:
        figure: what was measured: as in `gram.Finding`, or zero.
        value: of this row, in the units of the matrix's rows; a cosine has none.
        limit: what `value` was held against.
    """

    figure: str
    value: float
    limit: float


@dataclass(frozen=True)
class Verdict:
    """A rule's answer about n rows: the update is sum_i weights_i x_i.

    Attributes:
        weights: (n,), not negative.
        reasons: by row, of those that count less than their share, or not at all.
    """

    weights: Vector
    reasons: dict[int, Reason]


def judge(gram: Matrix, choice: Choice, *, root: int | None = None, key: bytes = b"") -> Verdict:
    """Weigh the rows of a Gram matrix.

    Rows that are zero have weight 0 and are not shown to the rule.

    Args:
        gram: (n, n) float64, of the rows.
        choice: which rule, for how many hostile rows.
        root: the row of the trusted update, for a rule that needs one.
        key: 32 bytes that no client knows, used for this matrix alone; for buckets.

    Raises: Refused when the rule does not bear so many hostile rows of these; Rejected for what is no Gram
        matrix, when all rows are zero, or when the trusted one is missing.
    """
    check_gram(gram)
    squares = np.diagonal(gram)
    judged = np.flatnonzero(squares > 0)
    reasons = {int(row): Reason("zero", 0.0, 0.0) for row in np.flatnonzero(squares == 0)}
    if choice.kind.needs is Needs.ROOT:
        if root is None or root in reasons:
            raise Rejected(f"there is no update of {choice.root}, by which the others are measured")
        judged = judged[judged != root]
    if not len(judged):
        raise Rejected("every update is zero")
    weighing = _weigh(gram, judged, choice, root, key)
    _check_answer(weighing, len(judged), choice.name)
    weights = np.zeros(len(gram))
    weights[judged] = weighing.weights
    for finding in weighing.findings:
        reasons[int(judged[finding.client])] = Reason(finding.figure, finding.value, finding.limit)
    return Verdict(weights, dict(sorted(reasons.items())))


def _weigh(gram: Matrix, judged: NDArray[np.intp], choice: Choice, root: int | None, key: bytes) -> Weighing:
    own = np.ascontiguousarray(gram[np.ix_(judged, judged)])
    if root is not None:
        return fltrust(own, Root(gram[judged, root], float(np.sqrt(gram[root, root]))))
    rule = choice.kind.rule
    if rule is None:
        raise Refused(FIELD, f"{choice.name} needs more than inner products", "choose another rule")
    match choice.mix:
        case Mix.NONE:
            return rule.weigh_checked(own, choice.hostile)
        case Mix.NEAREST_NEIGHBOUR:
            return _weigh_neighbours(rule, own, choice.hostile)
        case Mix.BUCKETS:
            return weigh_mixed(rule, _buckets(len(own), choice.bucket, key), own, choice.hostile)


def _weigh_neighbours(rule: Rule, gram: Matrix, hostile: int) -> Weighing:
    """What the rule finds is about mixtures; of a client is said in how many of those that count it is."""
    mixing = nearest_neighbour_mixing(gram, hostile)
    mixtures = rule(mixing.gram(gram), hostile)
    weights = mixing.unmix(mixtures).weights
    members = (mixing.matrix[mixtures.weights > 0] > 0).sum(axis=0)
    less = np.flatnonzero(weights < weights.mean() * (1 - 1e-9))
    mean = float(members.mean())
    return Weighing(weights, tuple(Finding(int(i), "neighbours", float(members[i]), mean) for i in less))


def _check_answer(weighing: Weighing, rows: int, name: str) -> None:
    """A rule that was installed may answer anything."""
    weights = weighing.weights
    if weights.shape != (rows,) or not np.isfinite(weights).all() or float(weights.min()) < 0:
        raise Rejected(f"{name} gave weights that are not {rows} finite numbers of at least 0")
    if any(not 0 <= finding.client < rows for finding in weighing.findings):
        raise Rejected(f"{name} found something about a row that there is not")


def _buckets(rows: int, size: int, key: bytes) -> Mixing:
    permutation = np.argsort(key_stream.words(key, rows), kind="stable")
    return bucketing(permutation, min(size, rows))
