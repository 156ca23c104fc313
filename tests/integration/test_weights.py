"""Clients that declared more records count for more, up to a cap that the job names."""

import numpy as np
import pytest

from shared.events import JobEnded
from shared.job.plan import weight_of
from tests.integration.worker_federation import adapter_of, job, known_update, worker_federation

NAMES = ("alice", "bob", "carol", "dave")
RECORDS = {"alice": 20, "bob": 60, "carol": 100, "dave": 5000}


@pytest.mark.parametrize("secure", ["oneshot", "secagg"])
async def test_the_mean_is_weighed_by_declared_records_up_to_the_cap(tmp_path, secure):
    wanted = job(
        secure,
        aggregation={"weight_cap": 100, "stage_s": 2},
        privacy={"delta": 1e-6, "noise_multiplier": 3.0},
        rounds={"count": 1, "min_clients": 4},
    )
    assert {name: weight_of(wanted, count) for name, count in RECORDS.items()} == {
        "alice": 0.2, "bob": 0.6, "carol": 1.0, "dave": 1.0,
    }  # fmt: skip
    async with worker_federation(tmp_path, ()) as (fed, workers):
        for name in NAMES:
            home = tmp_path / name
            home.mkdir()
            (home / "worker.toml").write_text(f"declared_records = {RECORDS[name]}\n")
            await workers.start(name)
        fed.clients = dict.fromkeys(NAMES)
        await fed.registered()
        await fed.submit(wanted)
        (ended,) = await fed.until(JobEnded)
        assert ended.outcome == "completed", ended.reason
        final = await adapter_of(fed, ended)
    weights = {name: weight_of(wanted, count) for name, count in RECORDS.items()}
    total = sum(weight * known_update(name, 1, 300).astype(np.float64) for name, weight in weights.items())
    assert np.abs(final - total / sum(weights.values())).max() < 1e-4
