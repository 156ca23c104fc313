"""Rules that judge updates, end to end: malicious clients are left out by name, or do little."""

import asyncio

import numpy as np
import pytest

from shared.core.robust.gram import nearest_neighbour_mixing, weigh_mixed
from shared.core.robust.judging import kind_of
from shared.events import GroupFailed, JobEnded, RoundOpened, UpdateAggregated
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

SEED = 20261124
ROOT = "root"
ON_GRAM = (
    "krum",
    "multi-krum",
    "norm-clipped-mean",
    "centred-clipping",
    "geometric-median",
    "cosine-clustering",
)
NAMES_THEM = ("krum", "multi-krum", "cosine-clustering")  # by leaving them out


async def aggregated(fed, job):
    """The round's update, the event that brought it, and the job's end."""
    await fed.submit(job)
    (ended,) = await fed.until(JobEnded)
    assert ended.outcome == "completed", ended.reason
    (event,) = await fed.until(UpdateAggregated)
    return await update_in(fed, event), event


@pytest.mark.parametrize("malicious", [2, 3])  # of 10: a fifth, and just under a third
@pytest.mark.parametrize("rule", [*ON_GRAM, "median", "trimmed-mean"])
async def test_malicious_clients_are_left_out_by_name_or_do_little(tmp_path, rule, malicious):
    print(f"seed {SEED}")
    cohort = Cohort(SEED, clients(10), malicious)
    job = judged(rule, malicious, 10)
    async with federation(tmp_path, cohort.names, **cohort.options()) as fed:
        update, event = await aggregated(fed, job)
    rows = cohort.rows(cohort.names)
    if rule in ON_GRAM:
        weights = weights_of(rule, rows, malicious)
        expected = weights @ rows
        assert [event.weights[name] for name in cohort.names] == pytest.approx(weights, abs=1e-6)
    else:
        expected = by_coordinate(rule, rows, malicious, planned_bound(job, 2.0))
        assert event.weights == pytest.approx(dict.fromkeys(cohort.names, 0.1))
    assert np.linalg.norm(update - expected) <= 1e-5 * np.linalg.norm(expected)
    assert event.update_norm == pytest.approx(np.linalg.norm(update), rel=1e-6)
    harm = np.linalg.norm(update - cohort.honest_mean())
    assert harm < 0.4 * np.linalg.norm(rows.mean(axis=0) - cohort.honest_mean())
    left_out = {item.client_id: item.reason for item in event.left_out}
    assert left_out.keys() == {name for name, weight in event.weights.items() if weight == 0}
    if rule in NAMES_THEM:
        assert left_out.keys() >= set(cohort.malicious)
    assert all(reason.startswith(f"left out by {rule}: its ") for reason in left_out.values())


async def test_clients_that_send_the_same_count_for_nothing_by_foolsgold(tmp_path):
    print(f"seed {SEED}")
    cohort = Cohort(SEED, clients(8), spread=3)  # honest data differs

    def sends(client, number, dimension):
        update = cohort(client, number, dimension)
        if client in ("client-06", "client-07"):
            update = np.negative(cohort("client-05", number, dimension))
            cohort.sent[client] = -cohort.sent["client-05"]
        return update

    options = {name: {"dimension": DIMENSION, "sends": sends} for name in cohort.names}
    async with federation(tmp_path, cohort.names, **options) as fed:
        update, event = await aggregated(fed, judged("foolsgold", 0, 8))
    rows = cohort.rows(cohort.names)
    weights = weights_of("foolsgold", rows, 0)
    assert np.linalg.norm(update - weights @ rows) <= 1e-5 * np.linalg.norm(weights @ rows)
    assert event.weights["client-06"] == event.weights["client-07"] == 0
    assert {item.client_id for item in event.left_out} >= {"client-06", "client-07"}


async def test_the_root_clients_update_measures_the_others_and_does_not_count(tmp_path):
    print(f"seed {SEED}")
    cohort = Cohort(SEED, [ROOT, *clients(9)], 3)
    async with federation(tmp_path, cohort.names, **cohort.options()) as fed:
        update, event = await aggregated(fed, judged("fltrust", 3, 10, root=ROOT))
    rows = cohort.rows(cohort.names[1:])
    weights = weights_of("fltrust", rows, 3, cohort.sent[ROOT])
    assert [event.weights[name] for name in cohort.names[1:]] == pytest.approx(weights, abs=1e-6)
    assert np.linalg.norm(update - weights @ rows) <= 1e-5 * np.linalg.norm(weights @ rows)
    left_out = {item.client_id: item.reason for item in event.left_out}
    assert left_out.keys() == {ROOT, *cohort.malicious}
    assert ROOT not in event.weights
    assert left_out[ROOT] == "the others are measured by its update, which does not count itself"
    assert "cosine" in left_out[cohort.malicious[0]]


async def test_without_the_root_clients_update_the_session_fails_and_says_whose_is_missing(tmp_path):
    cohort = Cohort(SEED, [ROOT, *clients(5)])
    options = cohort.options(root={"declines": True})
    job = judged("fltrust", 1, 5, root=ROOT, rounds={"retries": 0})
    async with federation(tmp_path, cohort.names, **options) as fed:
        await fed.submit(job)
        (ended,) = await fed.until(JobEnded)
        (failed,) = await fed.until(GroupFailed)
    assert (ended.outcome, ended.rounds_completed) == ("failed", 0)
    assert failed.reason == "fltrust measures updates by that of root: policy"
    assert not failed.faulty


