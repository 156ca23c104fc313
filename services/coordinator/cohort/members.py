"""Who a round's sessions are asked for: keys and weights of each client."""

from services.coordinator.state import Client, Job, Seat
from shared.events.values import Member
from shared.job.plan import weight_of
from shared.ports import UnitOfWork


async def members_of(groups: dict[str, tuple[str, ...]], job: Job, unit: UnitOfWork) -> dict[str, Member]:
    """Everyone with a verify key; of each group, which is in a random order, as many as a committee has
    seats also with what is sealed to them."""
    known = await unit.find_all(Client, [(client,) for group in groups.values() for client in group])
    seated = [
        client for group in groups.values() for client in group[: job.specification.aggregation.committee]
    ]
    seats = {seat.client_id: seat for seat in await unit.find_all(Seat, [(job.job_id, c) for c in seated])}
    return {client.client_id: _member(client, seats.get(client.client_id), job) for client in known}


def _member(client: Client, seat: Seat | None, job: Job) -> Member:
    weight = weight_of(job.specification, job.records.get(client.client_id, 1))
    if seat is None:
        return Member(verify_key=client.verify_key, weight=weight)
    return Member(
        verify_key=client.verify_key,
        weight=weight,
        sealing_key=seat.sealing_key,
        sealing_signature=seat.sealing_signature,
    )
