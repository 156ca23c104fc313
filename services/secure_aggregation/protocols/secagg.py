"""Protocol `secagg` at the server: each stage closes when all have spoken, or when its time is over.

What is durable of a stage is who goes on from it. After a crash the stages are replayed from those decisions:
messages come again in any order, and one that is early waits here for its stage.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from threading import RLock

import numpy as np

from services.secure_aggregation.protocols.base import (
    SURPLUS,
    Failed,
    Keys,
    Message,
    Running,
    Step,
    Summed,
)
from services.secure_aggregation.state import FAILED, SUMMED, UPLOAD, Session
from shared.core.secagg.encoding import decode_sum
from shared.core.secagg.pairwise import codec, messages, server
from shared.core.secagg.pairwise.summing import Collecting, Endorsing, Revealing
from shared.core.secagg.pairwise.terms import TooFew
from shared.errors import Rejected, Stale, Unavailable
from shared.sessions import pairwise as stages
from shared.sessions.terms import SessionTerms, encoding_of, secagg_terms

STAGES = (stages.KEYS, stages.SEALED_SHARES, UPLOAD, stages.ENDORSEMENT, stages.UNMASKING)
TOLD = (stages.NEIGHBOURS, stages.ROSTER, stages.SURVIVORS, stages.ENDORSEMENTS)
KINDS: tuple[type[server.Message], ...] = (
    messages.Advertisement,
    messages.SealedShares,
    messages.MaskedInput,
    messages.Endorsement,
    messages.Unmasking,
)
Closable = server.Advertising | server.Sharing | Collecting | Endorsing
Out = Mapping[str, object] | messages.Endorsements
BATCHES_A_HALVING = 8
MOST_NAMED = 10


class Masked(Running):
    """The core's phases, and what came too early for them after a crash."""

    first_stage = STAGES[0]

    def __init__(self, terms: SessionTerms, keys: Keys) -> None:
        super().__init__(terms, keys)
        self._core = secagg_terms(terms)
        self._phase: server.AnyPhase = server.start(self._core)
        self._at = 0  # the phase's place in STAGES
        self._begun = False
        self._heard: tuple[dict[str, bytes], ...] = tuple({} for _ in STAGES)  # digests, by client
        self._early: list[tuple[int, server.Message]] = []
        self._wrong: dict[str, str] = {}
        self._steps: dict[str, Step] = {}  # by the stage that each ends; its commit may be lost
        self._settled = 0
        self._lock = RLock()  # `step` runs in a thread

    @property
    def upload_bytes(self) -> int:
        """As `Running`."""
        return codec.masked_input_bytes(self._core)

    def take_upload(self, session: Session, client: str, content: bytes) -> None:
        """As `Running`."""
        self._take(session, client, UPLOAD, content)

    def take_answer(self, session: Session, sender: str, stage: str, payload: bytes) -> None:
        """As `Running`."""
        if stage not in STAGES or stage == UPLOAD:
            super().take_answer(session, sender, stage, payload)
        self._take(session, sender, stage, payload)

    def enough(self, session: Session, *, waited: bool) -> bool | None:
        """As `Running`."""
        with self._lock:
            self._catch_up(session)
            if self._ends_early(session):
                return True
            if self._behind(session) or (not waited and self._awaited(session)):
                return None
            return len(self.uploads) >= self.terms.plan.fewest

    def why_missing(self, client: str, *, early: bool = False) -> str:
        """As `Running`."""
        if client in self._wrong:
            return self._wrong[client]
        for stage, heard in list(zip(STAGES, self._heard, strict=True))[: self._at + 1]:
            if client not in heard:
                if early and stage == UPLOAD:
                    return SURPLUS
                return f"nothing came in stage {stage} by its deadline"
        return "the group has no sum"

    def step(self, session: Session, relayed: Collection[str], *, waited: bool) -> Step | None:
        """As `Running`."""
        with self._lock:
            self._catch_up(session)
            for stage in STAGES[: STAGES.index(session.stage)]:
                self._steps.pop(stage, None)
            if session.stage in self._steps:
                return self._steps[session.stage]  # its commit was lost
            if self._behind(session):
                return None
            phase, left = self._phase, self._awaited(session)
            if not isinstance(phase, Revealing):
                over = waited or not left or self._ends_early(session)
                return self._close(phase, session) if over else None
        return self._open(session, phase, left, waited=waited)

    def _take(self, session: Session, client: str, stage: str, content: bytes) -> None:
        place, digest = STAGES.index(stage), hashlib.sha256(content).digest()
        with self._lock:
            self._catch_up(session)
            if client in self._heard[place]:
                if self._heard[place][client] != digest:
                    raise Rejected(f"{client} said two things in stage {stage}")
                return
            try:
                message = self._read(client, place, content)
                if self._behind(session) and place > self._at:
                    self._early.append((place, message))
                else:
                    self._hear(place, message)
            except Rejected as error:
                self._wrong[client] = f"{stage}: {error}"
                raise
            self._heard[place][client] = digest
            self._catch_up(session)

    def _read(self, client: str, place: int, content: bytes) -> server.Message:
        message = codec.from_bytes(KINDS[place], content, self._core)
        if message.client_id != client:
            raise Rejected(f"a message of {message.client_id}")
        return message

    def _hear(self, place: int, message: server.Message) -> None:
        self._phase = server.receive(self._phase, message)
        if STAGES[place] == UPLOAD:
            self.uploads.add(message.client_id)

    def _ends_early(self, session: Session) -> bool:
        return session.stage == UPLOAD and not self._behind(session) and self.sufficed(session)

    def _behind(self, session: Session) -> bool:
        return self._at < STAGES.index(session.stage)

    def _awaited(self, session: Session) -> set[str]:
        """Who goes on from the stage before, and may still speak in this one."""
        place = STAGES.index(session.stage)
        expected = session.decided[STAGES[place - 1]] if place else self.terms.members
        return set(expected) - self._heard[place].keys() - session.out.keys() - self._wrong.keys()

    def _catch_up(self, session: Session) -> None:
        """Replay the stages that are decided, as far as their messages have come."""
        target = STAGES.index(session.stage)
        if not self._begun:
            self._begun = True
            self._replay(session)
        while self._at < target and not isinstance(self._phase, Revealing):
            try:
                self._phase, _ = self._phase.close()
            except Unavailable:
                return
            self._at += 1
            self._replay(session)
            early, self._early = self._early, []
            for place, message in early:
                if place > self._at and self._at < target:
                    self._early.append((place, message))
                    continue
                try:
                    self._hear(place, message)
                except (Stale, Rejected):
                    del self._heard[place][message.client_id]

    def _replay(self, session: Session) -> None:
        if not isinstance(self._phase, Revealing) and self._behind(session):
            decided = session.decided[STAGES[self._at]]
            self._phase = server.replayed(self._phase, decided)  # type: ignore[type-var]

    def _close(self, phase: Closable, session: Session) -> Step:
        try:
            decided, (following, out) = phase.decide(), phase.close()
            if self._at <= STAGES.index(UPLOAD) and len(decided) < self.terms.plan.fewest:
                raise TooFew("clients", len(decided), self.terms.plan.fewest)
        except Rejected as error:
            return self._failed(error, session)
        told = tuple(
            Message(client, TOLD[self._at], codec.to_bytes(message, self._core))
            for client, message in self._addressed(out, decided).items()
        )
        self._phase, self._at = following, self._at + 1
        step = self._steps[session.stage] = Step(STAGES[self._at], decided, told)
        return step

    def _addressed(self, out: Out, decided: tuple[str, ...]) -> Mapping[str, object]:
        """By recipient; of endorsements as many as are needed, the same for all."""
        if not isinstance(out, messages.Endorsements):
            return out
        few = list(out.signatures.items())[: self._core.plan.quorum]
        return dict.fromkeys(decided, messages.Endorsements(dict(few)))

    def _open(self, session: Session, phase: Revealing, left: set[str], *, waited: bool) -> Step | None:
        fresh = len(phase.answers) - self._settled
        last = waited or not left
        if not last and fresh < max(1, len(left) // BATCHES_A_HALVING):
            return None
        settled = phase.settle()
        with self._lock:
            if isinstance(self._phase, Revealing):
                self._phase = replace(self._phase, masked=settled.masked)
            self._settled = len(phase.answers)
        if not last and settled.masked.opened != settled.masked.advertisements.keys():
            return None
        try:
            result = settled.close()
        except Rejected as error:
            return self._failed(error, session)
        centred = result.total.view(np.int32).astype(np.float64)
        total = decode_sum(encoding_of(self.terms), centred).astype(np.float64)
        return Step(SUMMED, outcome=Summed(total, result.survivors))

    def _failed(self, error: Rejected, session: Session) -> Step:
        missing = self.terms.members.keys() - self._heard[STAGES.index(session.stage)].keys()
        faulty = tuple(sorted(missing & self._wrong.keys()))
        reasons = [str(error)]
        if quiet := sorted(missing.difference(faulty)):
            reasons.append(f"nothing came from {_some(quiet)}")
        reasons += [f"from {client} came a wrong message in {self._wrong[client]}" for client in faulty]
        return Step(FAILED, outcome=Failed(f"{session.stage}: {'; '.join(reasons)}", faulty))


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