@pytest.mark.parametrize(("rule", "malicious"), [("geometric-median", 3), ("krum", 3)])
async def test_each_update_is_mixed_with_its_nearest_before_the_rule(tmp_path, rule, malicious):
    print(f"seed {SEED}")
    cohort = Cohort(SEED, clients(10), malicious)
    async with federation(tmp_path, cohort.names, **cohort.options()) as fed:
        update, event = await aggregated(fed, judged(rule, malicious, 10, mixing="nearest-neighbour"))
    rows = cohort.rows(cohort.names)
    gram = rows @ rows.T
    mixing = nearest_neighbour_mixing(gram, malicious)
    weights = weigh_mixed(kind_of(rule).rule, mixing, gram, malicious).weights
    assert [event.weights[name] for name in cohort.names] == pytest.approx(weights, abs=1e-6)
    assert np.linalg.norm(update - weights @ rows) <= 1e-5 * np.linalg.norm(weights @ rows)
    harm = np.linalg.norm(update - cohort.honest_mean())
    assert harm < 0.4 * np.linalg.norm(rows.mean(axis=0) - cohort.honest_mean())


async def test_buckets_are_averaged_before_the_rule_and_count_as_one(tmp_path):
    print(f"seed {SEED}")
    cohort = Cohort(SEED, clients(14), 2)
    async with federation(tmp_path, cohort.names, **cohort.options()) as fed:
        update, event = await aggregated(fed, judged("multi-krum", 2, 14, mixing="buckets"))
    left_out = {name for name, weight in event.weights.items() if weight == 0}
    assert left_out >= set(cohort.malicious)
    assert left_out == {item.client_id for item in event.left_out}
    assert len(left_out) == 4  # two buckets of seven
    assert sorted(event.weights.values()) == pytest.approx([0] * 4 + [0.1] * 10)
    expected = np.mean([cohort.sent[name] for name in cohort.names if name not in left_out], axis=0)
    assert np.linalg.norm(update - expected) <= 1e-5 * np.linalg.norm(expected)


def floats(value):
    return np.full(DIMENSION, value, "<f4").tobytes()


UNFIT = {
    "nan": (floats(np.nan), "beyond 127"),
    "inf": (floats(np.inf), "beyond 127"),
    "huge": (np.full(DIMENSION, 2**31 - 1, "<i4").tobytes(), "beyond 127"),
    "zero": (floats(0), "zero in every coordinate"),
    "subnormal": (np.full(DIMENSION, 1e-40, np.float32), "zero in every coordinate"),  # is encoded as zeros
    "short": (floats(1)[:-4], "chunk 0 holds"),
    "long": (floats(1) + bytes(4), "chunk 0 holds"),
}


@pytest.mark.parametrize("rule", ["mean", "multi-krum", "median"])
@pytest.mark.parametrize("kind", UNFIT)
async def test_an_update_that_cannot_be_taken_leaves_its_sender_out_by_name(tmp_path, kind, rule):
    """For the rule it was one of those that may be malicious: one fewer is left to look for."""
    print(f"seed {SEED}")
    content, reason = UNFIT[kind]
    cohort = Cohort(SEED, clients(10), 1)
    options = cohort.options(**{"client-00": {"sends": lambda *_: content}})
    job = judged(rule, 2, 9)
    async with federation(tmp_path, cohort.names, **options) as fed:
        update, event = await aggregated(fed, job)
    left_out = {item.client_id: item.reason for item in event.left_out}
    assert reason in left_out["client-00"]
    assert "client-00" not in event.weights
    rows = cohort.rows(cohort.names[1:])
    match rule:
        case "mean":
            expected = rows.mean(axis=0)
        case "median":
            expected = by_coordinate(rule, rows, 1, planned_bound(job, 2.0))
        case _:
            expected = weights_of(rule, rows, 1) @ rows
            assert left_out.keys() == {"client-00", *cohort.malicious}
    assert np.linalg.norm(update - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("rule", ["multi-krum", "trimmed-mean"])
async def test_updates_held_when_secure_aggregation_restarted_are_judged_again(tmp_path, rule):
    print(f"seed {SEED}")
    cohort, gate = Cohort(SEED, clients(7), 1), asyncio.Event()
    options = cohort.options(**{"client-03": {"gate": gate}})
    job = judged(rule, 1, 7)
    async with federation(tmp_path, cohort.names, **options) as fed:
        await fed.submit(job)
        await fed.until(RoundOpened)
        before = fed.services["secure_aggregation"].context
        async with asyncio.timeout(20):
            while sum(len(g.running.uploads) for g in before.gathered.values()) < 6:  # noqa: ASYNC110 - nobody announces it
                await asyncio.sleep(0.01)
        await fed.restart("secure_aggregation")
        assert fed.services["secure_aggregation"].context is not before
        gate.set()
        (event,) = await fed.until(UpdateAggregated)
        update = await update_in(fed, event)
    rows = cohort.rows(cohort.names)
    if rule == "multi-krum":
        expected = weights_of(rule, rows, 1) @ rows
    else:
        expected = by_coordinate(rule, rows, 1, planned_bound(job, 2.0))
    assert np.linalg.norm(update - expected) <= 1e-5 * np.linalg.norm(expected)
