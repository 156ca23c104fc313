"""Budgets that hold when later mechanisms are chosen from earlier results."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from shared.core.privacy.accountants import epsilon
from shared.core.privacy.accountants.renyi import ORDERS, renyi_divergences
from shared.core.privacy.mechanisms import Mechanism, composed

_ORDERS = np.asarray(ORDERS)


@dataclass(frozen=True)
class RenyiFilter:
    """Admits mechanisms while their Renyi divergences at one order add up to at most what the budget allows.

    A composition's own epsilon is a guarantee only for plans fixed in advance. Where noise, rate or stopping
    is chosen from results, the order must be fixed beforehand and the guarantee is the cap, (epsilon, delta),
    however little was spent. Source: Feldman and Zrnic 2021, arXiv:2008.11193, and Lecuyer 2021,
    arXiv:2103.01379, on fully adaptive Renyi composition.

    Attributes:
        epsilon, delta: the budget, and the guarantee of all that was admitted together.
        order: one of ORDERS, fixed before anything is admitted and never changed after.
    """

    epsilon: float
    delta: float
    order: float

    def __post_init__(self) -> None:
        if not (self.epsilon > 0 and 0 < self.delta < 1):
            raise ValueError(
                f"a budget is epsilon > 0 and delta in (0, 1), not ({self.epsilon}, {self.delta})"
            )
        if self.order not in ORDERS:
            raise ValueError(f"order {self.order} is not among those that are computed")

    @classmethod
    def of(cls, epsilon: float, delta: float, expected: Mechanism | None = None) -> Self:
        """At the order that admits most releases.

        Args:
            epsilon: of the budget, > 0.
            delta: of the budget, in (0, 1).
            expected: what is likely to be asked, known before any result is. None for Gaussian releases,
                whose divergence is proportional to the order.

        Raises: ValueError for a budget that no order can hold.
        """
        cost = _ORDERS if expected is None else renyi_divergences([expected])
        with np.errstate(divide="ignore", invalid="ignore"):
            releases = np.where(np.isfinite(cost) & (cost > 0), _limits(epsilon, delta) / cost, 0)
        best = int(np.argmax(releases))
        if not releases[best] > 0:
            raise ValueError(f"no order holds a budget of ({epsilon}, {delta})")
        return cls(epsilon, delta, ORDERS[best])

    @property
    def limit(self) -> float:
        """The largest Renyi divergence at `order` that implies (epsilon, delta); negative when none does."""
        return float(_limits(self.epsilon, self.delta)[ORDERS.index(self.order)])

    def spent(self, mechanisms: Iterable[Mechanism]) -> float:
        """The composition's Renyi divergence at `order`, in the units of `limit`."""
        return float(renyi_divergences(mechanisms)[ORDERS.index(self.order)])

    def admits(self, spent: Iterable[Mechanism], asked: Mechanism) -> bool:
        """Whether `asked` may run after `spent`. What is refused must not run, in any part.

        Raises: ValueError for mechanisms of different units.
        """
        return self.spent(composed([*spent, asked])) <= self.limit


def _limits(budget_epsilon: float, delta: float) -> NDArray[np.float64]:
    """At each order: the conversion of Canonne, Kamath, Steinke 2020, Proposition 12, solved."""
    limits = budget_epsilon - np.log1p(-1 / _ORDERS) + np.log(delta * _ORDERS) / (_ORDERS - 1)
    return np.asarray(limits, np.float64)


# Of every budget over several jobs, so that raising one does not choose its order from results.
LIFETIME_ORDER = RenyiFilter.of(10.0, 1e-5).order


def admits_over_jobs(
    this_job: Sequence[Mechanism], all_jobs: Sequence[Mechanism], budget_epsilon: float, delta: float
) -> bool:
    """Whether a client's budget over all its jobs holds what it has spent, reserved and is asked for.

    One job's plan is fixed before it begins, and its own epsilon is the guarantee. What a second job asks
    may follow from what the first gave, and then only the filter's cap is one.

    Both compositions include what is asked; `all_jobs` includes `this_job`.
    """
    if composed(this_job) == composed(all_jobs):
        return epsilon(this_job, delta) <= budget_epsilon
    budget = RenyiFilter(budget_epsilon, delta, LIFETIME_ORDER)
    return budget.spent(all_jobs) <= budget.limit
