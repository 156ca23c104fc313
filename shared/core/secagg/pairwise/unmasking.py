"""Taking the masks off a sum: survivors' own by their seeds, those towards the lost by the lost's keys."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from shared.core.secagg.pairwise import keys, masks, shamir
from shared.core.secagg.pairwise.messages import Advertisement, Unmasking
from shared.core.secagg.pairwise.terms import Terms, TooFew
from shared.errors import Rejected


@dataclass(frozen=True)
class Result:
    """The sum (dimension,) modulo 2^32 over `survivors`, and, by owner, who revealed a wrong share of it.

    A wrong share is the fault of who revealed it or of its owner, who may have dealt it so.
    """

    total: NDArray[np.uint32]
    survivors: tuple[str, ...]
    wrong: Mapping[str, tuple[str, ...]]


def open_sum(
    terms: Terms,
    advertisements: Mapping[str, Advertisement],
    total: NDArray[np.uint32],
    survivors: tuple[str, ...],
    answers: Mapping[str, Unmasking],
) -> Result:
    """Take all masks off `total`, in a copy.

    Each secret is checked against what its owner signed: the seed against its hash, the private key against
    its public one.

    Args:
        terms: of the round.
        advertisements: of everyone who shared keys.
        total: (dimension,), the sum of the survivors' masked vectors modulo 2^32.
        survivors: ascending.
        answers: by client, one share of each neighbour.

    Raises: TooFew when a secret has fewer shares than the threshold; Rejected when they do not open it.
    Source: Bonawitz et al. 2017, Figure 4, round 4; Bell et al. 2020, Algorithm 2.
    """
    opened, alive = total.copy(), set(survivors)
    wrong: dict[str, tuple[str, ...]] = {}
    for owner in survivors:
        fits = partial(_is_seed, terms, advertisements[owner])
        seed, wrong[owner] = _secret(terms, owner, answers, _self_share, fits)
        masks.subtract(opened, seed)
    for owner in sorted(set(advertisements) - alive):
        fits = partial(_is_private, advertisements[owner])
        private, wrong[owner] = _secret(terms, owner, answers, _key_share, fits)
        for partner in alive.intersection(terms.graph.around(owner)):
            seed = keys.pair_seed(terms, private, advertisements[partner].mask_key, owner, partner)
            masks.apply_pair(opened, seed, owner, partner)
    return Result(opened, survivors, {owner: holders for owner, holders in wrong.items() if holders})


def _secret(
    terms: Terms,
    owner: str,
    answers: Mapping[str, Unmasking],
    share_of: Callable[[Unmasking, str], bytes],
    fits: Callable[[bytes], bool],
) -> tuple[bytes, tuple[str, ...]]:
    """The secret of `owner`, and who revealed a wrong share of it."""
    holders = terms.graph.holders(owner)
    shares = {
        point: share_of(answers[holder], owner)
        for point, holder in enumerate(holders, start=1)
        if holder in answers
    }
    if len(shares) < terms.plan.threshold:
        raise TooFew(f"shares of a secret of {owner}", len(shares), terms.plan.threshold)
    try:
        opened = shamir.reconstruct(shares, terms.plan.threshold, fits)
    except Rejected as error:
        raise Rejected(f"a secret of {owner}: {error}") from error
    return opened.secret, tuple(holders[point - 1] for point in opened.liars)


def _self_share(answer: Unmasking, owner: str) -> bytes:
    return answer.self_shares[owner]


def _key_share(answer: Unmasking, owner: str) -> bytes:
    return answer.key_shares[owner]


def _is_seed(terms: Terms, owner: Advertisement, secret: bytes) -> bool:
    return keys.commitment(terms, owner.client_id, secret) == owner.self_commitment


def _is_private(owner: Advertisement, secret: bytes) -> bool:
    return keys.public_of(secret) == owner.mask_key
