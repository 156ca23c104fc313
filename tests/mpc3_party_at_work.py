"""Parties of mpc3 on their databases: party 1 with the others as sides in memory, or all three on short wires."""

import hashlib
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import numpy as np

from services.client.sessions import PROTOCOLS
from services.secure_aggregation.parties.asking import Asking
from services.secure_aggregation.parties.context import Custody, public_keys
from services.secure_aggregation.parties.handlers import on_share_submitted
from services.secure_aggregation.parties.requests import serve
from services.secure_aggregation.parties.side import SECRETS, Side
from services.secure_aggregation.protocols.base import Keys
from shared.adapters.database import open_units
from shared.core.secagg import chunks, sealing
from shared.core.secagg.sealing import SealingKey
from shared.events import ShareSubmitted
from shared.events.base import Envelope, pack, unpack
from shared.events.plans import RulePlan
from shared.sessions.terms import SessionTerms, mpc3_terms
from tests.sessions_at_work import DEADLINE, START, identity_of, requested

NAMES = ("alice", "bob", "carol")
D = 40


class StandingClock:
    def now(self):
        return START


def keys_of(party):
    seed = hashlib.shake_256(f"party {party}".encode()).digest(96)
    return Keys(SealingKey.from_bytes(seed), identity_of(f"party {party}"))


def terms_of(**changes):
    request = requested(NAMES, "mpc3", D)
    fields = {name: getattr(request, name) for name in ("job_id", "round_id", "group_id", "plan", "members")}
    keys = [public_keys(keys_of(party)) for party in range(3)]
    return SessionTerms(
        **fields | {
            "dimension": D, "layout_sha256": request.layout_sha256, "public_seed": b"\x05" * 32,
            "aggregation_keys": tuple(sealing_key for _, sealing_key in keys),
            "server_key": keys[0][0], "party_keys": tuple(verify for verify, _ in keys),
        } | changes
    )  # fmt: skip


TERMS = terms_of()
KEY = (TERMS.job_id, TERMS.round_id, TERMS.group_id)


def side_of(party, terms=TERMS):
    keys, agreed = keys_of(party), mpc3_terms(terms)
    return Side(agreed, party, keys.signing, keys.repeatable(SECRETS, agreed.digest))


@dataclass
class Third:
    """Party 2, of which only its answers are there."""

    side: Side = field(default_factory=lambda: side_of(2))
    verify: bytes = public_keys(keys_of(2))[0]

    async def ask(self, party, kind, body=None, wait_s=0.0):
        return [self.verify, keys_of(2).sealing.public] if kind == "keys" else self.side.close()


def counter(name):
    state = {"drawn": 0}

    def draw(count):
        state["drawn"] += 1
        return hashlib.shake_256(f"{name} {state['drawn']}".encode()).digest(count)

    return draw


def payloads_of(name, terms=TERMS, update=None):
    update = np.full(D, 0.25, np.float32) if update is None else update
    session = PROTOCOLS["mpc3"](terms, name, identity_of(name))
    encoded = session.encrypt(b"", update, counter(name))
    return (encoded.content, *encoded.others)


@dataclass
class Party1:
    units: object
    custody: Custody

    async def take(self, name, content=None, terms=TERMS):
        content = content or payloads_of(name, terms)[1]
        sealed = sealing.seal(content, keys_of(1).sealing.public, terms.sender(name).info)
        (chunk,) = chunks.split(sealed)
        sender = terms.sender(name)
        message = sealing.signing_message(sender, chunk.index, chunk.count, chunk.sha256, chunk.payload)
        event = ShareSubmitted(
            **vars(sender), index=0, count=1, upload_sha256=chunk.sha256, payload=chunk.payload,
            signature=sealing.sign(identity_of(name), message), party=1,
        )  # fmt: skip
        async with self.units.begin(Envelope.wrap(event)) as unit:
            await on_share_submitted(event, unit, self.custody)

    async def ask(self, kind, sender=0, **body):
        return await serve(self.custody, sender, kind, {"session": list(KEY), **body})

    async def open(self, terms=TERMS):
        await self.ask("open", terms=terms.to_bytes(), deadline=DEADLINE)


@asynccontextmanager
async def party_1(folder, third):
    """As a process that starts: nothing in memory, its rows in `folder`."""
    units = await open_units(f"sqlite:///{folder}/party.sqlite", "party-1", StandingClock(), lambda: "")
    custody = Custody(1, keys_of(1), third)

    async def transact(work):
        async with units.begin() as unit:
            await work(unit)

    custody.transact = transact
    try:
        yield Party1(units, custody)
    finally:
        await units.close()


def full_sides():
    first, third = side_of(0), Third()
    for name in NAMES:
        payloads = payloads_of(name)
        first.take(name, payloads[0])
        third.side.take(name, payloads[2])
    return first, third


async def agreed(party, first):
    return await party.ask("agree", holdings=first.close())


RULE = RulePlan(name="multi-krum", single=True)
JUDGED = terms_of(plan=TERMS.plan.model_copy(update={"rule": RULE}))
STEP = 8.0 / (2**15 - 1)  # of the sessions' encoding
UPDATES = dict(zip(NAMES, np.random.default_rng(5).normal(size=(3, 40)).astype(np.float32), strict=True))


@dataclass
class Wire:
    """One party's links; `told` holds what it sent and heard."""

    three: object
    sender: int
    told: list = field(default_factory=list)

    async def ask(self, party, kind, body=None, wait_s=0.0):
        sent = pack([kind, body])
        self.told.append(sent)
        self.three.wires[party].told.append(sent)
        answer = pack(await serve(self.three.custody[party], self.sender, *unpack(sent)))
        self.told.append(answer)
        self.three.wires[party].told.append(answer)
        return unpack(answer)


class Three:
    """Party 0's side and what it asks; the other two on their databases."""

    def __init__(self):
        self.wires = {party: Wire(self, party) for party in range(3)}
        self.custody = {}
        self.restart_0()

    def restart_0(self):
        self.side = side_of(0, JUDGED)
        self.asking = Asking(JUDGED, self.side)
        for name in NAMES:
            self.side.take(name, self.payload(name, 0))

    def payload(self, name, party):
        return payloads_of(name, JUDGED, UPDATES[name])[party]

    def restart(self, party):
        self.custody[party].places.clear()

    def of(self, party):
        return self.custody[party].places[KEY].side

    async def opened(self):
        await self.asking.open(self.wires[0], DEADLINE)
        for party in (1, 2):
            for name in NAMES:
                if name not in self.of(party).clients:
                    self.of(party).take(name, self.payload(name, party))

    async def agreed(self):
        await self.opened()
        return await self.asking.agree(self.wires[0], list(NAMES), 0)

    async def checked(self, *, begun=False):
        signatures = await self.agreed()
        await self.asking.check(self.wires[0], signatures, begun=begun)
        return signatures

    async def ask(self, party, kind, sender=0, **body):
        return await self.wires[sender].ask(party, kind, {"session": list(KEY), **body})


@asynccontextmanager
async def three_parties(folder):
    """Party 0's side, and two processes that start."""
    async with AsyncExitStack() as stack:
        made = Three()
        for party in (1, 2):
            url = f"sqlite:///{folder}/party-{party}.sqlite"
            units = await open_units(url, f"party-{party}", StandingClock(), lambda: "")
            stack.push_async_callback(units.close)
            custody = Custody(party, keys_of(party), made.wires[party])

            async def transact(work, units=units):
                async with units.begin() as unit:
                    await work(unit)

            custody.transact = transact
            made.custody[party] = custody
        yield made
