"""What a round costs beside training: ten clients that answer at once, on the embedded or a real bus."""

import argparse
import asyncio
import statistics
import tempfile
from pathlib import Path

import structlog

from shared.events import JobEnded, RoundCompleted
from tests.integration.scripted_federation import federation, specification

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))


async def measure(bus: str, clients: int, rounds: int, dimension: int) -> list[float]:
    """Seconds of each round, from its start to its completion."""
    names = [f"client{n}" for n in range(clients)]
    with tempfile.TemporaryDirectory() as folder:
        async with federation(Path(folder), names, bus_url=bus, every={"dimension": dimension}) as fed:
            job = specification(rounds={"count": rounds, "min_clients": clients})
            await fed.submit(job)
            (ended,) = await fed.until(JobEnded, timeout_s=600)
            if ended.outcome != "completed":
                raise SystemExit(f"the job ended {ended.outcome}: {ended.reason}")
            await fed.until(RoundCompleted, rounds)
            return [(e.completed_at - e.started_at).total_seconds() for e in fed.of(RoundCompleted)]


def main() -> None:
    """Print the median and the slowest round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bus", default="memory://", help="memory:// or amqp://user:password@host/vhost")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--dimension", type=int, default=100_000)
    options = parser.parse_args()
    seconds = asyncio.run(measure(options.bus, options.clients, options.rounds, options.dimension))
    print(
        f"{options.clients} clients, d = {options.dimension}, {len(seconds)} rounds "
        f"on {options.bus.split(':')[0]}: median {statistics.median(seconds):.3f} s, "
        f"slowest {max(seconds):.3f} s"
    )


if __name__ == "__main__":
    main()
