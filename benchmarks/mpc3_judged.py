"""From the last upload to a judged sum, at three parties: `python benchmarks/mpc3_judged.py`.

All three in one process: requests over TLS on loopback, rows in SQLite on disk, d = 100,000, one BLAS thread.
Uploads are in the sums before the clock starts. A fifth of the clients sends five times the negative.
`multi-krum` leaves those out; `geometric-median` weighs all, so that nearly every upload is added again.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import asyncio
import hashlib
import socket
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from services.secure_aggregation.parties.asking import Asking
from services.secure_aggregation.parties.certificates import make_identities
from services.secure_aggregation.parties.context import Custody, Work, public_keys
from services.secure_aggregation.parties.link import Links, serving
from services.secure_aggregation.parties.requests import serve
from services.secure_aggregation.parties.side import SECRETS, Side
from services.secure_aggregation.protocols.base import Keys
from services.secure_aggregation.protocols.weighing import Survivors, Weighed, weigh
from shared.adapters.database import DatabaseUnits, open_units
from shared.core.secagg.mpc3.client import share
from shared.core.secagg.mpc3.terms import PARTIES
from shared.core.secagg.sealing import SealingKey
from shared.events.plans import RulePlan, SessionPlan
from shared.events.values import Member
from shared.sessions.terms import SessionTerms, encoding_of, mpc3_terms

DIMENSION, REPEATS = 100_000, 5
COHORTS, RULES = (30, 200), ("multi-krum", "geometric-median")
Answer = TypeVar("Answer")


async def transact(units: DatabaseUnits, work: Work) -> None:
    """Do the work in one transaction."""
    async with units.begin() as unit:
        await work(unit)


class Now:
    """The real clock."""

    def now(self) -> datetime:
        """In UTC."""
        return datetime.now(UTC)


def keys_of(name: str) -> Keys:
    """Of a party or client."""
    seed = hashlib.shake_256(name.encode()).digest(128)
    return Keys(SealingKey.from_bytes(seed[:96]), Ed25519PrivateKey.from_private_bytes(seed[96:]))


def terms_for(clients: int, rule: str, number: int) -> SessionTerms:
    """A session of that many clients; another one for each number."""
    names = [f"client-{i:04}" for i in range(clients)]
    members = {name: Member(verify_key=public_keys(keys_of(name))[0]) for name in names}
    keys = [public_keys(keys_of(f"party {party}")) for party in range(PARTIES)]
    judged = RulePlan(name=rule, malicious=clients // 5, single=True)
    plan = SessionPlan(
        protocol="mpc3", bits=16, bound=1.0, rotate=False, selected=clients // 2, fewest=clients, rule=judged
    )
    return SessionTerms(
        job_id="job",
        round_id=f"job-r{number}",
        group_id=f"job-r{number}-g1",
        plan=plan,
        members=members,
        dimension=DIMENSION,
        layout_sha256="0" * 64,
        aggregation_keys=tuple(sealing for _, sealing in keys),
        server_key=keys[0][0],
        public_seed=number.to_bytes(32, "big"),
        party_keys=tuple(verify for verify, _ in keys),
    )


@asynccontextmanager
async def two_parties(folder: Path) -> AsyncIterator[tuple[Links, dict[int, Custody]]]:
    """Parties 1 and 2 at work, and party 0's links to them."""
    identities = make_identities(folder, datetime.now(UTC))
    bound = {party: socket.create_server(("127.0.0.1", 0)) for party in (1, 2)}
    addresses = {party: one.getsockname() for party, one in bound.items()}
    async with AsyncExitStack() as stack:
        custody = {}
        for party in (1, 2):
            links = Links(identities[party], {PARTIES - party: addresses[PARTIES - party]})
            units = await open_units(f"sqlite:///{folder}/{party}.sqlite", f"party-{party}", Now(), str)
            stack.push_async_callback(units.close)
            await stack.enter_async_context(aclosing(links))
            made = Custody(party, keys_of(f"party {party}"), links, partial(transact, units))
            answer = partial(serve, made)
            await stack.enter_async_context(serving(party, identities[party], bound[party], answer))
            custody[party] = made
        yield await stack.enter_async_context(aclosing(Links(identities[0], addresses))), custody


def updates(clients: int) -> NDArray[np.int32]:
    """Honest ones resemble each other; the first fifth is five times the negative."""
    rng = np.random.default_rng(7)
    rows = 100 * rng.normal(size=DIMENSION) + 100 * rng.normal(size=(clients, DIMENSION))
    rows[: clients // 5] *= -5
    return np.rint(rows).astype(np.int32)


async def session(
    links: Links,
    custody: dict[int, Custody],
    terms: SessionTerms,
    rows: NDArray[np.int32],
    ms: dict[str, list[float]],
) -> None:
    """One session; milliseconds by step go to `ms`."""
    agreed, keys = mpc3_terms(terms), keys_of("party 0")
    side = Side(agreed, 0, keys.signing, keys.repeatable(SECRETS, agreed.digest))
    asking = Asking(terms, side)
    await asking.open(links, datetime.now(UTC) + timedelta(hours=1))
    sides = [side, *(next(iter(custody[party].places.values())).side for party in (1, 2))]
    for client, row in zip(sorted(terms.members), rows, strict=True):
        signing = keys_of(client).signing
        for one, content in zip(sides, share(row, agreed, client, signing, os.urandom), strict=True):
            one.take(client, content)

    async def timed(step: str, task: Awaitable[Answer]) -> Answer:
        begun = time.perf_counter()
        answer = await task
        ms.setdefault(step, []).append((time.perf_counter() - begun) * 1e3)
        return answer

    def judge() -> Weighed:
        survivors = Survivors(side.survivors, side.survivors_digest, side.members)
        in_units = gram.astype(np.float64) * encoding_of(terms).step ** 2
        return weigh(in_units, survivors, terms.plan.rule.core(), bytes(32), agreed.largest_weight)

    signatures = await timed("compare", asking.agree(links, list(terms.members), 0))
    await timed("norm check", asking.check(links, signatures, begun=False))
    gram = await timed("gram matrix", asking.gram(links))
    weighed = await timed("weigh", asyncio.to_thread(judge))
    aggregate = await timed("sign and open", asking.sum(links, signatures, weighed.selection))
    if not (aggregate.values == np.array(weighed.selection.weights) @ rows.astype(np.int64)).all():
        raise SystemExit("the opened sum is another")
    for party in (1, 2):
        await asking.over(links, party)


async def main() -> None:
    """Print the median of each step, and of their sum."""
    for clients in COHORTS:
        rows = updates(clients)
        for rule in RULES:
            ms: dict[str, list[float]] = {}
            with tempfile.TemporaryDirectory() as folder:
                async with two_parties(Path(folder)) as (links, custody):
                    for number in range(REPEATS):
                        await session(links, custody, terms_for(clients, rule, number), rows, ms)
            steps = ", ".join(f"{step} {statistics.median(each):.0f}" for step, each in ms.items())
            total = statistics.median(sum(each) for each in zip(*ms.values(), strict=True))
            print(f"n = {clients}, {rule}: {total:.0f} ms ({steps})", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
