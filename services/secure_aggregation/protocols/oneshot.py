"""Protocol `oneshot` at the server: ciphertexts are added as they come, shares go on to the committee."""

from collections.abc import Collection

import numpy as np

from services.secure_aggregation.protocols.base import (
    Failed,
    Keys,
    Message,
    Relay,
    Running,
    Step,
    Summed,
)
from services.secure_aggregation.state import FAILED, SUMMED, UPLOAD, Session
from shared.core.secagg import sealing
from shared.core.secagg.encoding import decode_sum
from shared.core.secagg.oneshot import ring, server
from shared.core.secagg.oneshot.messages import Answer, answer_from_bytes
from shared.core.secagg.oneshot.terms import public_polynomials
from shared.errors import Rejected, Stale
from shared.events.base import pack, unpack
from shared.events.secure_aggregation import MAX_STAGE_BYTES
from shared.sessions import uploads
from shared.sessions.holding import ANSWER, COMPLAINT, RELEASE, SHARES, survivors_to_bits
from shared.sessions.terms import SessionTerms, encoding_of, oneshot_terms

BATCHES_A_HALVING = 8
NAME_BYTES = 80  # of a client in a message, with what msgpack puts around its share


class Encrypted(Running):
    """The sum of ciphertexts, the shares that wait to be passed on, and the committee's answers."""

    def __init__(self, terms: SessionTerms, keys: Keys) -> None:
        super().__init__(terms, keys)
        self._core = server.Session(oneshot_terms(terms))
        self._total = server.empty(self._core.terms)
        self._public = public_polynomials(self._core.terms)
        self._holders = {holder.holder_id: holder for holder in terms.committee}
        self._names = tuple(self._holders)
        self._share_bytes = max(uploads.sealed_share_bytes(self._core.terms))
        self._shares: dict[str, tuple[bytes, ...]] = {}
        self._answers: dict[str, bytes] = {}
        self._complaints: dict[str, dict[str, str]] = {}

    @property
    def upload_bytes(self) -> int:
        """As `Running`."""
        return uploads.upload_bytes(self._core.terms)

    def verify_key(self, participant: str) -> bytes:
        """As `Running`."""
        holder = self._holders.get(participant)
        return holder.verify_key if holder is not None else super().verify_key(participant)

    def take_upload(self, session: Session, client: str, content: bytes) -> None:
        """As `Running`."""
        if UPLOAD in session.decided and client not in session.decided[UPLOAD]:
            raise Stale("the survivors are fixed")
        upload, shares = uploads.split(content, self._core.terms)
        self._core = server.receive(self._core, self._total, client, upload)
        if UPLOAD not in session.decided:  # else the committee has them all
            self._shares[client] = shares
        self.uploads.add(client)

    def take_answer(self, session: Session, sender: str, stage: str, payload: bytes) -> None:
        """As `Running`."""
        if sender not in self._holders:
            raise Rejected(f"{sender} is not in the committee")
        if stage == COMPLAINT:
            self._complaints[sender] = {**self._complaints.get(sender, {}), **_reasons(payload)}
        elif stage == ANSWER:
            if self._answers.setdefault(sender, payload) != payload:
                raise Rejected(f"key holder {sender} gave two answers")
        else:
            super().take_answer(session, sender, stage, payload)

    def relay_due(self, session: Session) -> bool:
        """As `Running`."""
        # Smaller and smaller batches: few messages in all, and little left to do after the last upload.
        expected = len(self.terms.members) - len(self.uploads) - len(session.out)
        return len(self._shares) >= max(1, expected // BATCHES_A_HALVING)

    def relay(self, relayed: Collection[str]) -> Relay | None:
        """As `Running`."""
        for client in [client for client in self._shares if client in relayed]:
            del self._shares[client]
        batches = self._batches(relayed)
        if not batches:
            return None
        messages = (Message(name, SHARES, pack(self._to(name, batches[0]))) for name in self._names)
        return Relay(batches[0], tuple(messages))

    def step(self, session: Session, relayed: Collection[str], *, waited: bool) -> Step | None:
        """As `Running`."""
        if session.stage == UPLOAD:
            return self._freeze(session, relayed, waited=waited)
        return self._open(session, waited=waited)

    def _freeze(self, session: Session, relayed: Collection[str], *, waited: bool) -> Step | None:
        match self.enough(session, waited=waited):
            case None:
                return None
            case False:
                return Step(FAILED, outcome=self.too_few())
        self._core = server.freeze(self._core)
        if self._core.survivors is None:
            raise Rejected("no survivor set")
        release = {
            "survivors": survivors_to_bits(self.uploads, self.terms),
            "signature": sealing.sign(self.keys.signing, self._core.survivors.message()),
        }
        *early, last = self._batches(relayed) or [()]
        messages = [Message(name, SHARES, pack(self._to(name, b))) for b in early for name in self._names]
        messages += [
            Message(name, RELEASE, pack({**release, **self._to(name, last)})) for name in self._names
        ]
        return Step(RELEASE, tuple(sorted(self.uploads)), tuple(messages))

    def _open(self, session: Session, *, waited: bool) -> Step | None:
        if self.uploads != set(session.decided[UPLOAD]):
            return None  # held uploads are being delivered again
        self._core = server.freeze(self._core)
        liars = self._accept_answers()
        silent = len(self._names) - len(self._core.answers)
        heard = len({*self._answers, *self._complaints})
        quorum = self._core.terms.scheme.quorum
        if silent <= len(self._names) - quorum:
            try:
                aggregate = server.finalise(self._core, self._total, self._public)
            except Rejected as error:
                if not waited and heard < len(self._names):
                    return None  # answers that are still on their way can tell which one is wrong
                return Step(FAILED, outcome=Failed(str(error), self._faulty()))
            liars += [self._names[index] for index in aggregate.liars]
            total = decode_sum(encoding_of(self.terms), aggregate.values).astype(np.float64)
            named = {name: "its answer as a key holder was wrong" for name in liars}
            named |= self._complained_of()
            return Step(SUMMED, outcome=Summed(total, aggregate.survivors, named))
        if waited or heard == len(self._names):
            reason = (
                f"{len(self._core.answers)} of {len(self._names)} key holders answered, {quorum} are needed"
            )
            return Step(FAILED, outcome=Failed(reason, self._faulty()))
        return None

    def _accept_answers(self) -> list[str]:
        wrong = []
        blocks = self._core.terms.scheme.blocks(ring.N)
        for index, name in enumerate(self._names):
            if name not in self._answers or index in self._core.answers:
                continue
            try:
                self._core = server.accept(self._core, _answer_of(index, self._answers[name], blocks))
            except Rejected:
                wrong.append(name)
        return wrong

    def _complained_of(self) -> dict[str, str]:
        """Whose share a key holder refused. One that refuses more than a third is not believed: fewer than
        a third of the clients are malicious."""
        most = max(1, len(self.uploads) // 3)
        found: dict[str, str] = {}
        for holder, reasons in sorted(self._complaints.items()):
            real = {client: reason for client, reason in sorted(reasons.items()) if client in self.uploads}
            if len(real) <= most:
                found |= {c: f"key holder {holder} refused its share: {why}" for c, why in real.items()}
        return found

    def _faulty(self) -> tuple[str, ...]:
        return tuple(sorted(self._complained_of()))

    def _batches(self, relayed: Collection[str]) -> list[tuple[str, ...]]:
        """Whose shares still have to be passed on, by message."""
        waiting = [client for client in self._shares if client not in relayed]
        most = MAX_STAGE_BYTES // (self._share_bytes + NAME_BYTES) - 1
        return [tuple(waiting[start : start + most]) for start in range(0, len(waiting), most)]

    def _to(self, name: str, clients: tuple[str, ...]) -> dict[str, dict[str, bytes]]:
        index = self._names.index(name)
        return {"shares": {client: self._shares[client][index] for client in clients}}


def _answer_of(index: int, content: bytes, blocks: int) -> Answer:
    answer = answer_from_bytes(content, blocks)
    if answer.holder != index:
        raise Rejected(f"key holder {index} answers in another's place")
    return answer


def _reasons(payload: bytes) -> dict[str, str]:
    content = unpack(payload)
    if not isinstance(content, dict):
        raise Rejected("a complaint names clients and reasons")
    return {str(client): str(reason)[:200] for client, reason in content.items()}
