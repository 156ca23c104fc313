"""A job's guarantee in words: one paragraph for people, one in formal terms."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from shared.core.privacy.accountants import epsilon
from shared.core.privacy.mechanisms import AdaptiveClipping, Mechanism, Pure, Skellam

WORTHLESS = 50.0  # an epsilon from here on is called no protection


@dataclass(frozen=True)
class Terms:
    """What a guarantee rests on.

    Attributes:
        a_round: the mechanism that one client runs in one round.
        clip_norm: L2 bound on one record's gradient.
        epsilon_limit, delta: of the job, enforced before each round for each client.
        rounds_planned, rounds_completed: counts, of training.
        secure_aggregation: "none" when the aggregator opens each client's update.
        spent: epsilon of each client so far, by PLD, or by RDP where noise is on integers, from the ledger.
        own_limits: client -> its own epsilon, where it is less than the job's.
        personal: whether such a client clips lower, so that its noise is everyone's.
        shares: honest survivors that noise is divided over, at the least; 1 where each client's is its own.
        evaluations: all planned ones of records that are held out.
        evaluations_alone: the same by one client's own noise.

    Raises: ValueError for a mechanism on integers whose sum nobody sums in secret.
    """

    a_round: Mechanism
    clip_norm: float
    epsilon_limit: float
    delta: float
    rounds_planned: int
    rounds_completed: int
    secure_aggregation: str
    spent: Mapping[str, float]
    shares: int = 1
    own_limits: Mapping[str, float] = field(default_factory=dict)
    personal: bool = False
    evaluations: tuple[Mechanism, ...] = ()
    evaluations_alone: tuple[Mechanism, ...] = ()

    def __post_init__(self) -> None:
        if self.divided and self.secure_aggregation == "none":
            raise ValueError("divided noise protects a sum, and here each update is opened")

    @property
    def divided(self) -> bool:
        """Whether only a sum has noise enough."""
        return isinstance(self.a_round, Skellam)

    @property
    def plan(self) -> Mechanism:
        """All rounds together."""
        return replace(self.a_round, steps=self.a_round.steps * self.rounds_planned)

    @property
    def alone(self) -> float:
        """Epsilon of the whole plan against who opens a client's every upload."""
        return share_alone(self.plan, self.shares, self.delta, self.evaluations_alone)


def share_alone(plan: Mechanism, shares: int, delta: float, beside: Sequence[Mechanism] = ()) -> float:
    """Epsilon of a plan, and of what runs `beside` it, when one client's share is all the noise there is:
    1 / sqrt(shares) of it."""
    own = replace(plan, noise_multiplier=plan.noise_multiplier / math.sqrt(shares))
    return epsilon([own, *beside], delta)


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
    opened = _rests_on_the_sum(terms) if terms.divided else _rests_on_the_client(terms)
    return (
        "Whether any one record was among a client's records changes what can be concluded from the trained "
        f"adapter, or from anything sent while training, by a bounded amount: epsilon of at most "
        f"{terms.epsilon_limit:g}, where smaller is more private. {where} {opened} The bound is for one "
        "record: a person with several records is protected less. How many records an owner declared, who "
        "took part and when are not hidden."
    )


def _rests_on_the_sum(terms: Terms) -> str:
    others = "1 client" if terms.shares == 1 else f"{terms.shares} clients"
    alone = (
        "which is no protection"
        if terms.alone >= WORTHLESS
        else f"which keeps epsilon at {_up(terms.alone)} over all planned rounds"
    )
    return (
        "This rests on secure aggregation: only the sum over clients has noise enough, of which each client "
        "adds a part, and nothing but the sum is opened. It holds against the server and the other clients "
        f"as long as secure aggregation holds and at least {others} of each sum, not counting any that look, "
        "keep to the protocol. If secure aggregation fails, a client is protected by its own part alone, "
        f"{alone}."
    )


def _rests_on_the_client(terms: Terms) -> str:
    return (
        "The aggregator sees each client's noisy update on its own, and that is enough: the noise is added "
        "by the client, before anything leaves it."
        if terms.secure_aggregation == "none"
        else "Updates are summed under encryption, but the guarantee does not rest on that: the noise is "
        "added by the client, before anything leaves it."
    )


