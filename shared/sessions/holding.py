"""A key holder at work: it keeps shares as they come, and answers once for each session.

The same for a worker that sits in its cohort's committee and for a dedicated key holder.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.core.secagg import sealing
from shared.core.secagg.oneshot import committee, ring
from shared.core.secagg.oneshot.committee import Holder, Kept
from shared.core.secagg.oneshot.interpolation import P
from shared.core.secagg.oneshot.messages import (
    SurvivorSet,
    answer_from_bytes,
    words_from_bytes,
    words_to_bytes,
)
from shared.core.secagg.sealing import SealingKey
from shared.errors import Rejected, Stale, Unavailable
from shared.events import StageAnswered, StageBegun
from shared.events.base import pack, unpack
from shared.ports import BlobStore, State, UnitOfWork
from shared.sessions.terms import SessionTerms, check_committee, oneshot_terms

SHARES, RELEASE = "shares", "release"  # what a holder is told
ANSWER, COMPLAINT = "answer", "complaint"  # what it says
MOST_REMEMBERED = 16
Key = tuple[str, ...]


class HeldShares(State):
    """Shares that came in one message; `refused` maps a client to what was wrong with its share."""

    kind: ClassVar[str] = "held_shares"

    session: tuple[str, ...]
    batch: int
    shares: dict[str, tuple[bytes, bytes]]  # client -> digest of its upload, values
    refused: dict[str, str] = {}

    @property
    def key(self) -> Key:
        """Session, batch."""
        return (*self.session, f"{self.batch:06}")


class Seat(State):
    """The place of this holder in a session: how many batches it has kept, and for whom it answered what."""

    kind: ClassVar[str] = "holder_seat"

    session: tuple[str, ...]
    batches: int = 0
    survivors: bytes = b""
    answer: bytes = b""

    @property
    def key(self) -> Key:
        """The session."""
        return self.session


@dataclass
class Work:
    """A session in memory, as `seat` and the rows beside it have it on disk."""

    terms: SessionTerms
    terms_sha256: str
    holder: Holder
    refused: dict[str, str]
    seat: Seat


@dataclass
class Keeper:
    """What a key holder needs.

    Attributes:
        holder_id: its name in committees.
        identity: signs what it says.
        sealing_key: the private half of what is sealed to it in a job; None where it holds none.
        check: raises Rejected or Refused for terms that this holder does not serve.
    """

    holder_id: str
    identity: Ed25519PrivateKey
    blobs: BlobStore
    sealing_key: Callable[[str, UnitOfWork], Awaitable[SealingKey | None]]
    check: Callable[[SessionTerms, UnitOfWork], Awaitable[None]]
    remembered: dict[Key, Work] = field(default_factory=dict)

    async def on_stage_begun(self, event: StageBegun, unit: UnitOfWork) -> None:
        """Keep shares; for a survivor set, also answer, or say whose share is wrong."""
        session = (event.job_id, event.round_id, event.group_id)
        content = _content(event)
        seat = await unit.find(Seat, *session) or Seat(session=session)
        work = self.remembered.pop(session, None)
        if work is None or work.seat != seat:
            work = await self._load(event, seat, unit)
        if event.terms.sha256 != work.terms_sha256:
            raise Rejected("the session has other terms than it began with")
        fresh = await self._keep(content.get("shares", {}), work, unit)
        if fresh is not None:
            await unit.save(fresh)
            work.seat = work.seat.replace(batches=fresh.batch + 1)
        if event.stage == RELEASE:
            await self._release(content, work, unit)
        elif fresh is not None and fresh.refused:
            self._say(COMPLAINT, pack(fresh.refused), work, unit)
        await unit.save(work.seat)
        self.remembered[session] = work
        while len(self.remembered) > MOST_REMEMBERED:
            self.remembered.pop(next(iter(self.remembered)))

    async def forget(self, session: Key, unit: UnitOfWork) -> None:
        """Drop a session's shares, once it is over: from now on it is not answered for, unless it was."""
        self.remembered.pop(session, None)
        for held in await unit.select(HeldShares, *session):
            await unit.delete(held)

    async def _load(self, event: StageBegun, seat: Seat, unit: UnitOfWork) -> Work:
        terms = SessionTerms.from_bytes(await self.blobs.get(event.terms))
        if (terms.job_id, terms.round_id, terms.group_id) != seat.session:
            raise Rejected("the terms are another session's")
        check_committee(terms)
        await self.check(terms, unit)
        names = [holder.holder_id for holder in terms.committee]
        if self.holder_id not in names:
            raise Rejected(f"{self.holder_id} is not in the committee of {event.group_id}")
        core = oneshot_terms(terms)
        blocks = core.scheme.blocks(ring.N)
        rows = await unit.select(HeldShares, *seat.session)
        shares = {
            client: Kept(digest, words_from_bytes(values, blocks, P))
            for row in rows
            for client, (digest, values) in row.shares.items()
        }
        answer = answer_from_bytes(seat.answer, blocks) if seat.answer else None
        holder = Holder(core, names.index(self.holder_id), shares, answer)
        refused = {client: reason for row in rows for client, reason in row.refused.items()}
        return Work(terms, event.terms.sha256, holder, refused, seat)

    async def _keep(self, sealed: Mapping[str, bytes], work: Work, unit: UnitOfWork) -> HeldShares | None:
        """Take shares in; what was new among them."""
        if not sealed:
            return None
        key = await self.sealing_key(work.terms.job_id, unit)
        if key is None:
            raise Rejected(f"{self.holder_id} has no sealing key in {work.terms.job_id}")
        shares, refused = {}, {}
        for client, content in sealed.items():
            info = work.terms.sender(client).share_info(self.holder_id)
            try:
                work.holder = committee.keep(work.holder, client, sealing.open_(content, key, info))
            except Stale:
                continue
            except Rejected as error:
                refused[client] = str(error)
            else:
                share = work.holder.kept[client]
                shares[client] = (share.upload_digest, words_to_bytes(share.values))
        work.refused.update(refused)
        if not shares and not refused:
            return None
        seat = work.seat
        return HeldShares(session=seat.session, batch=seat.batches, shares=shares, refused=refused)

    async def _release(self, content: Mapping[str, Any], work: Work, unit: UnitOfWork) -> None:
        bits = content.get("survivors", b"")
        if work.seat.answer:
            if bits != work.seat.survivors:
                raise Rejected("this holder has answered for another survivor set of the session")
            self._say(ANSWER, work.seat.answer, work, unit)
            return
        survivors = survivors_from_bits(bits, work.terms)
        if wrong := {name: why for name, why in work.refused.items() if name in survivors}:
            self._say(COMPLAINT, pack(wrong), work, unit)
            return
        if missing := [name for name in survivors if name not in work.holder.kept]:
            raise Unavailable(f"the share of {missing[0]} has not come yet")
        uploads = tuple((name, work.holder.kept[name].upload_digest) for name in survivors)
        chosen = SurvivorSet(work.holder.terms.digest, uploads)
        work.holder = committee.respond(work.holder, chosen, content.get("signature", b""))
        if work.holder.answer is None:
            raise Rejected("no answer was given")
        answer = work.holder.answer.to_bytes()
        work.seat = work.seat.replace(survivors=bits, answer=answer)
        self._say(ANSWER, answer, work, unit)

    def _say(self, stage: str, payload: bytes, work: Work, unit: UnitOfWork) -> None:
        unit.publish(answered(work.terms, self.holder_id, self.identity, stage, payload))


