"""What all parties of one round agree on; its hash stands in every message and picks the round's `a`."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from shared.core.secagg.oneshot import beacon, encoding
from shared.core.secagg.oneshot.packed_shamir import Scheme
from shared.core.secagg.sealing import bind
from shared.errors import Refused

DOMAIN = b"fedlora/oneshot/terms/v1"
CHECKS = 16  # zeros after an update's values: they tell a sum that did not open from one that did
FEWEST_SURVIVORS = 2


@dataclass(frozen=True)
class Terms:
    """One session's terms, public.

    A party that was told other terms than the rest has another `a` and another digest: its messages are
    refused, or the sum does not open. Nobody reads more for it.

    Attributes:
        cohort: the Ed25519 verify key of every client that may take part.
        holder_keys: what shares for each holder are sealed to, in the order of the committee. That they are
            the holders' own is for the caller to establish: whoever owns them reads updates.
        server_key: the Ed25519 key that signs the survivor set.
        public_seed: from the beacon.
        dimension: values in an update, at least 1.
        scheme: of the committee.
        fewest_survivors: no smaller sum is ever opened. Of these, all but two may collude with the server.

    Raises: Refused for a cohort below 2 or over the bound, a dimension below 1, keys that do not make the
        committee, or `fewest_survivors` outside 2 to n.
    """

    job_id: str
    round_id: str
    group_id: str
    cohort: Mapping[str, bytes]
    holder_keys: tuple[bytes, ...]
    server_key: bytes
    public_seed: bytes
    dimension: int
    scheme: Scheme
    fewest_survivors: int

    def __post_init__(self) -> None:
        encoding.scale_for(len(self.cohort))
        if self.dimension < 1:
            raise Refused("dimension", "an update without values", "give at least 1")
        if len(self.cohort) < FEWEST_SURVIVORS:
            raise Refused("cohort", f"a sum of {len(self.cohort)} updates hides nothing", "name at least 2")
        if len(set(self.holder_keys)) != self.scheme.holders:
            raise Refused(
                "aggregation.committee",
                f"{len(set(self.holder_keys))} different keys for {self.scheme.holders} key holders",
                "give one key for each",
            )
        if not FEWEST_SURVIVORS <= self.fewest_survivors <= len(self.cohort):
            raise Refused(
                "aggregation.fewest_survivors",
                f"{self.fewest_survivors} of a cohort of {len(self.cohort)}",
                f"give {FEWEST_SURVIVORS} to {len(self.cohort)}",
            )

    @property
    def scale(self) -> int:
        """By which values are multiplied."""
        return encoding.scale_for(len(self.cohort))

    @property
    def length(self) -> int:
        """Coefficients of a ciphertext."""
        return self.dimension + CHECKS

    @cached_property
    def digest(self) -> bytes:
        """32 bytes of SHA-256 over every field."""
        members = tuple(part for name in sorted(self.cohort) for part in (name.encode(), self.cohort[name]))
        numbers = (
            self.dimension,
            self.scheme.holders,
            self.scheme.colluding,
            self.scheme.lost,
            self.fewest_survivors,
            self.scale,
        )
        bound = bind(
            DOMAIN,
            self.job_id.encode(),
            self.round_id.encode(),
            self.group_id.encode(),
            self.server_key,
            self.public_seed,
            *(number.to_bytes(4, "big") for number in numbers),
            *self.holder_keys,
            *members,
        )
        return hashlib.sha256(bound).digest()


def public_polynomials(terms: Terms) -> NDArray[np.uint32]:
    """The round's `a`, (groups, N, LANES) in the transform's order, as every party derives it."""
    groups = beacon.groups_for(terms.length)
    return beacon.expand(terms.public_seed, (terms.digest,), groups)
