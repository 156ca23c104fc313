"""A session of a protocol without a service around it: participants that speak, a server that may be rebuilt."""

from datetime import UTC, datetime

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pairwise_round import bytes_from, identity_of, names

from services.client.sessions import PROTOCOLS as AT_CLIENTS
from services.secure_aggregation.protocols import PROTOCOLS
from services.secure_aggregation.protocols.base import UPLOAD, Keys, Summed
from services.secure_aggregation.state import Session
from shared.core.secagg.sealing import SealingKey
from shared.errors import Rejected, Stale, Unavailable
from shared.events.plans import SessionPlan
from shared.events.secure_aggregation import MAX_STAGE_BYTES
from shared.events.values import Member
from shared.sessions.terms import SessionTerms, reference

SERVER = Keys(SealingKey.from_bytes(bytes(range(96))), Ed25519PrivateKey.from_private_bytes(bytes(32)))


def terms_for(protocol, count, dimension=20, fewest=2, **plan):
    return SessionTerms(
        job_id="job", round_id="job-r1", group_id="job-r1-g1",
        plan=SessionPlan(protocol=protocol, bits=16, bound=4.0, rotate=False, fewest=fewest, **plan),
        members={
            name: Member(verify_key=identity_of(name).public_key().public_bytes_raw())
            for name in names(count)
        },
        dimension=dimension, layout_sha256="0" * 64, aggregation_keys=(SERVER.sealing.public,),
        server_key=SERVER.signing.public_key().public_bytes_raw(), public_seed=bytes(32),
    )  # fmt: skip


class Client:
    """One participant; `says` is what it would send next."""

    def __init__(self, terms, name, seed):
        self.session = AT_CLIENTS[terms.plan.protocol](terms, name, identity_of(name))
        self.name, self.random = name, bytes_from(seed, name)
        self.update = np.random.default_rng([seed, *name.encode()]).uniform(-3, 3, terms.dimension)
        self.update = self.update.astype(np.float32)

    def moved(self, position):
        self.state = position.state
        said = [(stage, self.name, payload) for stage, payload in position.answers]
        if position.ready and not said:
            encoded = self.session.encrypt(self.state, self.update, self.random)
            self.state = encoded.state
            said = [(UPLOAD, self.name, encoded.content)]
        return said

    def begin(self):
        return self.moved(self.session.begin(self.random))

    def told(self, message):
        assert len(message.payload) <= MAX_STAGE_BYTES
        return self.moved(self.session.advance(self.state, message.stage, message.payload, self.random))


class Run:
    """All of them. `silent`: by stage, who says nothing from then on; messages come in a random order."""

    def __init__(self, terms, seed, silent=None):
        self.terms, self.seed, self.silent = terms, seed, silent or {}
        self.random = np.random.default_rng(seed)
        self.clients = {name: Client(terms, name, seed) for name in sorted(terms.members)}
        self.rebuild()
        self.session = Session(
            job_id="job", round_id="job-r1", group_id="job-r1-g1", protocol=terms.plan.protocol,
            terms=reference(terms.to_bytes()), deadline=datetime(2030, 1, 1, tzinfo=UTC),
            stage=self.running.first_stage,
        )  # fmt: skip
        self.held, self.gone, self.outcome, self.told = [], set(), None, []
        self.pending = [said for client in self.clients.values() for said in client.begin()]

    def rebuild(self):
        self.running = PROTOCOLS[self.terms.plan.protocol](self.terms, SERVER)

    def take(self, said):
        stage, name, payload = said
        if stage == UPLOAD:
            self.running.take_upload(self.session, name, payload)
        else:
            self.running.take_answer(self.session, name, stage, payload)

    def replay(self):
        """What is held comes again, in any order, until all of it is taken or stale."""
        self.rebuild()
        waiting = [self.held[index] for index in self.random.permutation(len(self.held))]
        for _ in range(10):
            again = []
            for said in waiting:
                try:
                    self.take(said)
                except Stale:
                    self.held.remove(said)
                except Unavailable:
                    again.append(said)
            waiting = again
        assert not waiting

    def next_step(self, *, waited):
        step = self.running.step(self.session, (), waited=waited)
        if step is None:
            return False
        self.told = list(step.messages)
        decided = {**self.session.decided, self.session.stage: step.decided}
        self.session = self.session.replace(stage=step.stage, decided=decided)
        self.outcome = step.outcome
        return True

    def stage(self, *, killed=False):
        """One stage: everyone who is not silent speaks, and the deadline passes if somebody did not."""
        self.gone |= set(self.silent.get(self.session.stage, ()))
        said = [message for message in self.pending if message[1] not in self.gone]
        stops = int(self.random.integers(len(said) + 1)) if killed else -1
        moved = False
        for count, index in enumerate(self.random.permutation(len(said))):
            if count == stops:
                self.replay()
            self.take(said[index])
            self.held.append(said[index])
            assert not moved or self.outcome, "it went on without waiting for everybody"
            moved = moved or self.next_step(waited=False)
            if self.outcome:
                return
        if not moved:
            assert self.next_step(waited=True)
        self.pending = [
            answer
            for m in self.told
            if m.recipient not in self.gone
            for answer in self.clients[m.recipient].told(m)
        ]

    def finish(self, *, killed=False):
        while self.outcome is None:
            self.stage(killed=killed)
        return self.outcome

    def check_sum(self):
        """The sum is that of its members' updates, but for rounding: less than a step each."""
        assert isinstance(self.outcome, Summed), self.outcome
        expected = sum(self.clients[name].update.astype(np.float64) for name in self.outcome.members)
        step = self.terms.plan.bound / (2 ** (self.terms.plan.bits - 1) - 1)
        assert np.abs(self.outcome.total - expected).max() <= len(self.outcome.members) * step * 1.01


def rejected(call):
    try:
        call()
    except Rejected as error:
        return str(error)
    raise AssertionError("it was taken")
