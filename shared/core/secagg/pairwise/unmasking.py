"""Taking the masks off a sum: survivors' own by their seeds, those towards the lost by the lost's keys."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from shared.core.secagg.pairwise import keys, masks, shamir
from shared.core.secagg.pairwise.messages import Advertisement, Unmasking
from shared.core.secagg.pairwise.terms import Terms, TooFew
from shared.errors import Rejected


@dataclass(frozen=True)
class Result:
    """The sum (dimension,) modulo 2^32 over `survivors`, and, by owner, who revealed a wrong share of it.

    A wrong share is the fault of who revealed it or of its owner, who may have dealt it so. Only owners are
    listed whose secret did not open at once.
    """

    total: NDArray[np.uint32]
    survivors: tuple[str, ...]
    wrong: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Masked:
    """A sum under masks.

    Attributes:
        advertisements: of everyone who shared keys.
        survivors: whose vectors it holds, ascending.
        total: (dimension,), modulo 2^32.
        opened: whose masks are off: its own if it survived, those of its key if it is lost.
        wrong: as in `Result`.
    """

    terms: Terms
    advertisements: Mapping[str, Advertisement]
    survivors: tuple[str, ...]
    total: NDArray[np.uint32]
    opened: frozenset[str] = frozenset()
    wrong: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @cached_property
    def alive(self) -> frozenset[str]:
        """The survivors."""
        return frozenset(self.survivors)


def settle(masked: Masked, answers: Mapping[str, Unmasking]) -> Masked:
    """Take off, in a copy, each mask whose secret opens from the answers at hand.

    Each secret is checked against what its owner signed, the seed against its hash, the private key against
    its public one: what opened once is not asked again.

    Args:
        masked: the sum.
        answers: by client, one share of each neighbour.

    Source: Bonawitz et al. 2017, Figure 4, round 4; Bell et al. 2020, Algorithm 2.
    """
    revealed, secrets = _by_holder(answers), dict[str, shamir.Opened]()
    for owner in sorted(set(masked.advertisements) - masked.opened):
        try:
            secrets[owner] = _secret(masked, owner, revealed)
        except Rejected:
            continue
    total, alive, terms = masked.total.copy(), masked.alive, masked.terms
    masks.subtract(total, [opened.secret for owner, opened in secrets.items() if owner in alive])
    for owner in sorted(secrets.keys() - alive):
        partners = alive.intersection(terms.graph.around(owner))
        public = {partner: masked.advertisements[partner].mask_key for partner in partners}
        masks.apply_pairs(total, owner, keys.pair_seeds(terms, secrets[owner].secret, owner, public))
    wrong = {
        owner: tuple(terms.graph.holders(owner)[point - 1] for point in opened.liars)
        for owner, opened in secrets.items()
        if opened.liars
    }
    opened_now = masked.opened.union(secrets)
    return replace(masked, total=total, opened=opened_now, wrong={**masked.wrong, **wrong})


def open_sum(masked: Masked, answers: Mapping[str, Unmasking]) -> Result:
    """Take all masks off.

    Raises: TooFew when a secret has fewer shares than the threshold; Rejected when they do not open it.
    """
    settled = settle(masked, answers)
    for owner in sorted(set(masked.advertisements) - settled.opened):
        _secret(masked, owner, _by_holder(answers))
    return Result(settled.total, settled.survivors, settled.wrong)


def _by_holder(answers: Mapping[str, Unmasking]) -> Mapping[str, Mapping[str, bytes]]:
    return {holder: {**answer.self_shares, **answer.key_shares} for holder, answer in answers.items()}


def _secret(masked: Masked, owner: str, revealed: Mapping[str, Mapping[str, bytes]]) -> shamir.Opened:
    """What `owner`'s masks come from: its seed if it survived, its private mask key if it is lost."""
    threshold, holders = masked.terms.plan.threshold, masked.terms.graph.holders(owner)
    shares = {
        point: revealed[holder][owner] for point, holder in enumerate(holders, start=1) if holder in revealed
    }
    if len(shares) < threshold:
        raise TooFew(f"shares of a secret of {owner}", len(shares), threshold)
    try:
        return shamir.reconstruct(shares, threshold, _fits(masked, owner))
    except Rejected as error:
        raise Rejected(f"a secret of {owner}: {error}") from error


def _fits(masked: Masked, owner: str) -> Callable[[bytes], bool]:
    advertisement = masked.advertisements[owner]
    if owner in masked.alive:
        return partial(_is_seed, masked.terms, advertisement)
    return partial(_is_private, advertisement)


def _is_seed(terms: Terms, owner: Advertisement, secret: bytes) -> bool:
    return keys.commitment(terms, owner.client_id, secret) == owner.self_commitment


def _is_private(owner: Advertisement, secret: bytes) -> bool:
    return keys.public_of(secret) == owner.mask_key
