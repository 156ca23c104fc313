"""What a session says to others: its result, and what its participants need for the next stage."""

import numpy as np
import structlog

from services.secure_aggregation.context import Aggregation, Gathered
from services.secure_aggregation.protocols.base import Message, Summed
from services.secure_aggregation.state import Session
from shared.events import GroupSummed, StageBegun
from shared.events.judgements import Finding, LeftOut
from shared.ports import UnitOfWork
from shared.sessions.judging import findings_of, left_out_by_rule

log = structlog.get_logger()


async def publish_sum(
    session: Session, summed: Summed, gathered: Gathered, unit: UnitOfWork, context: Aggregation
) -> None:
    """Publish a session's result."""
    members = gathered.running.terms.members
    for participant, reason in summed.named.items():
        log.warning("sent something wrong", participant=participant, reason=reason, group_id=session.group_id)
    with context.telemetry.span("store sum", group_id=session.group_id):
        total = await context.blobs.put(np.asarray(summed.total, "<f8").tobytes())
        kept = None if summed.updates is None else np.asarray(summed.updates, "<f4").tobytes()
        updates = None if kept is None else await context.blobs.put(kept)
    rule, judgement = gathered.running.terms.plan.rule, summed.judgement
    weights = {client: members[client].weight for client in summed.members}
    findings: tuple[Finding, ...] = ()
    out = left_out(session, gathered, summed.members)
    if judgement is not None:
        weights = dict(judgement.weights)
        findings = findings_of(weights, judgement.reasons)
        judged = tuple(left_out_by_rule(rule.name, weights, findings))
        out = (*(item for item in out if item.client_id not in weights), *judged)
    unit.publish(
        GroupSummed(
            job_id=session.job_id,
            round_id=session.round_id,
            group_id=session.group_id,
            groups=session.groups,
            total=total,
            weights=weights,
            rule=rule,
            judged=judgement is not None,
            findings=findings,
            named=dict(summed.named),
            seconds=dict(gathered.seconds),
            left_out=out,
            updates=updates,
            uploaded_bytes=gathered.received_bytes,
        )
    )


def left_out(session: Session, gathered: Gathered, members: tuple[str, ...]) -> tuple[LeftOut, ...]:
    """Members without influence on the sum, ordered by name, each with the reason."""
    wrong = {**session.refused, **gathered.refused, **gathered.running.faults}
    reasons = {**session.declined, **wrong}
    root = gathered.running.terms.plan.rule.root
    why_missing = gathered.running.why_missing
    return tuple(
        LeftOut(
            client_id=client,
            reason=(reasons.get(client) or why_missing(client, early=session.early))[:2000],
            sent_wrong=client in wrong and client != root,
        )
        for client in sorted(gathered.running.terms.members)
        if client not in members
    )


def tell(messages: tuple[Message, ...], session: Session, unit: UnitOfWork) -> None:
    """Publish what participants are told."""
    for message in messages:
        unit.publish(
            StageBegun(
                client_id=message.recipient,
                job_id=session.job_id,
                round_id=session.round_id,
                group_id=session.group_id,
                terms=session.terms,
                stage=message.stage,
                payload=message.payload,
            )
        )
