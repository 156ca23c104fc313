"""Rules that judge updates which no party sees: malicious clients are left out by name, or do little."""

import numpy as np
import pytest

from services.secure_aggregation.protocols.mpc3 import TOO_LONG
from shared.core.robust.judging import Choice, Mix
from shared.core.robust.judging.verdict import judge
from shared.events import JobEnded, UpdateAggregated
from shared.job.plan import planned_bound
from shared.job.refusals import refusals
from tests.integration import worker_federation
from tests.integration.judged_federation import Cohort, clients, judged, update_in
from tests.integration.three_parties import three_parties

SEED = 20261125
DIMENSION = 700
COHORTS = [(10, 2), (13, 4)]  # a fifth, and just under a third
ROUNDING = 1e-3  # of 16 bits, in a norm


class Shared(Cohort):
    """What workers train to, and what 16 bits keep of it but for rounding."""

    def __init__(self, count, malicious, monkeypatch):
        print(f"seed {SEED}")
        super().__init__(SEED, clients(count), malicious)
        monkeypatch.setattr(worker_federation, "known_update", self)

    def clipped(self, job):
        bound = planned_bound(job, 2.0)
        return np.clip(self.rows(self.names), -bound, bound)


def shared_job(rule, malicious, count, *, spare=0, **aggregation):
    """A round needs all of these clients but `spare`: no sum of fewer than those, less the malicious, is opened."""
    settings = {"secure": "mpc3", "smallest_group": 2, **aggregation}
    least = {"min_clients": count - spare, "clients_per_round": count}
    made = judged(rule, malicious, count, rounds=least, **settings)
    assert [str(refused) for refused in refusals(made)] == []
    return made


async def aggregated(folder, cohort, job):
    """The round's update, the event that brought it, and the job's end."""
    async with three_parties(folder, cohort.names, dimension=DIMENSION) as (fed, _, _):
        await fed.submit(job)
        (ended,) = await fed.until(JobEnded, timeout_s=20)
        assert ended.outcome == "completed", ended.reason
        (event,) = await fed.until(UpdateAggregated, timeout_s=20)
        return await update_in(fed, event), event


@pytest.mark.parametrize(("count", "malicious"), COHORTS)
@pytest.mark.parametrize(
    ("rule", "mixing", "spare"),
    [
        ("multi-krum", Mix.NONE, 0), ("geometric-median", Mix.NONE, 0), ("centred-clipping", Mix.NONE, 0),
        ("norm-clipped-mean", Mix.NONE, 0), ("multi-krum", Mix.NEAREST_NEIGHBOUR, 0),
        ("cosine-clustering", Mix.NONE, 3),  # it leaves out the outermost of the honest ones, too
    ],
)  # fmt: skip
async def test_a_rule_makes_of_shares_what_it_makes_of_updates(
    tmp_path, monkeypatch, rule, mixing, spare, count, malicious
):
    cohort = Shared(count + spare, malicious, monkeypatch)
    job = shared_job(rule, malicious, count + spare, spare=spare, mixing=mixing)
    update, event = await aggregated(tmp_path, cohort, job)
    rows = cohort.clipped(job)
    verdict = judge(rows @ rows.T, Choice(rule, malicious, mixing))
    expected = verdict.weights @ rows
    assert np.linalg.norm(update - expected) <= ROUNDING * np.linalg.norm(expected)
    assert [event.weights[name] for name in cohort.names] == pytest.approx(verdict.weights, abs=ROUNDING)
    harm = np.linalg.norm(update - cohort.honest_mean())
    assert harm < 0.4 * np.linalg.norm(rows.mean(axis=0) - cohort.honest_mean())
    out = {item.client_id: item.reason for item in event.left_out}
    assert out.keys() == {
        name for name, weight in zip(cohort.names, verdict.weights, strict=True) if weight == 0
    }
    if rule in ("multi-krum", "cosine-clustering") and mixing is Mix.NONE:
        assert out.keys() >= set(cohort.malicious)
    assert all(reason.startswith(f"left out by {rule}: its ") for reason in out.values())
    assert TOO_LONG not in out.values()
