"""How long the accountant computes to decide for a cohort: `python benchmarks/accountant.py`.

1000 clients, each with up to 1000 past rounds; only decisions are timed, no database. `cold` starts
with empty caches, as after a restart; `warm` is the next round.
"""

import random
import time

from services.accountant.state import Limits, Spending, decide
from shared.core.privacy import accountants
from shared.events.values import PoissonGaussian

CLIENTS, PAST_ROUNDS = 1_000, 1_000
ASKED = PoissonGaussian(sampling_rate=0.001, noise_multiplier=1.0, steps=8)
LIMITS = Limits(epsilon=10, delta=1e-5, client_epsilon=10, client_delta=1e-5)
SEED = 7


def cohort(distinct: int) -> list[Spending]:
    """One spending a client; they took part in one of `distinct` numbers of rounds."""
    draw = random.Random(SEED)
    counts = draw.sample(range(1, PAST_ROUNDS + 1), distinct)
    return [
        Spending(mechanisms=(ASKED.model_copy(update={"steps": 8 * counts[i % distinct]}),))
        for i in range(CLIENTS)
    ]


def decide_all(spendings: list[Spending]) -> tuple[float, list[Spending]]:
    """Milliseconds for the cohort, and what it has spent then."""
    started = time.perf_counter()
    decisions = [decide(spending, spending, ASKED, LIMITS) for spending in spendings]
    took_ms = (time.perf_counter() - started) * 1e3
    return took_ms, [decision.in_job for decision in decisions]


def main() -> None:
    """Print one line a case."""
    print(f"seed {SEED}; {CLIENTS} clients, up to {PAST_ROUNDS} past rounds of {ASKED.steps} steps")
    for distinct in (1, 10, 100):
        for cached in vars(accountants).values():
            if hasattr(cached, "cache_clear"):
                cached.cache_clear()
        spendings = cohort(distinct)
        cold_ms, spendings = decide_all(spendings)
        warm_ms, _ = decide_all(spendings)
        print(f"{distinct:4} distinct histories: cold {cold_ms:7.1f} ms, next round {warm_ms:7.1f} ms")


if __name__ == "__main__":
    main()
