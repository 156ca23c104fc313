"""How much noise a plan needs, and how long a budget lasts."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from shared.core.privacy.accountants import FIGURE_TOLERANCE, epsilon
from shared.core.privacy.mechanisms import Mechanism
from shared.errors import FedloraError

TICKS_PER_UNIT = 10_000  # noise multipliers are planned to 4 decimals
LEAST_NOISE, MOST_NOISE = 0.3, 1000.0


class NoiseNotFound(FedloraError):
    """No noise multiplier in the supported range meets the target."""


def noise_multiplier_for(
    target_epsilon: float, delta: float, sampling_rate: float, total_steps: int, accountant: str = "pld"
) -> float:
    """The least noise multiplier, rounded up to 4 decimals, whose plan stays 1e-6 under the target.

    That is FIGURE_TOLERANCE. Budgets are compared strictly, on whatever machine: this margin, not slack in
    the comparison, keeps the last planned round from being refused where figures come out higher.

    Args:
        target_epsilon: > 0.
        delta: in (0, 1).
        sampling_rate: q.
        total_steps: over all rounds.
        accountant: as in `epsilon`.

    Returns: sigma / C, with epsilon(plan) <= target_epsilon - 1e-6 checked for the rounded figure.
    Raises: NoiseNotFound when even 1000 is too little.
    """
    return least_noise(
        target_epsilon, delta, lambda noise: Mechanism(sampling_rate, noise, total_steps), accountant
    )


def least_noise(
    target_epsilon: float,
    delta: float,
    plan: Callable[[float], Mechanism],
    accountant: str = "pld",
    beside: Sequence[Mechanism] = (),
) -> float:
    """As `noise_multiplier_for`, for any kind of mechanism: `plan` gives the whole plan at a noise
    multiplier, and costs less the larger that is; `beside` is what runs beside it in any case."""

    def fits(noise: float) -> bool:
        return epsilon([plan(noise), *beside], delta, accountant) <= target_epsilon - FIGURE_TOLERANCE

    low, high = LEAST_NOISE, 1.0
    while not fits(high):
        if high >= MOST_NOISE:
            raise NoiseNotFound(
                f"epsilon {target_epsilon} cannot be met over {plan(high).steps} steps: "
                f"a noise multiplier of {MOST_NOISE:g} is too little"
            )
        low, high = high, min(high * 2, MOST_NOISE)
    while (high - low) * TICKS_PER_UNIT > 0.5:
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    ticks = math.ceil(low * TICKS_PER_UNIT)
    while not fits(ticks / TICKS_PER_UNIT):  # the figure that is returned is the figure that was checked
        ticks += 1
    return ticks / TICKS_PER_UNIT


def rounds_left(  # noqa: PLR0913  # a budget is two figures
    spent: Sequence[Mechanism],
    a_round: Mechanism,
    target_epsilon: float,
    delta: float,
    *,
    longest: int = 1 << 20,
    accountant: str = "pld",
    beside: Callable[[int], Sequence[Mechanism]] = lambda _: (),
) -> int:
    """How many more rounds like `a_round` stay at or under the target, at most `longest`; `beside` is all
    that runs beside training, with so many more rounds, and costs no less the more they are."""

    def fits(count: int) -> bool:
        more = replace(a_round, steps=a_round.steps * count)
        return epsilon([*spent, more, *beside(count)], delta, accountant) <= target_epsilon

    if not fits(1):
        return 0
    low, high = 1, 2
    while high <= longest and fits(high):
        low, high = high, high * 2
    high = min(high, longest + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def epsilon_curve(  # noqa: PLR0913  # what runs beside a round
    a_round: Mechanism,
    rounds: int,
    delta: float,
    accountant: str = "pld",
    points: int = 50,
    *,
    beside: Callable[[int], Sequence[Mechanism]] = lambda _: (),
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """What a plan has spent after each of some of its rounds.

    Args:
        a_round: what one client runs in one round.
        rounds: of the plan, >= 1.
        delta: in (0, 1).
        accountant: as in `epsilon`.
        points: most rounds to look at, >= 2.
        beside: what has run beside training after so many rounds.

    Returns: (n,) round numbers, evenly spread from 1 to `rounds`, n <= points, and (n,) epsilon after each.
    Raises: ValueError for fewer rounds or points.
    """
    if rounds < 1 or points < 2:
        raise ValueError(f"a curve over {rounds} rounds at {points} points has nothing to show")
    after = np.unique(np.linspace(1, rounds, min(rounds, points)).round().astype(np.int64))
    plans = [[replace(a_round, steps=a_round.steps * count), *beside(count)] for count in after.tolist()]
    return after, np.array([epsilon(plan, delta, accountant) for plan in plans])
