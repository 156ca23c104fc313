"""FedAdam: Adam at the server, on mean updates."""

from shared.core.optimisers.adaptive import signal_squared, stepped
from shared.core.optimisers.optimiser import Mean, Options, State, Vector


def fedadam(state: State, mean: Mean, options: Options) -> tuple[State, Vector]:
    """v = beta_2 v + (1 - beta_2) (Delta^2 - s^2), s^2 the noise's variance; then `adaptive.stepped`.

    v is kept as it comes out, and is taken as 0 where it is negative: so it stays an unbiased estimate, which
    it would not if the negative half were cut off in each round. Where v is about 0, a coordinate of pure
    noise moves by eta m / tau: let tau be no smaller than s / 3, about the root of what v's own noise
    deviates by, s (2 (1 - beta_2) / (1 + beta_2))^(1/4), which is 0.32 s at 0.99.
    Source: Reddi et al. 2021, arXiv:2003.00295, Algorithm 2.
    """
    beta = options.memory
    second = beta * state.moments["second"] + (1 - beta) * signal_squared(mean)
    return stepped(state, mean, second, options)
