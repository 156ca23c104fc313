"""The privacy guarantee of a job in words: unit, adversary, adjacency, accountant, assumptions."""

from collections.abc import Mapping
from typing import Any

from shared.core.privacy import Mechanism, epsilon


def statements(job: Mapping[str, Any]) -> list[str]:
    """Paragraphs for people about a job as the gateway shows it; none before it was accepted."""
    specification, noise = job["specification"], job["noise_multiplier"]
    if specification is None or noise is None:
        return []
    privacy, steps = specification["privacy"], specification["training"]["local_steps"]
    rate, delta, limit = privacy["sampling_rate"], privacy["delta"], privacy["epsilon"]
    done = sum(one["status"] == "completed" for one in job["rounds"])
    planned = specification["rounds"]["count"]
    plan = [Mechanism(rate, noise, steps * planned)]
    pld, rdp = epsilon(plan, delta), epsilon(plan, delta, "rdp")
    return [
        f"Everything the server and the other clients saw in {done} completed rounds, the final adapter "
        f"included, is (epsilon, {delta:g})-differentially private for adding or removing one record of a "
        f"client, with the epsilon of each client below, and never more than {limit:g}. The whole plan of "
        f"{planned} rounds composes to {pld:.3f} by PLD (by RDP, the cross-check, {rdp:.3f}).",
        f"Each of the {steps} steps a round samples a client's records independently with probability "
        f"{rate:g}, clips each record's gradient to L2 norm {privacy['clip_norm']:g} and adds Gaussian noise "
        f"of {noise:.4g} times that norm. Which records were sampled stays secret. The noise is each "
        "client's own: the guarantee rests neither on the server nor on secure aggregation nor on others.",
        "Clients hold disjoint records, so the federation's figure is the largest of the clients'. Record "
        "counts that owners declared, and who took part when, are public.",
    ]
