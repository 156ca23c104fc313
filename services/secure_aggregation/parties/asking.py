"""What party 0 asks the other two, step by step; each step may be repeated."""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.secure_aggregation.parties.link import Links
from services.secure_aggregation.parties.others import OTHERS
from services.secure_aggregation.parties.side import Side, of_three
from shared.core.secagg.mpc3.opening import Aggregate
from shared.core.secagg.mpc3.selection import Selection
from shared.errors import Rejected
from shared.sessions.terms import SessionTerms

Bytes = dict[int, bytes]


class Asking:
    """One session.

    Args:
        terms: of it.
        side: party 0's own.
    """

    def __init__(self, terms: SessionTerms, side: Side) -> None:
        self.terms, self.side = terms, side
        self.refusals: dict[str, str] = {}  # of uploads, by client: which party refused it, and why

    async def open(self, links: Links, deadline: datetime) -> None:
        """Give both the terms, and agree on secrets where there are any."""
        body = {"terms": self.terms.to_bytes(), "deadline": deadline}
        commitments = await self._both(links, "open", body)
        if not self.side.judging:
            return
        commitments[0] = self.side.setup.commitment
        bodies = {
            party: {"commitments": commitments, "opening": self.side.setup.opening(party, commitments)}
            for party in OTHERS
        }
        openings = await self._each(links, "secrets", bodies)
        self._refuse(0, self.side.enter(of_three(commitments, "commitments"), openings))

    async def agree(self, links: Links, clients: list[str], patience_s: float) -> Bytes:
        """Close, and compute the survivors of these clients; the signatures of all three over them."""
        own = self.side.close()
        closed = await self._both(links, "close", {"clients": clients, "wait_s": patience_s}, patience_s)
        for party, answer in closed.items():
            self._refuse(party, answer["refused"])
        self.side.agree({party: answer["holdings"] for party, answer in closed.items()})
        signatures: Bytes = await self._both(links, "agree", {"holdings": own})
        return signatures | {0: self.side.sign_survivors()}

    async def check(self, links: Links, signatures: Bytes, *, begun: bool) -> None:
        """Check norms, once; party 0 after a crash takes the result from both others.

        Args:
            links: to them.
            signatures: over the survivors.
            begun: whether it was begun before a crash.

        Raises: Rejected when a party lost its memory on the way.
        """
        self.side.freeze(signatures)
        found = await self._both(links, "check", {"signatures": signatures})
        if self.side.flagged is not None:
            return
        if begun and self.side.layers is None:
            if found[1] is None or found[1] != found[2]:
                raise Rejected("party 0 lost its memory during the norm check, which is done once")
            self.side.recall(found[1])
            return
        layers, step = self.side.begin_check(), 0
        while not layers.done or step < layers.heard:
            _, message = await asyncio.gather(
                self._ask(links, 2, "layer", {"step": step, "message": layers.say(step)}),
                self._ask(links, 1, "layer", {"step": step}),
            )
            layers.hear(step, message)
            step += 1
        await self._ask(links, 1, "layer", {"step": step})
        bodies = {party: {"bits": layers.verdict_for(party)} for party in OTHERS}
        self.side.conclude(await self._each(links, "verdict", bodies))

    async def gram(self, links: Links) -> NDArray[np.int64]:
        """The Gram matrix of the members' sketches, which party 0 alone sees."""
        given = await self._both(links, "gram", {})
        return await asyncio.to_thread(self.side.open_gram, given)

    async def sum(self, links: Links, signatures: Bytes, selection: Selection) -> Aggregate:
        """Sign one selection, all three, and open its sum."""
        body = {"signatures": signatures, "selection": selection.to_bytes()}
        own, chosen = await asyncio.gather(
            asyncio.to_thread(self.side.choose, selection), self._both(links, "choose", body)
        )
        chosen[0] = own
        releases = await self._both(links, "release", {"signatures": chosen})
        return await asyncio.to_thread(self.side.open, chosen, releases)

    async def over(self, links: Links, party: int) -> None:
        """Tell one party that the session is over."""
        await self._ask(links, party, "over", {})

    def _refuse(self, party: int, refused: Mapping[str, str]) -> None:
        for client, reason in refused.items():
            self.refusals.setdefault(client, f"party {party} refused it: {reason}")

    async def _ask(
        self, links: Links, party: int, kind: str, body: Mapping[str, Any], wait_s: float = 0.0
    ) -> Any:  # noqa: ANN401 - msgpack
        session = [self.terms.job_id, self.terms.round_id, self.terms.group_id]
        return await links.ask(party, kind, {"session": session, **body}, wait_s)

    async def _both(
        self, links: Links, kind: str, body: Mapping[str, Any], wait_s: float = 0.0
    ) -> dict[int, Any]:
        return await self._each(links, kind, dict.fromkeys(OTHERS, body), wait_s)

    async def _each(
        self, links: Links, kind: str, bodies: Mapping[int, Mapping[str, Any]], wait_s: float = 0.0
    ) -> dict[int, Any]:
        asked = (self._ask(links, party, kind, body, wait_s) for party, body in bodies.items())
        return dict(zip(bodies, await asyncio.gather(*asked), strict=True))
