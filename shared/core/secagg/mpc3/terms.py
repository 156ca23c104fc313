"""What clients and parties of one round agree on; its hash stands in every message and every derived key."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from shared.core.secagg.sealing import bind
from shared.errors import Refused

DOMAIN = b"fedlora/mpc3/terms/v1"
PARTIES = 3
VALUE_BITS = 16  # signed: -2^15, ..., 2^15 - 1
LARGEST_VALUE: int = 2 ** (VALUE_BITS - 1)
SKETCH_SIZES = (64, 128, 256, 512, 1024)  # above, a product of limbs would not be exact in float64
FEWEST_SURVIVORS = 2
SMALL_NORM = 2**14  # of an update, in steps: up to it a Gram matrix modulo 2^44 is enough
_RING_BITS, _SMALL_RING_BITS = 64, 44


def bound_bits(norm_bound: int) -> int:
    """t: the norm check's projection of an upload within the bound lies in [-2^t, 2^t)."""
    return (6 * norm_bound - 1).bit_length()


@dataclass(frozen=True)
class Terms:
    """One session's terms, public.

    Attributes:
        cohort: the Ed25519 verify key of every client that may take part.
        party_keys: the Ed25519 verify keys of the parties 0, 1 and 2.
        seal_keys: what payloads for each party are sealed to. That these are three parties that do not
            collude is for the caller to establish: any two of them read updates.
        dimension: values in an update, at least 1.
        sketch_size: k, values in a sketch, or 0: then no Gram matrix is made.
        gram_opener: the one party that sees the Gram matrix.
        fewest_survivors: uploads that all parties must hold; of fewer nothing is opened.
        fewest_selected: no sum is opened in which fewer updates have a weight, or one counts for more than
            two of so many would.
        largest_weight: of one update in the sum; 1 where a rule only selects.
        norm_bound: L2 norm, in steps of the values, that the parties check; None: not checked.

    Raises: Refused for terms that protect nothing, or under which a sum or a Gram matrix may wrap.
    """

    job_id: str
    round_id: str
    group_id: str
    cohort: Mapping[str, bytes]
    party_keys: tuple[bytes, ...]
    seal_keys: tuple[bytes, ...]
    dimension: int
    sketch_size: int
    gram_opener: int
    fewest_survivors: int
    fewest_selected: int
    largest_weight: int = 1
    norm_bound: int | None = None

    def __post_init__(self) -> None:
        if self.dimension < 1:
            raise Refused("dimension", "an update without values", "give at least 1")
        if len(self.cohort) < FEWEST_SURVIVORS:
            raise Refused("cohort", f"a sum of {len(self.cohort)} updates hides nothing", "name at least 2")
        for field, keys in (("party_keys", self.party_keys), ("seal_keys", self.seal_keys)):
            if len(keys) != PARTIES or len(set(keys)) != PARTIES:
                raise Refused(f"aggregation.{field}", "not three different keys", "give one for each party")
        if not 0 <= self.gram_opener < PARTIES:
            raise Refused("aggregation.gram_opener", f"no party {self.gram_opener}", "give 0, 1 or 2")
        if not FEWEST_SURVIVORS <= self.fewest_survivors <= len(self.cohort):
            raise Refused(
                "aggregation.fewest_survivors",
                f"{self.fewest_survivors} of a cohort of {len(self.cohort)}",
                f"give {FEWEST_SURVIVORS} to {len(self.cohort)}",
            )
        if not FEWEST_SURVIVORS <= self.fewest_selected <= self.fewest_survivors:
            raise Refused(
                "aggregation.fewest_selected",
                f"{self.fewest_selected} of at least {self.fewest_survivors} survivors",
                f"give {FEWEST_SURVIVORS} to {self.fewest_survivors}",
            )
        self._refuse_what_may_wrap()

    def _refuse_what_may_wrap(self) -> None:
        if self.norm_bound is not None and not 1 <= self.norm_bound < 2**40:
            raise Refused("aggregation.norm_bound", f"{self.norm_bound} steps", "give 1 to 2^40 - 1")
        most = min((2**63 - 1) // (self.largest_coordinate * len(self.cohort)), 2**32 - 1)
        if not 1 <= self.largest_weight <= most:
            raise Refused(
                "aggregation.largest_weight",
                f"{self.largest_weight} is no weight, or a sum could wrap around 2^64",
                f"give 1 to {most}" if most else "take fewer clients, or a smaller norm_bound",
            )
        if self.sketch_size not in (0, *SKETCH_SIZES):
            raise Refused(
                "aggregation.sketch_size", f"{self.sketch_size} values", f"give 0 or one of {SKETCH_SIZES}"
            )
        if self.largest_gram_entry >= 2**63:
            raise Refused(
                "aggregation.sketch_size",
                f"{self.dimension} values in a sketch of {self.sketch_size} may wrap around 2^64",
                "take a larger sketch, or 0 for a sum without a Gram matrix",
            )

    @property
    def largest_coordinate(self) -> int:
        """What no coordinate of an update that counts is beyond.

        Of honest ones it is 2^15; one that the norm check did not flag is below 2^(t + 1), see there.
        """
        if self.norm_bound is None:
            return LARGEST_VALUE
        return max(LARGEST_VALUE, 2 << bound_bits(self.norm_bound))

    @property
    def largest_gram_entry(self) -> int:
        """k (ceil(d / k) 2^15)^2: no entry is larger, whatever values of 16 bits and signs meet."""
        if not self.sketch_size:
            return 0
        longest = -(-self.dimension // self.sketch_size) * LARGEST_VALUE
        return self.sketch_size * longest * longest

    @property
    def gram_bits(self) -> int:
        """Bits of the ring in which the Gram matrix is computed and opened.

        44 halves the work, and is right only for updates that passed the norm check: one passes with up to
        about 48 times a norm of 2^14, and its sketch would have to be three times as long again to wrap.
        """
        checked_small = self.norm_bound is not None and self.norm_bound <= SMALL_NORM
        return _SMALL_RING_BITS if checked_small else _RING_BITS

    @cached_property
    def digest(self) -> bytes:
        """32 bytes of SHA-256 over every field."""
        members = tuple(part for name in sorted(self.cohort) for part in (name.encode(), self.cohort[name]))
        numbers = (
            self.dimension,
            self.sketch_size,
            self.gram_opener,
            self.fewest_survivors,
            self.fewest_selected,
            self.largest_weight,
            self.norm_bound or 0,
        )
        bound = bind(
            DOMAIN,
            self.job_id.encode(),
            self.round_id.encode(),
            self.group_id.encode(),
            *(number.to_bytes(8, "big") for number in numbers),
            *self.party_keys,
            *self.seal_keys,
            *members,
        )
        return hashlib.sha256(bound).digest()
