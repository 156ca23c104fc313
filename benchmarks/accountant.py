"""How long the accountant computes to decide for a cohort: `python benchmarks/accountant.py`.

1000 clients, each with up to 1000 past rounds; CPU time of the decisions alone (PLD and RDP), no database.
`at once` is `decide_all` of the cohort, as the accountant does; `one by one` of each client. `cold`
knows no figure and no step, as after a restart; `next round` knows what the round before left. The best of
three. Then whole requests of a new job's first rounds, over a database.
"""

import asyncio
import random
import tempfile
import time

import structlog

from services.accountant.state import Asking, Granted, Limits, Spending, decide_all
from shared.core.privacy import Mechanism, accountants, composed
from shared.core.privacy.accountants import losses, renyi
from shared.events.values import PoissonSampled
from tests.accountant_at_work import Accountant, request
from tests.servers import postgres

CLIENTS, PAST_ROUNDS, STEPS = 1_000, 1_000, 8
ASKED = PoissonSampled(sampling_rate=0.001, noise_multiplier=1.0, steps=STEPS)
LIMITS = Limits(epsilon=10, delta=1e-5, client_epsilon=10, client_delta=1e-5)
SEED, REPEATS = 7, 3


def by_length(distinct: int) -> list[Spending]:
    """The clients took part in one job, and ran one of `distinct` numbers of steps."""
    draw = random.Random(SEED)
    counts = draw.sample(range(1, PAST_ROUNDS * STEPS + 1), distinct)
    return [
        Spending(mechanisms=(ASKED.model_copy(update={"steps": counts[i % distinct]}),))
        for i in range(CLIENTS)
    ]


def by_jobs(distinct: int) -> list[Spending]:
    """Each took part in four of ten jobs of their own rate and noise, with one of `distinct` histories."""
    draw = random.Random(SEED)
    jobs = [(draw.uniform(0.0005, 0.005), draw.uniform(0.8, 3.0)) for _ in range(10)]

    def history() -> tuple[PoissonSampled, ...]:
        lengths = [STEPS * draw.randrange(1, PAST_ROUNDS // 4) for _ in range(4)]
        past = [Mechanism(*job, steps) for job, steps in zip(draw.sample(jobs, 4), lengths, strict=True)]
        return tuple(PoissonSampled.of(mechanism) for mechanism in composed(past))

    histories = [Spending(mechanisms=history()) for _ in range(distinct)]
    return [histories[i % distinct] for i in range(CLIENTS)]


def decided(spendings: list[Spending], *, at_once: bool) -> tuple[float, list[Spending]]:
    """CPU milliseconds for the cohort, and what it has spent then."""
    started = time.process_time()
    asking = {f"client-{number}": Asking(one, one, LIMITS, ASKED) for number, one in enumerate(spendings)}
    if at_once:
        decisions = list(decide_all(asking).values())
    else:
        decisions = [decide_all({name: one})[name] for name, one in asking.items()]
    took_ms = (time.process_time() - started) * 1e3
    after = [decision.in_job for decision in decisions if isinstance(decision, Granted)]
    assert len(after) == len(spendings), "a benchmark of refusals"
    return took_ms, after


def forget_all() -> None:
    """As after a restart."""
    accountants.forget()
    for module in (losses, renyi):
        for cached in vars(module).values():
            if hasattr(cached, "cache_clear"):
                cached.cache_clear()


def two_rounds(spendings: list[Spending], *, at_once: bool) -> tuple[float, float]:
    """CPU milliseconds of the first after a restart, and of the next."""
    forget_all()
    cold_ms, spendings = decided(spendings, at_once=at_once)
    next_ms, _ = decided(spendings, at_once=at_once)
    return cold_ms, next_ms


async def requests_ms(url: str) -> list[float]:
    """Milliseconds of the first three requests for the cohort, in their transactions."""
    accountant = await Accountant.open(url)
    names = tuple(f"client-{number:04}" for number in range(CLIENTS))
    took_ms = []
    for number in range(1, 4):
        started = time.perf_counter()
        [reserved] = await accountant.handle(request(number, names, mechanism=ASKED))
        took_ms.append((time.perf_counter() - started) * 1e3)
        assert len(reserved.reservations) == CLIENTS, "a benchmark of refusals"
    await accountant.units.close()
    return took_ms


def main() -> None:
    """Print one line a case."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    print(
        f"seed {SEED}; {CLIENTS} clients, up to {PAST_ROUNDS} past rounds of {STEPS} steps; CPU milliseconds"
    )
    for name, cohort in (("lengths of one job", by_length), ("histories over ten jobs", by_jobs)):
        for distinct in (1, 10, 100, 1000):
            figures = []
            for at_once in (False, True):
                took = [two_rounds(cohort(distinct), at_once=at_once) for _ in range(REPEATS)]
                cold_ms, next_ms = (min(times) for times in zip(*took, strict=True))
                figures.append(f"cold {cold_ms:5.0f}, next round {next_ms:5.0f}")
            print(f"{distinct:4} {name:23}  one by one: {figures[0]}   at once: {figures[1]}")
    with tempfile.TemporaryDirectory() as folder, postgres.postgres_server() as server:
        asyncio.run(postgres.execute(server, "CREATE DATABASE accountant"))
        for url in (f"sqlite+aiosqlite:///{folder}/accountant.db", f"{server}/accountant"):
            took = ", ".join(f"{one:.0f}" for one in asyncio.run(requests_ms(url)))
            print(f"requests for {CLIENTS} clients on {url.split('+')[0]}: {took} ms")


if __name__ == "__main__":
    main()
