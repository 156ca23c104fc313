"""Protocol `mpc3` at party 0: it takes in its shares, and then drives the other two through the opening."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from functools import partial

import numpy as np
from numpy.typing import NDArray

from services.secure_aggregation.parties.asking import Asking
from services.secure_aggregation.parties.link import Links
from services.secure_aggregation.parties.others import OTHERS
from services.secure_aggregation.parties.side import SECRETS, Side
from services.secure_aggregation.protocols.base import (
    TRUSTED,
    Failed,
    Keys,
    Running,
    Step,
    Summed,
    Talk,
)
from services.secure_aggregation.protocols.weighing import Survivors, Weighed, fewer_hostile, weigh
from services.secure_aggregation.state import FAILED, SUMMED, UPLOAD, Session
from shared.core.secagg.encoding import decode_sum
from shared.core.secagg.mpc3.opening import Aggregate
from shared.errors import FedloraError, Stale, Unavailable
from shared.ports import Telemetry
from shared.sessions.terms import SessionTerms, encoding_of, mpc3_terms

PARTIES, OPENING = "parties", "opening"
FIRST_RETRY_S, LONGEST_RETRY_S = 0.1, 2.0
RULE = "mpc3-rule"  # what the key of a rule that draws is for
TOO_LONG = "its update is too long for its job's bound"


class Shared(Running):
    """The sums of party 0's shares, and what the other parties said.

    Its stages after the upload: `parties`, in which all three compare whom they hold; and where a rule judges
    updates `opening`, which begins with the norm check. What is decided at the end of `parties` is the mark
    that the norm check has begun.
    """

    several = True

    def __init__(self, terms: SessionTerms, keys: Keys) -> None:
        super().__init__(terms, keys)
        agreed = mpc3_terms(terms)
        self._side = Side(agreed, 0, keys.signing, keys.repeatable(SECRETS, agreed.digest))
        self._asking = Asking(terms, self._side)
        self._opened = self._compared = self._began_check = False
        self._weighed: Weighed | None = None
        self._aggregate: Aggregate | None = None
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
        if session.stage == PARTIES and self._side.judging and self._compared:
            self._began_check = True
            return Step(OPENING, self._side.survivors)
        if self._aggregate is not None:
            return Step(SUMMED, outcome=self._summed(self._aggregate))
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

    def _summed(self, aggregate: Aggregate) -> Summed:
        values, encoding = aggregate.values.astype(np.float64), encoding_of(self.terms)
        if self._weighed is None:
            total = decode_sum(encoding, values).astype(np.float64)
            return Summed(total, tuple(sorted(aggregate.weights)))
        total = decode_sum(encoding, values * self._weighed.part).astype(np.float64)
        judgement = self._weighed.judgement
        return Summed(total, tuple(sorted(judgement.weights)), judgement=judgement)

    def talk(self, session: Session) -> Talk | None:
        """As `Running`."""
        if session.stage == UPLOAD:
            return None if self._opened else self._persistent(self._open, session)
        if self._failure or not set(session.decided[UPLOAD]) <= self.uploads | session.refused.keys():
            return None  # uploads are being delivered again
        if session.stage == PARTIES and not self._compared:
            return self._persistent(self._compare, session)
        if session.stage == OPENING and self._aggregate is None:
            return self._persistent(self._judge, session)
        return None

    async def farewell(self, links: Links) -> None:
        """As `Running`."""
        told = (_patiently(partial(self._asking.over, links, party)) for party in OTHERS)
        await asyncio.gather(*told, return_exceptions=True)  # one that is over there already is no trouble

    def _persistent(
        self, attempt: Callable[[Session, Links, Telemetry], Awaitable[None]], session: Session
    ) -> Talk:
        """Try until it works or can never work; whoever has waited long enough cancels it."""

        def trouble(error: Unavailable) -> None:
            self._trouble = str(error)

        async def talk(links: Links, telemetry: Telemetry) -> None:
            try:
                await _patiently(partial(attempt, session, links, telemetry), trouble)
            except FedloraError as error:
                self._failure = str(error)

        return talk

    async def _open(self, session: Session, links: Links, telemetry: Telemetry) -> None:
        await self._asking.open(links, session.deadline)
        self._opened = True

    async def _compare(self, session: Session, links: Links, telemetry: Telemetry) -> None:
        signatures = await self._agreed(session, links)
        if not self._side.judging:
            self._side.freeze(signatures)
            with telemetry.span("open sum", group_id=session.group_id):
                self._aggregate = await self._asking.sum(links, signatures, self._side.everyone())
        self._compared = True

    async def _agreed(self, session: Session, links: Links) -> dict[int, bytes]:
        await self._asking.open(links, session.deadline)
        patience_s = self.terms.plan.stage_s / 2
        signatures = await self._asking.agree(links, sorted(self.uploads), patience_s)
        self.faults = {**self._side.faults, **self._asking.refusals}
        return signatures

    async def _judge(self, session: Session, links: Links, telemetry: Telemetry) -> None:
        group_id = session.group_id
        signatures = await self._agreed(session, links)
        with telemetry.span("norm check", group_id=group_id):
            await self._asking.check(links, signatures, begun=not self._began_check)
        flagged = self._side.flagged or frozenset()
        self.faults = {**self.faults, **dict.fromkeys(flagged, TOO_LONG)}
        with telemetry.span("gram matrix", group_id=group_id):
            gram = await self._asking.gram(links)
        found = len(flagged | self._asking.refusals.keys() | session.refused.keys())
        with telemetry.span("weigh", group_id=group_id):
            self._weighed = await asyncio.to_thread(self._weigh, gram, found)
        with telemetry.span("open sum", group_id=group_id):
            self._aggregate = await self._asking.sum(links, signatures, self._weighed.selection)

    def _weigh(self, gram: NDArray[np.int64], found: int) -> Weighed:
        side, rule = self._side, self.terms.plan.rule
        survivors = Survivors(side.survivors, side.survivors_digest, side.members)
        self.require_root(survivors.members, self.faults)
        if rule.root:
            self.faults = {**self.faults, rule.root: TRUSTED}
        key = self.keys.secret(RULE, survivors.digest)
        in_units = gram.astype(np.float64) * encoding_of(self.terms).step ** 2
        choice = fewer_hostile(rule.core(), found)
        return weigh(in_units, survivors, choice, key, side.terms.largest_weight)


async def _patiently(
    attempt: Callable[[], Awaitable[None]], trouble: Callable[[Unavailable], None] = lambda error: None
) -> None:
    wait_s = FIRST_RETRY_S
    while True:
        try:
            return await attempt()
        except Unavailable as error:
            trouble(error)
        await asyncio.sleep(wait_s)
        wait_s = min(2 * wait_s, LONGEST_RETRY_S)
