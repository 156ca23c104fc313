"""What the service asks of a protocol: one session in memory, fed with what participants send."""

import hashlib
import hmac
import itertools
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from services.secure_aggregation.parties.link import Links
from services.secure_aggregation.state import UPLOAD, Session
from shared.core.randomness import RandomBytes
from shared.core.robust.judging.verdict import Reason
from shared.core.secagg.sealing import SealingKey, bind
from shared.errors import Rejected
from shared.ports import Telemetry
from shared.sessions.terms import SessionTerms

SECRET_DOMAIN = b"fedlora/aggregation-secret/v1"
MISSING = "no complete upload by the deadline"
SURPLUS = "the round had enough updates before this one came"
TRUSTED = "the others are measured by its update, which does not count itself"


Talk = Callable[[Links, Telemetry], Awaitable[None]]


@dataclass(frozen=True)
class Keys:
    """The service's own: what uploads are sealed to, and what signs survivor sets."""

    sealing: SealingKey
    signing: Ed25519PrivateKey

    def secret(self, purpose: str, context: bytes) -> bytes:
        """32 bytes that only the holder of these keys can compute, the same after a crash."""
        message = bind(SECRET_DOMAIN, purpose.encode(), context)
        return hmac.digest(self.signing.private_bytes_raw(), message, "sha256")

    def repeatable(self, purpose: str, context: bytes) -> RandomBytes:
        """Random bytes that only the holder of these keys can compute: after a crash the same come again."""
        drawn = itertools.count()

        def draw(count: int) -> bytes:
            number = next(drawn).to_bytes(4, "big")
            return hashlib.shake_256(self.secret(purpose, bind(context, number))).digest(count)

        return draw


@dataclass(frozen=True)
class Message:
    """To one participant."""

    recipient: str
    stage: str
    payload: bytes


@dataclass(frozen=True)
class Judgement:
    """By client: what it counts in the update, 0 for those left out, and why some count less."""

    weights: Mapping[str, float]
    reasons: Mapping[str, Reason]


@dataclass(frozen=True)
class Summed:
    """The session's result.

    Attributes:
        total: (d,) the sum of weighted updates; where updates were judged one by one, the update itself.
        members: of whom.
        named: who was found to have sent something wrong, with what: a client or a key holder, without effect
            on this sum.
        judgement: what the rule said of each update that it judged; None for a plain sum.
        updates: (clients, d) those of `members`, not weighted, where the plan keeps them.
    """

    total: NDArray[np.float64]
    members: tuple[str, ...]
    named: Mapping[str, str] = field(default_factory=dict)
    judgement: Judgement | None = None
    updates: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Failed:
    """No result; `faulty` are clients without whom there would have been one."""

    reason: str
    faulty: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """A stage is over: who goes on, what participants are told, and perhaps the end."""

    stage: str
    decided: tuple[str, ...] = ()
    messages: tuple[Message, ...] = ()
    outcome: Summed | Failed | None = None


@dataclass(frozen=True)
class Relay:
    """What can be passed on while uploads still arrive."""

    clients: tuple[str, ...]
    messages: tuple[Message, ...]


class Running(ABC):
    """One session in memory. Nothing here is durable: after a crash a new one is fed with the same messages,
    in any order, and with the decisions that were committed; it then says the same as before.

    Attributes:
        uploads: clients whose update is taken in.
        faults: why clients whose update was taken in have no influence on the sum after all.
    """

    first_stage: ClassVar[str] = UPLOAD
    several: ClassVar[bool] = False  # parties of the service that take part

    def __init__(self, terms: SessionTerms, keys: Keys) -> None:
        self.terms, self.keys = terms, keys
        self.uploads: set[str] = set()
        self.faults: Mapping[str, str] = {}

    @property
    @abstractmethod
    def upload_bytes(self) -> int:
        """How long an upload is once it is unsealed."""

    @abstractmethod
    def take_upload(self, session: Session, client: str, content: bytes) -> None:
        """Take in a whole, authentic upload. Raises: Rejected for a wrong one; Stale for one too many."""

    def take_answer(self, session: Session, sender: str, stage: str, payload: bytes) -> None:
        """Take in an authentic message. Raises: Rejected for one that is wrong; Stale for one too many."""
        raise Rejected(f"protocol {self.terms.plan.protocol} has no stage {stage!r}")

    def verify_key(self, participant: str) -> bytes:
        """Whose signature a message must carry. Raises: Rejected for a stranger."""
        member = self.terms.members.get(participant)
        if member is None:
            raise Rejected(f"{participant} has no part in {self.terms.group_id}")
        return member.verify_key

    @abstractmethod
    def step(self, session: Session, relayed: Collection[str], *, waited: bool) -> Step | None:
        """What follows from what has come, or None while there is somebody to wait for.

        Args:
            session: with the decisions so far; those of a stage bind it.
            relayed: whose shares were passed on.
            waited: the stage's deadline has passed.
        """

    def relay_due(self, session: Session) -> bool:
        """Whether it is worth passing something on already."""
        return False

    def relay(self, relayed: Collection[str]) -> Relay | None:
        """What participants can be told before the uploads are complete; None when there is nothing."""
        return None

    def talk(self, session: Session) -> Talk | None:
        """What to settle with the other parties now, outside any transaction; `step` goes on from it."""
        return None

    async def farewell(self, links: Links) -> None:
        """Tell the other parties that the session is over."""
        return

    def enough(self, session: Session, *, waited: bool) -> bool | None:
        """Whether the upload stage ends with enough updates; None while there is somebody to wait for."""
        if self.sufficed(session):
            return True
        if not waited and not self.uploads | session.out.keys() >= self.terms.members.keys():
            return None
        return len(self.uploads) >= self.terms.plan.fewest

    def sufficed(self, session: Session) -> bool:
        """Whether as many complete uploads are there as the session waits for; the one by which others are
        measured is waited for in any case."""
        if session.enough is None or len(self.uploads) < max(session.enough, self.terms.plan.fewest):
            return False
        root = self.terms.plan.rule.root
        return not root or root in self.uploads or root in session.out

    def require_root(self, present: Collection[str], reasons: Mapping[str, str]) -> None:
        """Raises: Rejected where the update by which others are measured is not `present`."""
        rule = self.terms.plan.rule
        if rule.root and rule.root not in present:
            why = reasons.get(rule.root) or self.why_missing(rule.root)
            raise Rejected(f"{rule.name} measures updates by that of {rule.root}: {why}")

    def why_missing(self, client: str, *, early: bool = False) -> str:
        """What did not come from a client that is left out without having said or done anything wrong;
        `early` where enough others were there before the deadline."""
        return SURPLUS if early else MISSING

    def too_few(self) -> Failed:
        """The upload stage ended with too few."""
        plan, members = self.terms.plan, self.terms.members
        return Failed(f"{len(self.uploads)} of {len(members)} updates came, {plan.fewest} are needed")
