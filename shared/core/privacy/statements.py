"""A job's guarantee in words: one paragraph for people, one in formal terms."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from shared.core.privacy.accountants import epsilon
from shared.core.privacy.mechanisms import AdaptiveClipping, Mechanism


@dataclass(frozen=True)
class Terms:
    """What a guarantee rests on.

    Attributes:
        a_round: the mechanism that one client runs in one round.
        clip_norm: L2 bound on one record's gradient.
        epsilon_limit, delta: of the job, enforced before each round for each client.
        rounds_planned, rounds_completed: counts.
        secure_aggregation: "none" when the aggregator opens each client's update.
        spent: epsilon of each client so far, by PLD, from the ledger.
    """

    a_round: Mechanism
    clip_norm: float
    epsilon_limit: float
    delta: float
    rounds_planned: int
    rounds_completed: int
    secure_aggregation: str
    spent: Mapping[str, float]


@dataclass(frozen=True)
class Statement:
    """The same guarantee twice."""

    plain: str
    formal: str


def statement(terms: Terms) -> Statement:
    """Both paragraphs. Figures are rounded up, so that no statement promises more than holds."""
    return Statement(_plain(terms), _formal(terms))


def _plain(terms: Terms) -> str:
    largest = max(terms.spent.values(), default=0.0)
    where = (
        f"So far the most that any client has spent is {_up(largest)}."
        if terms.spent
        else "Nothing has been spent yet."
    )
    opened = (
        "The aggregator sees each client's noisy update on its own, and that is enough: the noise is added "
        "by the client, before anything leaves it."
        if terms.secure_aggregation == "none"
        else "Updates are summed under encryption, but the guarantee does not rest on that: the noise is "
        "added by the client, before anything leaves it."
    )
    return (
        "Whether any one record was among a client's records changes what can be concluded from the trained "
        f"adapter, or from anything sent while training, by a bounded amount: epsilon of at most "
        f"{terms.epsilon_limit:g}, where smaller is more private. {where} {opened} The bound is for one "
        "record: a person with several records is protected less. How many records an owner declared, who "
        "took part and when are not hidden."
    )


def _formal(terms: Terms) -> str:
    a_round = terms.a_round
    plan = [replace(a_round, steps=a_round.steps * terms.rounds_planned)]
    pld, rdp = epsilon(plan, terms.delta), epsilon(plan, terms.delta, "rdp")
    secure = (
        "Secure aggregation: none, the aggregator opens each update"
        if terms.secure_aggregation == "none"
        else f"Secure aggregation: {terms.secure_aggregation}, on which this bound does not rely"
    )
    return (
        f"Unit: one record of one client. Adjacency: adding or removing one record. Adversary: the server, "
        f"the other clients and the public, who see every update and adapter of {terms.rounds_completed} "
        f"completed rounds and choose later rounds from them; a client's own computer is trusted with its "
        f"data. For each client k the view is (epsilon_k, {terms.delta:g})-differentially private with "
        f"epsilon_k as the ledger states it, at most {terms.epsilon_limit:g}; a round is refused before it "
        f"runs if it would pass that. Mechanism: {_mechanism(terms)}. Accountant: PLD "
        f"(the plan of {terms.rounds_planned} rounds: {_up(pld)}), cross-checked by RDP ({_up(rdp)}). "
        f"Assumptions: the sample is secret and drawn independently at each step; the record count that "
        f"scales the sum is a constant its owner declared, public and not protected; clients hold disjoint "
        f"records, so the federation's figure is the largest epsilon_k; noise comes "
        f"from a cryptographic source in double precision, rounded to a grid, which the analysis treats as "
        f"real numbers. {secure}. Choosing clients amplifies nothing."
    )


def _mechanism(terms: Terms) -> str:
    a_round, start = terms.a_round, f"C = {terms.clip_norm:g}"
    sampled = f"over a Poisson sample of rate q = {a_round.sampling_rate:g}, plus Gaussian noise of"
    summed = f"{a_round.steps} steps a round, each a sum of per-record gradients clipped to L2 norm"
    if not isinstance(a_round, AdaptiveClipping):
        return f"{summed} {start} {sampled} {a_round.noise_multiplier:g} C"
    return (
        f"{summed} C {sampled} {a_round.gradient_noise_multiplier:.4g} C; {start} at first and then follows "
        f"the noisy share of records that are not clipped, released from the same sample with noise "
        f"multiplier {a_round.bits_noise_multiplier:.4g}; both are charged as one Gaussian query of noise "
        f"multiplier {a_round.noise_multiplier:g}"
    )


def _up(figure: float) -> str:
    """Three decimals, upwards."""
    return f"{-(-figure * 1000 // 1) / 1000:.3f}"
