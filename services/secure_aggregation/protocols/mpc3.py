"""Protocol `mpc3` at party 0: it takes in its shares, and then drives the other two through the opening."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime
from typing import Any

import numpy as np

from services.secure_aggregation.parties.link import Links
from services.secure_aggregation.parties.others import OTHERS
from services.secure_aggregation.parties.side import Side
from services.secure_aggregation.protocols.base import UPLOAD, Failed, Keys, Running, Step, Summed
from services.secure_aggregation.state import FAILED, SUMMED, Session
from shared.core.secagg.encoding import decode_sum
from shared.core.secagg.mpc3.opening import Aggregate
from shared.errors import FedloraError, Stale, Unavailable
from shared.sessions.terms import SessionTerms, encoding_of, mpc3_terms

PARTIES = "parties"
FIRST_RETRY_S, LONGEST_RETRY_S = 0.1, 2.0


class Shared(Running):
    """The sums of party 0's shares, and what the other parties said."""

    several = True

    def __init__(self, terms: SessionTerms, keys: Keys) -> None:
        super().__init__(terms, keys)
        self._side = Side(mpc3_terms(terms), 0, keys.signing)
        self._opened = False
        self._aggregate: Aggregate | None = None
        self._refusals: dict[str, str] = {}
        self._trouble, self._failure = "", ""

    @property
    def upload_bytes(self) -> int:
        """As `Running`."""
        return self._side.upload_bytes

    def take_upload(self, session: Session, client: str, content: bytes) -> None:
        """As `Running`."""
        if UPLOAD in session.decided and client not in session.decided[UPLOAD]:
            raise Stale("the parties were told who is in")
        self._side.take(client, content)
        self.uploads.add(client)

    def enough(self, session: Session, *, waited: bool) -> bool | None:
        """As `Running`; no more is waited for once another party has said no."""
        return False if self._failure else super().enough(session, waited=waited)

    def step(self, session: Session, relayed: Collection[str], *, waited: bool) -> Step | None:
        """As `Running`."""
        if self._failure:
            return Step(FAILED, outcome=Failed(self._failure))
        if session.stage == UPLOAD:
            return self._after_uploads(session, waited=waited)
        if self._aggregate is not None:
            values = self._aggregate.values.astype(np.float64)
            total = decode_sum(encoding_of(self.terms), values).astype(np.float64)
            return Step(SUMMED, outcome=Summed(total, tuple(sorted(self._aggregate.weights))))
        if waited:
            trouble = self._trouble or "no answer yet"
            return Step(FAILED, outcome=Failed(f"the three parties did not finish in time: {trouble}"))
        return None

    def _after_uploads(self, session: Session, *, waited: bool) -> Step | None:
        match self.enough(session, waited=waited):
            case None:
                return None
            case False:
                return Step(FAILED, outcome=self.too_few())
            case _:
                return Step(PARTIES, tuple(sorted(self.uploads)))

    def talk(self, session: Session) -> Callable[[Links], Awaitable[None]] | None:
        """As `Running`."""
        if session.stage == UPLOAD and not self._opened:
            return lambda links: self._persist(lambda: self._open(links, session.deadline))
        if session.stage == PARTIES and self.uploads == set(session.decided[UPLOAD]):
            if self._aggregate is None:
                return lambda links: self._persist(lambda: self._finish(links, session.deadline))
        return None

    async def farewell(self, links: Links) -> None:
        """As `Running`."""
        await asyncio.gather(*(self._persist_over(links, party) for party in OTHERS))

    async def _persist(self, attempt: Callable[[], Awaitable[None]]) -> None:
        """Try until it works or can never work; whoever has waited long enough cancels it."""
        wait_s = FIRST_RETRY_S
        while True:
            try:
                return await attempt()
            except Unavailable as error:
                self._trouble = str(error)
            except FedloraError as error:
                self._failure = str(error)
                return None
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_RETRY_S)

    async def _open(self, links: Links, deadline: datetime) -> None:
        body = {"terms": self.terms.to_bytes(), "deadline": deadline}
        await self._ask_both(links, "open", body)
        self._opened = True

    async def _finish(self, links: Links, deadline: datetime) -> None:
        await self._open(links, deadline)
        patience_s = self.terms.plan.stage_s / 2
        own = self._side.close()
        body = {"clients": sorted(self.uploads), "wait_s": patience_s}
        closed = await self._ask_both(links, "close", self._named(body), patience_s)
        for party, answer in closed.items():
            for client, reason in answer["refused"].items():
                self._refusals.setdefault(client, f"party {party} refused it: {reason}")
        self._side.agree({party: answer["holdings"] for party, answer in closed.items()})
        self.faults = {**self._side.faults, **self._refusals}
        agreed = await self._ask_both(links, "agree", self._named({"holdings": own}))
        agreed[0] = self._side.sign_survivors()
        chosen = await self._ask_both(links, "choose", self._named({"signatures": agreed}))
        chosen[0] = await asyncio.to_thread(self._side.choose, agreed)
        releases = await self._ask_both(links, "release", self._named({"signatures": chosen}))
        self._aggregate = await asyncio.to_thread(self._side.open, chosen, releases)

    async def _persist_over(self, links: Links, party: int) -> None:
        wait_s = FIRST_RETRY_S
        while True:
            try:
                await links.ask(party, "over", self._named({}))
            except Unavailable:
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, LONGEST_RETRY_S)
            except FedloraError:
                return
            else:
                return

    def _named(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"session": [self.terms.job_id, self.terms.round_id, self.terms.group_id], **body}

    async def _ask_both(
        self, links: Links, kind: str, body: dict[str, Any], wait_s: float = 0.0
    ) -> dict[int, Any]:
        answers = await asyncio.gather(*(links.ask(party, kind, body, wait_s) for party in OTHERS))
        return dict(zip(OTHERS, answers, strict=True))
