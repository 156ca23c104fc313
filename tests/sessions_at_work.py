"""Sessions of secure aggregation over real transactions: their terms, what clients send, and the service."""

import asyncio
import hashlib
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.client.sessions import PROTOCOLS
from services.secure_aggregation.context import Aggregation
from services.secure_aggregation.handlers import HANDLERS
from services.secure_aggregation.protocols.base import Keys
from services.secure_aggregation.state import Session
from shared.adapters.blobs import open_blobs
from shared.adapters.database import open_units
from shared.adapters.no_telemetry import NoTelemetry
from shared.core.secagg import chunks, sealing
from shared.core.secagg.sealing import SealingKey
from shared.events import SessionRequested, UpdateSubmitted
from shared.events.base import Envelope
from shared.events.plans import SessionPlan
from shared.events.values import Member
from shared.sessions.terms import HolderKey, SessionTerms

START = datetime(2026, 1, 1, tzinfo=UTC)
DEADLINE = datetime(2030, 1, 1, tzinfo=UTC)
SERVER = Keys(SealingKey.from_bytes(bytes(range(96))), Ed25519PrivateKey.from_private_bytes(b"\x09" * 32))


def identity_of(name):
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


def sealing_key_of(name):
    return SealingKey.from_bytes(hashlib.shake_256(name.encode()).digest(96))


def member(name, job="job"):
    public = sealing_key_of(name).public
    return Member(
        verify_key=identity_of(name).public_key().public_bytes_raw(),
        sealing_key=public,
        sealing_signature=sealing.sign(identity_of(name), sealing.key_message(job, name, public)),
    )


def requested(names, protocol, dimension, round_id="job-r1", **plan):
    fields = {"protocol": protocol, "bits": 16, "bound": 8.0, "rotate": False, "fewest": 2, **plan}
    members = {name: member(name) for name in names}
    for name in names[fields.get("holders", 64) :]:  # who has no seat sends no key for one
        members[name] = Member(verify_key=members[name].verify_key)
    return SessionRequested(
        job_id="job", round_id=round_id, group_id=f"{round_id}-g1", layout_sha256="0" * 64,
        members=members, dimension=dimension,
        plan=SessionPlan(**fields), deadline=DEADLINE,
    )  # fmt: skip


def terms_of(request, **changes):
    """What the service would write down for it, everybody in the committee."""
    committee = [HolderKey(holder_id=name, **keys_of(one)) for name, one in request.members.items()]
    fields = {name: getattr(request, name) for name in ("job_id", "round_id", "group_id", "plan")}
    fields |= {"members": request.members, "dimension": request.dimension, "layout_sha256": "0" * 64}
    return SessionTerms(
        **fields, aggregation_keys=(SERVER.sealing.public,), public_seed=b"\x05" * 32,
        server_key=SERVER.signing.public_key().public_bytes_raw(),
        committee=tuple(committee) if request.plan.protocol == "oneshot" else (), **changes,
    )  # fmt: skip


def keys_of(one):
    return {name: getattr(one, name) for name in ("verify_key", "sealing_key", "sealing_signature")}


def content_of(terms, name, update):
    """What the client's side of the protocol makes of an update."""
    return PROTOCOLS[terms.plan.protocol](terms, name, identity_of(name)).encrypt(b"", update, os.urandom)


def upload(terms, name, content, key=None):
    """The chunks of an upload, signed."""
    context = terms.sender(name)
    sealed = sealing.seal(content, SERVER.sealing.public, context.info)
    return [signed(context, chunk, key or identity_of(name)) for chunk in chunks.split(sealed)]


def signed(context, chunk, key):
    message = sealing.signing_message(context, chunk.index, chunk.count, chunk.sha256, chunk.payload)
    return UpdateSubmitted(
        **vars(context), index=chunk.index, count=chunk.count, upload_sha256=chunk.sha256,
        payload=chunk.payload, signature=sealing.sign(key, message),
    )  # fmt: skip


class SetClock:
    """Time that moves when a test moves it."""

    time = START

    def now(self):
        return self.time


class OsRandom:
    """The operating system's."""

    def bytes(self, count):
        return os.urandom(count)


@dataclass
class Summing:
    """The service's handlers on a database. `published` holds what they said, in order."""

    units: object
    clock: SetClock
    context: Aggregation
    published: list = field(default_factory=list)

    @classmethod
    async def open(cls, url, blobs=None):
        clock = SetClock()
        units = await open_units(url, "secure_aggregation", clock, lambda: "secure_aggregation")
        context = Aggregation(SERVER, blobs or open_blobs("memory://"), OsRandom(), NoTelemetry(), START)
        opened = cls(units, clock, context)
        context.transact = opened.transact
        return opened

    async def transact(self, work):
        async with self.units.begin() as unit:
            await work(unit)
            said = [one.open() for one in unit.outgoing]
        self.published += said

    async def handle(self, event):
        """Handle an event in a transaction of its own, then what it put off; whether it is held."""
        try:
            async with self.units.begin(Envelope.wrap(event)) as unit:
                await HANDLERS[type(event)](event, unit, self.context)
                said = [one.open() for one in unit.outgoing]
        finally:
            await asyncio.gather(*self.context.tasks)
        self.published += said
        return unit.held_under is not None

    async def pass_deadlines(self, moment):
        self.clock.time = moment
        due, _ = await self.units.due(moment)
        for envelope in due:
            async with self.units.begin(envelope) as unit:
                await HANDLERS[type(envelope.open())](envelope.open(), unit, self.context)
                said = [one.open() for one in unit.outgoing]
            self.published += said

    async def begin(self, request):
        """Open a session; its terms."""
        await self.handle(request)
        session = await self.session(request.round_id)
        return SessionTerms.from_bytes(await self.context.blobs.get(session.terms))

    async def session(self, round_id="job-r1"):
        async with self.units.begin() as unit:
            return await unit.find(Session, "job", round_id, f"{round_id}-g1")

    def gathered(self, round_id="job-r1"):
        return self.context.gathered["job", round_id, f"{round_id}-g1"]

    def of(self, kind):
        return [event for event in self.published if isinstance(event, kind)]
