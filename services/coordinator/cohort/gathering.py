"""Who takes part in a job, as clients answer: pure decisions."""

from collections import Counter
from datetime import datetime

from services.coordinator.state import Client, Job
from shared.core.privacy.limits import UNRAISED
from shared.errors import Rejected
from shared.events import ClientJoined, ClientReady
from shared.job.plan import clients_asked
from shared.job.refusals import refusals


def registered(client: Client | None, event: ClientJoined, now: datetime) -> Client:
    """The client after joining. Raises: Rejected when it comes with another key than before."""
    if client is not None and client.verify_key != event.verify_key:
        raise Rejected(f"{event.client_id} is registered with another verify key; a person must remove it")
    return Client(client_id=event.client_id, verify_key=event.verify_key, joined_at=now)


def with_ready(
    job: Job, event: ClientReady, delta_times_records: float = UNRAISED["delta-times-records"]
) -> Job:
    """The job once a client has said that it can take part; delta times its records is limited."""
    digest, client = event.layout.sha256, event.client_id
    left_out = {name: reason for name, reason in job.left_out.items() if name != client}
    ranks = {name: rank for name, rank in job.ranks.items() if name != client}
    if event.rank is not None and job.specification.lora.mixed_ranks:
        ranks[client] = event.rank
    reasons = [str(refusal) for refusal in refusals(job.specification, event.records, delta_times_records)]
    if reasons:
        left_out[client] = reasons[0]
    elif event.rank is not None and not job.specification.lora.mixed_ranks:
        left_out[client] = f"it trains rank {event.rank}, and the job has one rank for all"
    elif job.layout is not None and digest != job.layout.sha256:
        left_out[client] = "its adapter layout differs from the job's"
    return job.replace(
        ready={**job.ready, client: digest},
        layouts={**job.layouts, digest: event.layout},
        records={**job.records, client: event.records},
        ranks=ranks,
        left_out=left_out,
    )


def with_declined(job: Job, client_id: str, reason: str) -> Job:
    """The job once a client has said that it takes no part."""
    return job.replace(
        ready={name: digest for name, digest in job.ready.items() if name != client_id},
        left_out={**job.left_out, client_id: reason},
    )


def agreed(job: Job) -> Job:
    """Fix the layout that a strict majority of the ready clients share, and leave the others out.

    Returns the job as it is when there is no such majority.
    """
    if job.layout is not None:
        return job
    counts = Counter(job.ready[client] for client in job.candidates)
    if not counts:
        return job
    digest, count = counts.most_common(1)[0]
    if 2 * count <= counts.total():
        return job
    others = {client for client in job.candidates if job.ready[client] != digest}
    reasons = dict.fromkeys(others, "its adapter layout differs from the majority's")
    return job.replace(layout=job.layouts[digest], layouts={}, left_out={**job.left_out, **reasons})


def hopeless(job: Job) -> str:
    """Why the job cannot begin: of those it was announced to, too many take no part. Empty otherwise.

    A job that waits for clients who have not joined yet is not hopeless; one that clients have
    turned down is, and its operator should know why rather than wait.
    """
    willing = [client_id for client_id in job.announced if client_id not in job.left_out]
    wanted = job.specification.rounds.min_clients
    asked = len(job.announced)
    if job.phase != "gathering" or not job.left_out or asked < wanted or len(willing) >= wanted:
        return ""
    reasons = "; ".join(f"{client_id}: {why}" for client_id, why in sorted(job.left_out.items())[:5])
    return f"{len(willing)} of {asked} clients can take part, {wanted} are needed ({reasons})"


def gathered(job: Job, now: datetime, everyone: bool = False) -> bool:
    """Whether round 1 need not wait for more clients to answer; presence is another question.

    Args:
        job: with the answers so far.
        now: the time of the event.
        everyone: a round that asks a few waits for all answers, too: else whoever answers first is asked.
    """
    rounds = job.specification.rounds
    if len(job.candidates) < rounds.min_clients:
        return False
    if (now - job.accepted_at).total_seconds() >= rounds.gather_s:
        return True
    asked = clients_asked(job.specification)
    if not everyone and asked is not None and len(job.candidates) >= asked:
        return True
    return set(job.announced) <= {*job.ready, *job.left_out}
