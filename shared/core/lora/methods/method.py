"""What a LoRA method is: which factors a round trains, and what becomes of the clients' changes to them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from shared.errors import Refused, Rejected

FIELD = "lora.method"
Scalar = TypeVar("Scalar", bound=np.generic)


class Factor(StrEnum):
    """A factor of one layer's update B A, or B R A, by its part of a PEFT state-dict name."""

    A = "lora_A"  # (r, n)
    B = "lora_B"  # (m, r)
    R = "lora_R"  # (r, r), Fed-SB alone; PEFT has no such name


class Exact(StrEnum):
    """Whether the new adapter's product is the mean of the clients' products."""

    YES = "yes"
    NO = "no"
    BEFORE_TRUNCATION = "before truncation"


class Ranks(StrEnum):
    """Which ranks the clients of one round may have."""

    EQUAL = "equal"
    NESTED = "nested columns"  # a client of rank r_k trains the first r_k columns; one mean a column
    ANY = "any"


Factors = Mapping[Factor, NDArray[np.float32]]


@dataclass(frozen=True)
class Upload:
    """What a client did to one layer.

    Attributes:
        changes: to each factor that the round trains, in the client's rank: (r_k, n), (m, r_k), (r_k, r_k).
        weight: above 0, public.
    """

    changes: Factors
    weight: float = 1.0


@dataclass(frozen=True)
class Combined:
    """What a round makes of one layer.

    Attributes:
        factors: the next round's, in the rank of the federation, r.
        into_base: (m, n) float32 that is added to the frozen W, times LoRA's scale; None where W stays.
    """

    factors: Factors
    into_base: NDArray[np.float32] | None = None


Combine = Callable[[Factors, Sequence[Upload]], Combined]
Trained = Callable[[int], frozenset[Factor]]


@dataclass(frozen=True)
class Method:
    """A line of the table.

    Attributes:
        source: paper.
        trained: rounds completed so far -> the factors that this round trains and clients upload.
        combine: factors that the round began with, uploads that fit them -> what comes of it.
        exact: whether the mean of products is met.
        ranks: that clients of one round may have.
        one_by_one: why it must see each client's factors and no sum will do; None where it is linear.
        changes_base: whether clients must be sent a change to W, beside factors.
    """

    source: str
    trained: Trained
    combine: Combine
    exact: Exact
    ranks: Ranks
    one_by_one: str | None = None
    changes_base: bool = False

    @property
    def linear(self) -> bool:
        """Whether a secure sum of uploads is enough."""
        return self.one_by_one is None

    def aggregate(self, before: Factors, uploads: Sequence[Upload]) -> Combined:
        """What a round makes of one layer.

        Args:
            before: the factors that the round began with, in the federation's rank.
            uploads: of the round, in any order; each client's rank is at most the federation's.

        Raises: Rejected without uploads, and for one that does not fit.
        """
        if not uploads:
            raise Rejected("a round without uploads")
        for upload in uploads:
            check(before, upload)
            if upload.changes.keys() != uploads[0].changes.keys():
                raise Rejected("uploads of one round change different factors")
            if self.ranks is Ranks.EQUAL and rank_of(upload.changes) != rank_of(before):
                raise Rejected(f"rank {rank_of(upload.changes)}, {rank_of(before)} expected of every client")
        return self.combine(before, uploads)

    def uploaded(self, outputs: int, inputs: int, rank: int, completed: int) -> int:
        """Values that a client of that rank uploads for one m x n layer, m = `outputs`, n = `inputs`."""
        sizes = {Factor.A: rank * inputs, Factor.B: outputs * rank, Factor.R: rank * rank}
        return sum(sizes[factor] for factor in self.trained(completed))


def always(*factors: Factor) -> Trained:
    """The same factors in every round."""
    return lambda _: frozenset(factors)


def refuse_under_secure_sums(name: str, method: Method) -> None:
    """Raises: Refused, with the reason, for a method that needs more than a sum."""
    if method.one_by_one is not None:
        raise Refused(
            FIELD,
            f"{name} {method.one_by_one}, and secure aggregation opens a sum alone",
            "set lora.method: ffa; or aggregation.secure: none, which shows single updates to the aggregator",
        )


def check(before: Factors, upload: Upload) -> None:
    """Raises: Rejected for a weight of 0, and for changes that do not fit `before`."""
    if not 0 < upload.weight < np.inf:
        raise Rejected(f"a weight of {upload.weight:g}: give more than 0")
    if not upload.changes or not upload.changes.keys() <= before.keys():
        raise Rejected(f"changes to {sorted(upload.changes)}, {sorted(before)} expected")
    rank = rank_of(upload.changes)
    if not 1 <= rank <= rank_of(before):
        raise Rejected(f"rank {rank} of a client, {rank_of(before)} of the federation")
    for factor, change in upload.changes.items():
        expected = leading(factor, before[factor], rank).shape
        if change.shape != expected:
            raise Rejected(f"a change to {factor} of shape {change.shape}, {expected} expected")
        if not np.isfinite(change).all():
            raise Rejected(f"a change to {factor} that is not finite")


def rank_of(factors: Factors) -> int:
    """r of any of them."""
    factor, values = next(iter(factors.items()))
    return int(values.shape[1] if factor is Factor.B else values.shape[0])


def leading(factor: Factor, values: NDArray[Scalar], rank: int) -> NDArray[Scalar]:
    """The part of a factor that belongs to its first `rank` columns, as a view."""
    rows = slice(None) if factor is Factor.B else slice(rank)
    columns = slice(None) if factor is Factor.A else slice(rank)
    return values[rows, columns]
