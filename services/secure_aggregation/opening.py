"""Opening a session: its committee is drawn, its terms are written down and named."""

from datetime import datetime, timedelta

from services.secure_aggregation.context import Aggregation
from services.secure_aggregation.protocols import PROTOCOLS
from services.secure_aggregation.state import UPLOAD, KeyHolder, RoundOver, Session
from shared.errors import FedloraError, Refused, Rejected, Stale, Unavailable
from shared.events import GroupFailed, HolderSeen, SessionOpened, SessionRequested
from shared.events.plans import SessionPlan
from shared.ports import UnitOfWork
from shared.sessions.terms import HolderKey, SessionTerms, check_committee

DEADLINE = "session"


def deadline_of(session: Session, plan: SessionPlan, now: datetime) -> datetime:
    """Until when the session's stage is waited for: the upload's until the round's deadline."""
    return session.deadline if session.stage == UPLOAD else now + timedelta(seconds=plan.stage_s)


async def on_holder_seen(event: HolderSeen, unit: UnitOfWork, context: Aggregation) -> None:
    """Register a dedicated key holder."""
    known = await unit.find(KeyHolder, event.client_id)
    if known is not None and known.holder.verify_key != event.verify_key:
        raise Rejected(f"{event.client_id} is registered with another verify key; a person must remove it")
    await unit.save(KeyHolder.of(event))


async def open_session(event: SessionRequested, unit: UnitOfWork, context: Aggregation) -> None:
    """Open a session, or say why it cannot work."""
    if await unit.find(RoundOver, event.job_id, event.round_id):
        raise Stale("the round was aborted")
    if await unit.find(Session, event.job_id, event.round_id, event.group_id):
        raise Stale("the session is open")
    try:
        session = await _opened(event, unit, context)
    except FedloraError as error:
        if isinstance(error, Unavailable) and unit.now < event.deadline:
            raise
        unit.publish(
            GroupFailed(
                job_id=event.job_id,
                round_id=event.round_id,
                group_id=event.group_id,
                groups=event.groups,
                reason=str(error),
                left_out=(),
            )
        )
        return
    await unit.save(session)
    await unit.schedule(DEADLINE, session.key, deadline_of(session, event.plan, unit.now))
    unit.publish(
        SessionOpened(
            job_id=event.job_id, round_id=event.round_id, group_id=event.group_id, terms=session.terms
        )
    )


async def _opened(event: SessionRequested, unit: UnitOfWork, context: Aggregation) -> Session:
    if event.plan.protocol not in PROTOCOLS:
        raise Rejected(f"this service does not speak {event.plan.protocol}")
    others = _keys_of_others(context) if PROTOCOLS[event.plan.protocol].several else ()
    server_key = context.keys.signing.public_key().public_bytes_raw()
    terms = SessionTerms(
        job_id=event.job_id,
        round_id=event.round_id,
        group_id=event.group_id,
        plan=event.plan,
        members=event.members,
        dimension=event.dimension,
        layout_sha256=event.layout_sha256,
        aggregation_keys=(context.keys.sealing.public, *(sealing for _, sealing in others)),
        server_key=server_key,
        public_seed=context.random.bytes(32),
        committee=await _committee(event, unit, context) if event.plan.protocol == "oneshot" else (),
        party_keys=(server_key, *(verify for verify, _ in others)) if others else (),
    )
    check_committee(terms)
    session = Session(
        job_id=event.job_id,
        round_id=event.round_id,
        group_id=event.group_id,
        groups=event.groups,
        protocol=event.plan.protocol,
        terms=await context.blobs.put(terms.to_bytes()),
        deadline=event.deadline,
        enough=event.enough,
        opened_at=unit.now,
        stage=PROTOCOLS[event.plan.protocol].first_stage,
    )
    await context.of(session)  # refuses what the protocol cannot do
    return session


def _keys_of_others(context: Aggregation) -> tuple[tuple[bytes, bytes], ...]:
    """Verify and sealing key of the parties 1 and 2; until they are known they are asked again."""
    if context.others is None:
        raise Refused(
            "aggregation.secure",
            "mpc3 needs two more parties, and this service was started without",
            "start three parties, or take another protocol",
        )
    if context.others.keys is None:
        context.beside(context.others.ask_for_keys())
    return context.others.known_keys()


async def _committee(
    event: SessionRequested, unit: UnitOfWork, context: Aggregation
) -> tuple[HolderKey, ...]:
    """The dedicated key holders that the job names, or those of the cohort whose sealing key came along."""
    if event.plan.committee:
        found = [await unit.find(KeyHolder, name) for name in event.plan.committee]
        missing = [name for name, known in zip(event.plan.committee, found, strict=True) if known is None]
        if missing:
            raise Unavailable(f"the key holder {missing[0]} has not come yet")
        return tuple(known.holder for known in found if known is not None)
    chosen = sorted(name for name, member in event.members.items() if member.sealing_key)
    return tuple(
        HolderKey(
            holder_id=name,
            verify_key=event.members[name].verify_key,
            sealing_key=event.members[name].sealing_key,
            sealing_signature=event.members[name].sealing_signature,
        )
        for name in chosen
    )
