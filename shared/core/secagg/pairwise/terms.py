"""What all parties of one round agree on; its hash stands in every label and draws the ring of neighbours."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

from shared.core.secagg.pairwise.graph import Graph, Plan
from shared.core.secagg.sealing import bind
from shared.errors import Refused, Rejected

PROTOCOL = b"fedlora/secagg/v1"
FIELD = "aggregation.protocol"


@dataclass(unsafe_hash=True)
class TooFew(Rejected):
    """A stage ended with fewer clients, or shares, than the round needs."""

    stage: str
    present: int
    needed: int

    def __str__(self) -> str:
        missing = self.needed - self.present
        return f"{self.stage}: {self.present} of the {self.needed} that are needed came, {missing} missing"


@dataclass(frozen=True)
class Terms:
    """One session's terms, public.

    Attributes:
        cohort: the Ed25519 verify key of every client that may take part.
        public_seed: 32 bytes that nobody could foresee or choose when clients enrolled. Whoever chooses it
            can try seeds until one client's neighbours all collude.
        dimension: values in an update, at least 1.
        plan: of a cohort of that size.

    Raises: Refused for a dimension below 1, a seed of another length, or a plan for another cohort.
    """

    job_id: str
    round_id: str
    group_id: str
    cohort: Mapping[str, bytes]
    public_seed: bytes
    dimension: int
    plan: Plan

    def __post_init__(self) -> None:
        if self.dimension < 1:
            raise Refused("dimension", "an update without values", "give at least 1")
        if len(self.public_seed) != 32:
            raise Refused(FIELD, f"a public seed of {len(self.public_seed)} bytes", "give 32")
        if self.plan.clients != len(self.cohort):
            raise Refused(
                FIELD,
                f"a graph for {self.plan.clients} clients and a cohort of {len(self.cohort)}",
                "plan for the cohort that enrolled",
            )

    @cached_property
    def digest(self) -> bytes:
        """32 bytes of SHA-256 over every field."""
        members = (part for name in self.names for part in (name.encode(), self.cohort[name]))
        plan = self.plan
        numbers = (self.dimension, plan.colluding, plan.lost, plan.neighbours, plan.threshold)
        bound = bind(
            PROTOCOL,
            self.job_id.encode(),
            self.round_id.encode(),
            self.group_id.encode(),
            self.public_seed,
            *(number.to_bytes(4, "big") for number in numbers),
            *members,
        )
        return hashlib.sha256(bound).digest()

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The cohort, ascending."""
        return tuple(sorted(self.cohort))

    @cached_property
    def positions(self) -> Mapping[str, int]:
        """Where each client stands in `names`."""
        return {name: position for position, name in enumerate(self.names)}

    @cached_property
    def graph(self) -> Graph:
        """The ring: clients in the order of a hash under these terms, random to who cannot steer those."""
        ring = sorted(self.cohort, key=lambda client: hashlib.sha256(self.label(b"ring", client)).digest())
        return Graph(tuple(ring), self.plan.neighbours)

    def label(self, role: bytes, sender: str, receiver: str = "", *content: bytes) -> bytes:
        """Protocol, round, role, sender, receiver and hash of the terms, each with its length: what keys are
        derived under, what is authenticated beside a sealed share, and, with `content`, what is signed."""
        names = (sender.encode(), receiver.encode())
        return bind(PROTOCOL, self.round_id.encode(), role, *names, self.digest, *content)


@lru_cache(maxsize=16)  # the same two sets stand in a message of every client
def digest_of(clients: tuple[str, ...]) -> bytes:
    """By which an ascending set of clients is named: SHA-256 of its members in order."""
    names = (client.encode() for client in clients)
    return hashlib.sha256(bind(PROTOCOL, b"clients", *names)).digest()
