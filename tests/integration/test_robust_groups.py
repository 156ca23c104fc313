"""Rules that judge the sums of groups, end to end: a malicious client spoils its group, and no more."""

import asyncio
from dataclasses import dataclass

import numpy as np
import pytest

from services.client.trainer import TrainingResult
from shared.events import GroupFailed, GroupSummed, JobEnded, RoundAborted, UpdateAggregated
from shared.job.plan import planned_bound
from tests.integration.judged_federation import (
    DIMENSION,
    Cohort,
    by_coordinate,
    clients,
    judged,
    update_in,
    weights_of,
)
from tests.integration.scripted_federation import federation
from tests.integration.worker_federation import KnownTrainer, worker_federation

SEED = 20261125


def of_round(events, round_id):
    return {event.group_id: event for event in events if event.round_id == round_id}


def expected_of(rule, cohort, groups, hostile, bound):
    """The update that the rule makes of the means of `groups`, group -> clients, and each group's weight."""
    rows = np.array([cohort.rows(members).mean(axis=0) for members in groups.values()])
    if rule in ("median", "trimmed-mean"):
        return by_coordinate(rule, rows, hostile, bound), np.full(len(rows), 1 / len(rows))
    weights = weights_of(rule, rows, hostile)
    return weights @ rows, weights


async def check(fed, cohort, job, event, tolerance):
    """The update is the rule's on the groups of its round; clients count their share of what those do."""
    rule, hostile = job.aggregation.robust, job.aggregation.malicious
    sums = of_round(fed.of(GroupSummed), event.round_id)
    assert not any(each.judged for each in sums.values())
    groups = {group: sorted(each.weights) for group, each in sums.items()}
    expected, weights = expected_of(rule, cohort, groups, hostile, planned_bound(job, 2.0))
    update = await update_in(fed, event)
    assert np.abs(update - expected).max() <= tolerance
    shares = {
        client: weight / len(members)
        for members, weight in zip(groups.values(), weights, strict=True)
        for client in members
    }
    assert event.weights == pytest.approx(shares, abs=1e-4)
    left_out = {item.client_id: item.reason for item in event.left_out}
    assert left_out.keys() >= {name for name, share in shares.items() if share == 0}
    for group, weight in zip(groups, weights, strict=True):
        if weight == 0:
            assert group in {finding.subject for finding in event.findings}
            for client in groups[group]:
                assert left_out[client].startswith(f"its group {group} was left out by {rule}: its ")
    return groups


@pytest.mark.parametrize("rule", ["multi-krum", "median", "trimmed-mean", "geometric-median"])
async def test_a_malicious_client_spoils_its_group_alone(tmp_path, rule):
    print(f"seed {SEED}")
    cohort, job = Cohort(SEED, clients(11), 1), judged(rule, 1, 11, group_size=2)
    async with federation(tmp_path, cohort.names, **cohort.options()) as fed:
        await fed.submit(job)
        (ended,) = await fed.until(JobEnded)
        assert ended.outcome == "completed", ended.reason
        (event,) = await fed.until(UpdateAggregated)
        groups = await check(fed, cohort, job, event, 1e-8)
        assert not fed.services["robust_aggregator"].context.judging.rounds
    assert sorted(map(len, groups.values())) == [2, 2, 2, 2, 3]
    if rule == "multi-krum":
        (spoilt,) = [members for members in groups.values() if cohort.malicious[0] in members]
        assert {item.client_id for item in event.left_out} == set(spoilt)
        assert not any(item.sent_wrong for item in event.left_out)


@dataclass
class CohortTrainer(KnownTrainer):
    """Trains to what its cohort says."""

    cohort: object = None

    def train(self, task, progress, cancelled):
        number = int(task.round_id.rsplit("-r", 1)[1])
        update = self.cohort(self.client_id, number, self.dimension)
        return TrainingResult(update, task.mechanism.steps, 0.0, 1.0)


HOLDERS = ("holder-1", "holder-2", "holder-3", "holder-4")
PLAIN = {"group_size": 2, "smallest_group": 2}
FEARFUL = {"group_size": 3, "smallest_group": 3, "key_holders": HOLDERS}


@pytest.mark.parametrize(
    ("rule", "malicious", "count", "settings"),
    [("median", 0, 6, PLAIN), ("geometric-median", 0, 6, PLAIN), ("multi-krum", 1, 15, FEARFUL)],
)
async def test_groups_whose_updates_nobody_saw_are_judged_by_their_means(
    tmp_path, rule, malicious, count, settings
):
    print(f"seed {SEED}")
    cohort = Cohort(SEED, clients(count), 1)
    job = judged(rule, malicious, count, secure="oneshot", **settings)
    holders = settings.get("key_holders", ())
    async with worker_federation(tmp_path, (), holders=holders, dimension=DIMENSION) as (fed, workers):
        for name in cohort.names:
            workers.trainers[name] = CohortTrainer(name, DIMENSION, cohort=cohort)
            await workers.start(name)
        fed.clients = dict.fromkeys(cohort.names)
        await fed.registered()
        await fed.submit(job)
        (ended,) = await fed.until(JobEnded)
        assert ended.outcome == "completed", ended.reason
        (event,) = await fed.until(UpdateAggregated)
        await check(fed, cohort, job, event, 50 * planned_bound(job, 2.0) / 2**15)
    harm = np.linalg.norm(await update_in(fed, event) - cohort.honest_mean())
    mean = cohort.rows(cohort.names).mean(axis=0)
    assert harm < np.linalg.norm(mean - cohort.honest_mean())


@pytest.mark.parametrize("rule", ["multi-krum", "median"])
async def test_the_robust_aggregator_restarted_between_groups_judges_the_same_rows(tmp_path, rule):
    print(f"seed {SEED}")
    cohort, job, gate = Cohort(SEED, clients(10), 1), judged(rule, 1, 10, group_size=2), asyncio.Event()
    options = cohort.options(**{"client-04": {"gate": gate}})
    async with federation(tmp_path, cohort.names, **options) as fed:
        await fed.submit(job)
        before = fed.services["robust_aggregator"].context
        async with asyncio.timeout(20):
            while sum(len(kept.rows.names) for kept in before.judging.rounds.values()) < 4:  # noqa: ASYNC110 - nobody announces it
                await asyncio.sleep(0.01)
        await fed.restart("robust_aggregator")
        assert fed.services["robust_aggregator"].context is not before
        gate.set()
        (event,) = await fed.until(UpdateAggregated)
        await check(fed, cohort, job, event, 1e-8)


async def test_a_round_with_too_few_groups_for_the_rule_fails_with_the_reason_and_is_tried_again(tmp_path):
    print(f"seed {SEED}")
    cohort, job = Cohort(SEED, clients(10), 1), judged("multi-krum", 1, 10, group_size=2)
    options = cohort.options(**{"client-00": {"declines": (1,)}})
    async with federation(tmp_path, cohort.names, **options) as fed:
        await fed.submit(job)
        (ended,) = await fed.until(JobEnded)
        assert ended.outcome == "completed", ended.reason
        (aborted,) = await fed.until(RoundAborted)
        assert "multi_krum bears 0 hostile of 4, not 1" in aborted.reason
        (event,) = await fed.until(UpdateAggregated)
        assert (aborted.round_id, event.round_id) == ("job-r1", "job-r2")
        assert len(of_round(fed.of(GroupFailed), "job-r1")) == 5
        await check(fed, cohort, job, event, 1e-8)
        assert not fed.services["robust_aggregator"].context.judging.rounds