def answered(
    terms: SessionTerms, participant: str, identity: Ed25519PrivateKey, stage: str, payload: bytes
) -> StageAnswered:
    """A participant's signed message in a stage of its session."""
    sender = terms.sender(participant)
    return StageAnswered(
        **vars(sender),
        stage=stage,
        payload=payload,
        signature=sealing.sign(identity, sender.stage_message(stage, payload)),
    )


def survivors_to_bits(survivors: Collection[str], terms: SessionTerms) -> bytes:
    """One bit a member, in the order of their names."""
    return np.packbits([name in survivors for name in sorted(terms.members)]).tobytes()


def survivors_from_bits(bits: bytes, terms: SessionTerms) -> list[str]:
    """Inverse of `survivors_to_bits`, ascending. Raises: Rejected for another length."""
    names = sorted(terms.members)
    if len(bits) != -(-len(names) // 8):
        raise Rejected(f"a survivor set of {len(bits)} bytes for {len(names)} members")
    flags = np.unpackbits(np.frombuffer(bits, np.uint8))
    return [name for name, flag in zip(names, flags, strict=False) if flag]


def _content(event: StageBegun) -> Mapping[str, Any]:
    if event.stage not in (SHARES, RELEASE):
        raise Rejected(f"a key holder knows no stage {event.stage!r}")
    content = unpack(event.payload)
    if not isinstance(content, dict) or not isinstance(content.get("shares", {}), dict):
        raise Rejected("not a message to a key holder")
    return content
