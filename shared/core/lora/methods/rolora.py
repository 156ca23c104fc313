"""RoLoRA: B and A are trained in turns, so that the other one is common to all clients."""

from shared.core.lora.methods.averaging import averaged
from shared.core.lora.methods.method import Exact, Factor, Method, Ranks


def trained(completed: int) -> frozenset[Factor]:
    """B after an even number of completed rounds, A after an odd one.

    B goes first: it begins at zero, and A has no gradient while it is.
    """
    return frozenset({Factor.A if completed % 2 else Factor.B})


METHOD = Method(
    source="Chen et al. 2025, arXiv:2502.01755",
    trained=trained,
    combine=averaged,
    exact=Exact.YES,
    ranks=Ranks.EQUAL,
)
