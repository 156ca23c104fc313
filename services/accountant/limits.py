"""The ceilings in force, and the append-only log of who set them and why."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from services.accountant.context import Accounting
from services.accountant.settings import AccountantSettings
from services.accountant.state import Denied, Limits, Terms
from shared.core.privacy.limits import LimitName
from shared.errors import Stale
from shared.events import LimitRaised
from shared.events.ids import ClientId
from shared.ports import State, UnitOfWork

AUDIT = "audit"
CONFIGURATION = "configuration"
ROUNDING = 1e-9  # relative, on delta times records


class Ceiling(State):
    """One limit in force.

    Attributes:
        client_id: whose; empty for everyone without one of their own.
        configured: what the environment said when it last set or confirmed it; None where it says nothing.
        sequence: of the log's entry that set it.
    """

    kind: ClassVar[str] = "ceiling"
    limit: LimitName
    client_id: str
    value: float
    configured: float | None
    sequence: int

    @property
    def key(self) -> tuple[str, ...]:
        """The limit, and whose."""
        return (self.limit, self.client_id) if self.client_id else (self.limit,)


class Ceilings:
    """Every limit in force."""

    def __init__(
        self, configured: Mapping[tuple[LimitName, str], float], changed: Iterable[Ceiling] = ()
    ) -> None:
        self._values = {**configured, **{(one.limit, one.client_id): one.value for one in changed}}

    def own(self, limit: LimitName, client_id: ClientId) -> float | None:
        """The client's own, if it has one."""
        return self._values.get((limit, client_id))

    def of(self, limit: LimitName, client_id: ClientId = "") -> float:
        """The client's own, or everyone's."""
        own = self.own(limit, client_id)
        return self._values[limit, ""] if own is None else own


async def ceilings(unit: UnitOfWork, settings: AccountantSettings) -> Ceilings:
    """Those in force at this moment; a later raise changes nothing that was decided by them."""
    return Ceilings(settings.limits, await unit.select(Ceiling))


def bounds(
    terms: Terms, client_id: ClientId, records: int | None, held: Ceilings, allowed: float | None = None
) -> Limits | Denied:
    """What one client may spend under the job's terms.

    A client's own epsilon and delta may be lower than the job's: they hold in their place, as does the
    epsilon that its owner allowed in this job. With its
    declared count n of records, where that is known, delta <= 1/(10 n) unless an administrator raised it.
    """
    own_epsilon, own_delta = held.own("epsilon", client_id), held.own("delta", client_id)
    epsilon = min(one for one in (terms.epsilon, own_epsilon, allowed) if one is not None)
    delta = terms.delta if own_delta is None else min(terms.delta, own_delta)
    if epsilon > held.of("epsilon", client_id) or delta > held.of("delta", client_id):
        return Denied(
            f"epsilon {terms.epsilon:g} at delta {terms.delta:g} is over this federation's limit of "
            f"{held.of('epsilon'):g} at {held.of('delta'):g}"
        )
    client_delta = held.of("delta", client_id)
    if records:
        product = held.of("delta-times-records", client_id)
        largest = product / records
        if delta > largest * (1 + ROUNDING):
            return Denied(
                f"delta {delta:g} is over 1 / ({1 / product:g} x {records} declared records) = {largest:.2g}"
            )
        client_delta = min(client_delta, largest)
    return Limits(epsilon, delta, held.of("client-epsilon", client_id), client_delta)


async def on_limit_raised(event: LimitRaised, unit: UnitOfWork, context: Accounting) -> None:
    """Log who raised what and why; it holds for later reservations.

    Raises: Stale when the limit is not below that already.
    """
    client_id, settings = event.client_id or "", context.settings
    everyones = await unit.find(Ceiling, event.limit)  # the lock: one raise of a limit at a time
    known = await unit.find(Ceiling, event.limit, client_id) if client_id else everyones
    old = (await ceilings(unit, settings)).of(event.limit, client_id)
    if event.value <= old:
        raise Stale(f"{event.limit} is {old:g} already")
    configured = known.configured if known else settings.limits.get((event.limit, client_id))
    sequence = await _log(
        _Change(event.limit, client_id, old, event.value, event.raised_by, event.reason), unit
    )
    await unit.save(
        Ceiling(
            limit=event.limit,
            client_id=client_id,
            value=event.value,
            configured=configured,
            sequence=sequence,
        )
    )


async def record_configuration(unit: UnitOfWork, settings: AccountantSettings) -> None:
    """Log what the environment sets anew; what was raised stays until the environment changes."""
    wanted = settings.limits
    found = [
        (one, await unit.find(Ceiling, *((one[0], one[1]) if one[1] else (one[0],))))
        for one in sorted(wanted)
    ]
    for (limit, client_id), known in found:
        value = wanted[limit, client_id]
        if known is not None and known.configured == value:
            continue
        old = known.value if known else None
        sequence = await _log(
            _Change(limit, client_id, old, value, CONFIGURATION, "set by the environment"), unit
        )
        await unit.save(
            Ceiling(limit=limit, client_id=client_id, value=value, configured=value, sequence=sequence)
        )
    for one in await unit.select(Ceiling):
        if one.configured is not None and (one.limit, one.client_id) not in wanted:
            gone = _Change(
                one.limit, one.client_id, one.value, None, CONFIGURATION, "no longer set by the environment"
            )
            await _log(gone, unit)
            await unit.delete(one)


@dataclass(frozen=True)
class _Change:
    """What an entry of the log says, but for the time."""

    limit: LimitName
    client: str
    old: float | None
    new: float | None
    by: str
    reason: str


async def _log(change: _Change, unit: UnitOfWork) -> int:
    entry = await unit.append(AUDIT, {**vars(change), "at": unit.now.isoformat()})
    return entry.sequence
