"""How reliably and how fast a client answers, over all its rounds: what selection may go by."""

from collections.abc import Collection, Mapping
from typing import ClassVar, Self

from shared.ports import State, UnitOfWork

MEMORY = 0.8  # of the seconds so far, in the next round's


class Pace(State):
    """One client, in all jobs.

    Attributes:
        asked: rounds that it was started for.
        finished: of those, rounds that its complete upload came in.
        seconds: from a session's opening to its complete upload, smoothed; None before the first.
    """

    kind: ClassVar[str] = "pace"

    client_id: str
    asked: int = 0
    finished: int = 0
    seconds: float | None = None

    @property
    def key(self) -> tuple[str, ...]:
        """The client."""
        return (self.client_id,)

    @property
    def availability(self) -> float:
        """Share of its rounds that it finishes: the mean after a uniform prior, 1/2 before the first."""
        return (self.finished + 1) / (self.asked + 2)

    def after(self, seconds: float | None) -> Self:
        """One more round, with an upload after `seconds`, or without."""
        if seconds is None:
            return self.replace(asked=self.asked + 1)
        known = seconds if self.seconds is None else MEMORY * self.seconds + (1 - MEMORY) * seconds
        return self.replace(asked=self.asked + 1, finished=self.finished + 1, seconds=known)


async def paces_of(clients: Collection[str], unit: UnitOfWork) -> dict[str, Pace]:
    """Those that are known; a client without a round is as it begins."""
    found = await unit.find_all(Pace, [(client,) for client in clients])
    known = {pace.client_id: pace for pace in found}
    return {client: known.get(client) or Pace(client_id=client) for client in clients}


async def remember(asked: Collection[str], seconds: Mapping[str, float], unit: UnitOfWork) -> None:
    """A round is over: who was asked, and after how long the uploads came that did."""
    for client, pace in (await paces_of(asked, unit)).items():
        await unit.save(pace.after(seconds.get(client)))
