"""What the coordinator must know of limits: how far delta may go before it leaves a client out.

The accountant decides anew at each request; this spares a job that cannot be paid for its rounds.
"""

from typing import ClassVar

from services.coordinator.context import Coordination
from shared.core.privacy.limits import UNRAISED, LimitName
from shared.errors import Stale
from shared.events import LimitRaised
from shared.ports import State, UnitOfWork

DELTA_TIMES_RECORDS: LimitName = "delta-times-records"


class RaisedDelta(State):
    """An administrator's limit on delta times declared records; `client_id` is empty for everyone's."""

    kind: ClassVar[str] = "raised-delta"
    client_id: str
    value: float

    @property
    def key(self) -> tuple[str, ...]:
        """Whose."""
        return (self.client_id or "*",)


async def on_limit_raised(event: LimitRaised, unit: UnitOfWork, context: Coordination) -> None:
    """Remember it for clients that answer from now on."""
    if event.limit != DELTA_TIMES_RECORDS:
        raise Stale("the accountant's affair")
    raised = RaisedDelta(client_id=event.client_id or "", value=event.value)
    known = await unit.find(RaisedDelta, *raised.key)
    if known is not None and known.value >= raised.value:
        raise Stale(f"it is {known.value:g} already")
    await unit.save(raised)


async def largest_delta_times_records(client_id: str, unit: UnitOfWork) -> float:
    """The larger of everyone's and the client's own: a lower one of its own is the accountant's to apply."""
    raised = [one.value for one in await unit.select(RaisedDelta) if one.client_id in ("", client_id)]
    return max([UNRAISED[DELTA_TIMES_RECORDS], *raised])
