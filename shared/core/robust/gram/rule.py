"""What a rule on the Gram matrix is given, what it answers, and the quantities that rules share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shared.errors import Refused, Rejected

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]
Indices = NDArray[np.intp]

FIELD = "aggregation.robust"
LARGEST_SQUARED_NORM = (
    1e200  # sums and products of weights stay finite; 10^9 float32 values give at most 1e86
)


@dataclass(frozen=True)
class Finding:
    """Why one client counts for less than the others.

    Attributes:
        client: row of the Gram matrix.
        figure: what was measured. A distance and a norm are in units of the updates; a cosine is in [-1, 1];
            neighbours are the mixtures of nearest neighbours that count and have this client in them.
        value: of this client.
        limit: what `value` was held against. A distance or norm above it, or a cosine below it, costs weight;
            for `likeness`, a cosine to the most alike other client, above it does. Of `neighbours`, the limit
            is the mean over all clients, and fewer cost weight.
    """

    client: int
    figure: Literal["distance", "norm", "cosine", "likeness", "neighbours"]
    value: float
    limit: float


@dataclass(frozen=True)
class Weighing:
    """A rule's answer: the update is sum_i weights_i x_i.

    Attributes:
        weights: (n,), not negative. They sum to 1 unless the rule shortens updates.
        findings: in the order of clients, at most one for each.
    """

    weights: Vector
    findings: tuple[Finding, ...] = ()

    @property
    def left_out(self) -> tuple[Finding, ...]:
        """Of the clients that do not count at all."""
        return tuple(finding for finding in self.findings if self.weights[finding.client] == 0)

    @property
    def lessened(self) -> tuple[Finding, ...]:
        """Of the clients that count, with less than their share."""
        return tuple(finding for finding in self.findings if self.weights[finding.client] != 0)


@dataclass(frozen=True)
class Rule:
    """One line of a table of rules.

    Attributes:
        weigh: (G, f) -> weights; G is (n, n), G_ij = <x_i, x_j>.
        largest_f: n -> how many of n clients may be hostile.
        assumes: what must hold besides, as a sentence for people.
        kappa: (n, f) -> the factor of (f, kappa)-robustness; None where none is known.
        sums_to_one: whether the answer moves along when all updates are moved.
        warning: what a person should read before choosing the rule; None for nothing.
    """

    weigh: Callable[[Matrix, int], Weighing]
    largest_f: Callable[[int], int]
    assumes: str
    kappa: Callable[[int, int], float] | None = None
    sums_to_one: bool = True
    warning: str | None = None

    def __call__(self, gram: Matrix, f: int) -> Weighing:
        """Weigh n updates of which f may be hostile.

        Raises: Rejected when `gram` is no Gram matrix; Refused unless 0 <= f <= largest_f(n).
        """
        check_gram(gram)
        return self.weigh_checked(gram, f)

    def weigh_checked(self, gram: Matrix, f: int) -> Weighing:
        """The same for a matrix that `check_gram` let pass. Raises: Refused unless 0 <= f <= largest_f(n)."""
        n, most = len(gram), self.largest_f(len(gram))
        if not 0 <= f <= most:
            name = self.weigh.__name__
            raise Refused(FIELD, f"{name} bears {most} hostile of {n}, not {f}", f"give 0 to {most}")
        return self.weigh(gram, f)


def minority(n: int) -> int:
    """The largest f with 2f < n: honest clients are a majority."""
    return max(0, (n - 1) // 2)


def check_gram(gram: Matrix) -> None:
    """Refuse what is no Gram matrix of finite updates.

    Raises: Rejected for another shape or type, no rows, a value that is not finite, a negative or huge
        squared norm, and two triangles that differ by more than 1e-6 of both norms.
    """
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or not len(gram) or gram.dtype != np.float64:
        raise Rejected(f"{gram.dtype} of shape {gram.shape}: give a square float64 Gram matrix with rows")
    squares = np.diagonal(gram)
    # A row of another client may hold what is not finite, too: the diagonal names the one that brought it.
    unfit = np.flatnonzero(~((squares >= 0) & (squares <= LARGEST_SQUARED_NORM)))
    if unfit.size:
        raise Rejected(f"squared norm {squares[unfit[0]]} of client {unfit[0]}: leave that client out")
    if np.array_equal(gram, gram.T):  # as those are that are computed here; NaN is not equal to itself
        fits = bool(np.isfinite(gram).all())
    else:
        lengths = np.sqrt(squares)
        slack = 1e-6 * np.outer(lengths, lengths) + np.finfo(np.float64).tiny
        fits = bool((np.abs(gram - gram.T) <= slack).all())
    if not fits:
        raise Rejected("the Gram matrix is not finite or not symmetric: fill both triangles")


def norms(gram: Matrix) -> Vector:
    """(n,): ||x_i||."""
    return np.asarray(np.sqrt(np.diagonal(gram)))


def squared_distances(gram: Matrix) -> Matrix:
    """(n, n): ||x_i - x_j||^2; exactly 0 on the diagonal, for equal rows, and where rounding goes below."""
    half = 0.5 * np.diagonal(gram)
    between = half[:, None] + half[None, :] - gram
    np.maximum(between, 0, out=between)
    np.fill_diagonal(between, 0)
    between *= 2
    return np.asarray(between)


def cosines(gram: Matrix) -> Matrix:
    """(n, n): the cosine of x_i and x_j, to 12 digits so that copies tie; 0 where either is zero."""
    lengths = norms(gram)
    inverse = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    return np.asarray(np.round(np.clip(gram * inverse[:, None] * inverse[None, :], -1, 1), 12))


def distances_to(gram: Matrix, weights: Vector) -> Vector:
    """(n,): ||x_i - sum_j weights_j x_j||; rounding of squared norms limits how small a one can be told."""
    products = gram @ weights
    squares = np.diagonal(gram) - 2 * products + weights @ products
    return np.asarray(np.sqrt(np.maximum(squares, 0)))


def smallest(values: Vector, count: int) -> Indices:
    """The indices of the `count` smallest, ascending by value; a tie goes to the lower index."""
    return np.argsort(values, kind="stable")[:count]
