"""A server's optimiser: a frozen state, its settings, and the step that a round's mean update makes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shared.errors import Refused, Rejected

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Options:
    """Settings of a job; an optimiser reads those that it knows.

    Attributes:
        rate: eta, factor on the server's step; for FedAdam and FedYogi a length, in the adapter's units.
        momentum: beta of FedAvgM, beta_1 of FedAdam and FedYogi.
        memory: beta_2, of the second moment.
        floor: tau, added to the root of the second moment, in the update's units.

    Raises: Refused for a value outside its range.
    """

    rate: float = 1.0
    momentum: float = 0.9
    memory: float = 0.99
    floor: float = 1e-3

    def __post_init__(self) -> None:
        for name, value in (("learning_rate", self.rate), ("floor", self.floor)):
            if not 0 < value < np.inf:
                raise Refused(f"server.{name}", f"{name} is {value:g}", "give a number above 0")
        for name, value in (("momentum", self.momentum), ("memory", self.memory)):
            if not 0 <= value < 1:
                raise Refused(f"server.{name}", f"{name} is {value:g}", "give 0 or more, and less than 1")


@dataclass(frozen=True)
class Participation:
    """What is public about those whose updates a mean is of.

    Attributes:
        steps: tau_k, how many local steps each took.
        weights: p_k, how much each counts, in any units; empty where all count alike.
        clients: N, all of the job, in this round or not.
        rate: of the local optimiser.
    """

    steps: tuple[float, ...] = (1.0,)
    weights: tuple[float, ...] = ()
    clients: int = 1
    rate: float = 1.0

    def __post_init__(self) -> None:
        if not self.steps or min(self.steps) <= 0 or not 0 < self.rate < np.inf:
            raise Rejected("a round without participants, without local steps or with a local rate of 0")
        if self.weights and (len(self.weights) != len(self.steps) or min(self.weights) <= 0):
            raise Rejected(f"{len(self.weights)} weights for {len(self.steps)} clients, or one of 0")
        if self.clients < len(self.steps):
            raise Rejected(f"{len(self.steps)} clients in a round of a job of {self.clients}")


@dataclass(frozen=True)
class Mean:
    """What one round released.

    Attributes:
        update: (d,) float32, the weighted mean of the clients' updates.
        noise_variance: of the noise in a coordinate of `update`, known and public: one number, or (d,).
        participation: read by FedNova and SCAFFOLD alone.
    """

    update: NDArray[np.float32]
    noise_variance: float | Vector = 0.0
    participation: Participation = field(default_factory=Participation)


@dataclass(frozen=True)
class State:
    """What an optimiser remembers between rounds: named vectors, (d,) each, never changed in place.

    Float64: with privacy a second moment is a small difference of two larger numbers, the measured one and
    the noise's. Only the server keeps it, 8 bytes for a parameter and moment, and it is never sent with a
    round, but for SCAFFOLD's control variate.
    """

    moments: Mapping[str, Vector] = field(default_factory=dict)


Step = Callable[[State, Mean, Options], tuple[State, Vector]]
Start = Callable[[int, Options], State]


def no_state(_: int, __: Options) -> State:
    """Of an optimiser that remembers nothing."""
    return State()


@dataclass(frozen=True)
class Optimiser:
    """A line of the table.

    Attributes:
        step: state, a round's mean, settings -> next state, and what is added to the adapter, (d,) float64.
        source: paper and algorithm.
        moments: names of the state's vectors.
        start: d, settings -> the state before the first round.
        client: what a client does besides training, as a sentence for people.
        sgd: whether the local optimiser must be plain SGD.
        steps: whether a client must take several local steps for it to differ from FedAvg.
        noise: reads the noise's variance.
    """

    step: Step
    source: str
    moments: tuple[str, ...] = ()
    start: Start = no_state
    client: str | None = None
    sgd: bool = False
    steps: bool = False
    noise: bool = False


def advance(
    optimiser: Optimiser, adapter: NDArray[np.float32], state: State, mean: Mean, options: Options
) -> tuple[NDArray[np.float32], State]:
    """The adapter and the state after a round; neither argument is changed.

    Args:
        optimiser: of the job.
        adapter: (d,), what clients started from.
        state: of `optimiser`, for d parameters.
        mean: of the round.
        options: of the job.

    Returns: (d,) float32, rounded once, and the next state.
    Raises: Rejected when the lengths differ, or the result would not be finite.
    """
    if adapter.shape != mean.update.shape:
        raise Rejected(f"an update of shape {mean.update.shape} for an adapter of {adapter.shape}")
    if set(state.moments) != set(optimiser.moments):
        raise Rejected(f"a state of {sorted(state.moments)}, {sorted(optimiser.moments)} expected")
    if any(moment.shape != adapter.shape for moment in state.moments.values()):
        raise Rejected(f"a state of another length than the adapter's {adapter.shape}")
    if not np.isfinite(mean.update).all() or np.min(mean.noise_variance) < 0:
        raise Rejected("an update that is not finite, or noise of negative variance")
    after, change = optimiser.step(state, mean, options)
    with np.errstate(over="ignore"):  # looked for below
        moved = (adapter.astype(np.float64) + change).astype(np.float32)
    if not np.isfinite(moved).all():
        raise Rejected("the adapter would not be finite")
    return moved, after