def _formal(terms: Terms) -> str:
    whole = [terms.plan, *terms.evaluations]
    rdp = epsilon(whole, terms.delta, "rdp")
    accountant = f"PLD (the plan of {terms.rounds_planned} rounds: {_up(epsilon(whole, terms.delta))})"
    accountant += f", cross-checked by RDP ({_up(rdp)})"
    if terms.divided:
        accountant = (
            f"RDP (the plan of {terms.rounds_planned} rounds: {_up(rdp)}), for integers have no PLD here"
        )
    seen = "every sum and adapter" if terms.divided else "every update and adapter"
    passing = "a round is refused before it runs if it would pass that"
    return (
        f"Unit: one record of one client. Adjacency: adding or removing one record. Adversary: the server, "
        f"the other clients and the public, who see {seen} of {terms.rounds_completed} "
        f"completed rounds and choose later rounds from them; a client's own computer is trusted with its "
        f"data. For each client k the view is (epsilon_k, {terms.delta:g})-differentially private with "
        f"epsilon_k as the ledger states it, at most {terms.epsilon_limit:g}; {passing}. "
        f"{_own_limits(terms)}Mechanism: {_mechanism(terms)}{_evaluations(terms)}. Accountant: {accountant}. "
        f"Assumptions: the sample is secret and drawn independently at each step; the record count that "
        f"scales the sum is a constant its owner declared, public and not protected; clients hold disjoint "
        f"records, so the federation's figure is the largest epsilon_k; {_source(terms)}. {_secure(terms)}. "
        "Choosing clients amplifies nothing."
    )


def _own_limits(terms: Terms) -> str:
    """A sentence for each epsilon that is less than the job's, without names: a statement is published."""
    counts = sorted(Counter(terms.own_limits.values()).items())
    said = [
        f"For {count} client{'s' if count > 1 else ''} the limit is lower, and epsilon_k at most {limit:g}. "
        for limit, count in counts
    ]
    if said and terms.personal:
        said.append(
            "A client whose owner set such a limit has a larger noise multiplier sigma_k, which the ledger "
            "states, over gradients that are clipped lower, so that it adds as much noise as the others; its "
            "own limit is public and is taken not to depend on its records. "
        )
    return "".join(said)


def _source(terms: Terms) -> str:
    if terms.divided:
        return "noise comes from a cryptographic source, as integers, by a table exact to 2^-128"
    return (
        "noise comes from a cryptographic source in double precision, rounded to a grid, which the analysis "
        "treats as real numbers"
    )


def _secure(terms: Terms) -> str:
    if terms.divided:
        return (
            f"Secure aggregation: {terms.secure_aggregation}, on which this bound relies: of each group one "
            f"sum a round is opened, with the noise of at least {terms.shares} honest survivors that do not "
            f"look; without it a client's share alone gives {_up(terms.alone)}"
        )
    if terms.secure_aggregation == "none":
        return "Secure aggregation: none, the aggregator opens each update"
    return f"Secure aggregation: {terms.secure_aggregation}, on which this bound does not rely"


def _mechanism(terms: Terms) -> str:
    a_round, start = terms.a_round, f"C = {terms.clip_norm:g}"
    if isinstance(a_round, Skellam):
        return (
            f"{a_round.steps} step a round, one sum over clients of per-record gradients clipped to L2 norm "
            f"{start}, over a Poisson sample of rate q = {a_round.sampling_rate:g}, each client's rounded to "
            f"integers, plus Skellam noise of {a_round.noise_multiplier:g} times what a record moves them by "
            f"in L2 after rounding, at least {a_round.l2_sensitivity:g} steps; each client adds "
            f"1/{terms.shares} of its variance"
        )
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


def _evaluations(terms: Terms) -> str:
    """What records that are held out are asked beside training."""
    if not terms.evaluations:
        return ""
    (query,) = terms.evaluations
    if isinstance(query, Pure):
        return (
            "; beside it a client's votes on when to stop, one run of AboveThreshold over its held-out "
            f"records in a job, which is ({query.epsilon:g}, 0)-differentially private and charged once"
        )
    of = "of the sum over clients " if isinstance(query, Skellam) else ""
    return (
        f"; beside it at most {query.steps} evaluations, each a sum {of}over held-out records with noise "
        f"multiplier {query.noise_multiplier:g}, charged to every record as training is"
    )


def _up(figure: float) -> str:
    """Three decimals, upwards."""
    if math.isinf(figure):
        return "no bound"
    return f"{-(-figure * 1000 // 1) / 1000:.3f}"
