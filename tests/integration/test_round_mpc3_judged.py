"""Rules that judge updates which no party sees: malicious clients are left out by name, or do little."""

import asyncio
from contextlib import asynccontextmanager

import numpy as np
import pytest

from services.client.sessions import mpc3
from services.secure_aggregation.parties import building
from services.secure_aggregation.protocols.base import TRUSTED
from services.secure_aggregation.protocols.mpc3 import TOO_LONG
from shared.core.robust.judging import Choice, Mix
from shared.core.robust.judging.verdict import judge
from shared.core.secagg.mpc3 import client
from shared.errors import Unavailable
from shared.events import JobEnded, RoundAborted, UpdateAggregated
from shared.job.plan import planned_bound
from shared.job.refusals import refusals
from tests.integration import worker_federation
from tests.integration.judged_federation import Cohort, clients, judged, update_in, weights_of
from tests.integration.three_parties import SERVICES, three_parties, until

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


async def aggregated(folder, cohort, job, dimension=DIMENSION):
    """The round's update, the event that brought it, and the job's end."""
    async with three_parties(folder, cohort.names, dimension=dimension) as (fed, _, _):
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
    assert all(reason.startswith(f"left out by {rule}: it") for reason in out.values())
    assert TOO_LONG not in out.values()


@pytest.mark.parametrize(
    ("settings", "dimension", "off"),
    [({"bits": 8}, DIMENSION, 0.1), ({"rotate": True}, 3000, 0.01)],
    ids=["a matrix modulo 2^44", "rotated, and longer than its sketch"],
)
async def test_other_encodings_are_judged_as_well(tmp_path, monkeypatch, settings, dimension, off):
    cohort = Shared(10, 2, monkeypatch)
    update, event = await aggregated(
        tmp_path, cohort, shared_job("multi-krum", 2, 10, **settings), dimension=dimension
    )
    assert [item.client_id for item in event.left_out] == cohort.malicious
    assert np.linalg.norm(update - cohort.honest_mean()) <= off * np.linalg.norm(update)


@pytest.mark.parametrize(("count", "malicious"), COHORTS)
async def test_updates_count_as_far_as_they_point_like_that_of_a_trusted_client(
    tmp_path, monkeypatch, count, malicious
):
    cohort = Shared(count + 1, malicious, monkeypatch)
    root, *others = cohort.names
    job = shared_job("fltrust", malicious, count + 1, spare=1, root=root)
    update, event = await aggregated(tmp_path, cohort, job)
    trusted, *rows = cohort.clipped(job)
    weights = weights_of("fltrust", np.array(rows), malicious, trusted)
    expected = weights @ np.array(rows)
    assert np.linalg.norm(update - expected) <= ROUNDING * np.linalg.norm(expected)
    assert event.weights.keys() == set(others)
    assert [event.weights[name] for name in others] == pytest.approx(weights, abs=ROUNDING)
    out = {item.client_id: item.reason for item in event.left_out}
    assert out.pop(root) == TRUSTED
    assert out.keys() == set(cohort.malicious)


async def test_far_too_long_updates_are_found_by_name_and_no_longer_expected_of_others(tmp_path, monkeypatch):
    """Two share words that no encoding makes: the rule is then told of no hostile client any more."""
    cohort = Shared(10, 2, monkeypatch)
    first, second = cohort.malicious
    words = np.random.default_rng(SEED).integers(-(2**63), 2**63, DIMENSION, dtype=np.int64)
    lone = np.zeros(DIMENSION, np.int64)
    lone[7] = 2**40
    lies = {first: words, second: lone}
    monkeypatch.setattr(client, "_checked", lambda values, dimension: values)

    def lying(values, terms, client_id, *signing):
        return client.share(lies.get(client_id, values), terms, client_id, *signing)

    monkeypatch.setattr(mpc3, "share", lying)
    update, event = await aggregated(tmp_path, cohort, shared_job("multi-krum", 2, 10, spare=2))
    expected = cohort.honest_mean()
    assert np.linalg.norm(update - expected) <= ROUNDING * np.linalg.norm(expected)
    assert event.weights == pytest.approx(dict.fromkeys(cohort.names[:8], 1 / 8))
    assert {item.client_id: item.reason for item in event.left_out} == dict.fromkeys(
        (first, second), TOO_LONG
    )
    assert all(item.sent_wrong for item in event.left_out)


async def test_a_zero_update_is_left_out_by_name(tmp_path, monkeypatch):
    cohort = Shared(10, 2, monkeypatch)
    idle = cohort.names[3]

    def sends(name, number, dimension):
        return cohort(name, number, dimension) * (name != idle)

    monkeypatch.setattr(worker_federation, "known_update", sends)
    update, event = await aggregated(tmp_path, cohort, shared_job("multi-krum", 2, 10, spare=1))
    out = {item.client_id: item.reason for item in event.left_out}
    assert out[idle] == "left out by multi-krum: its update is zero in every coordinate"
    assert out.keys() == {idle, *cohort.malicious}
    honest = cohort.rows(sorted(set(cohort.names) - out.keys())).mean(axis=0)
    assert np.linalg.norm(update - honest) <= ROUNDING * np.linalg.norm(honest)


async def test_a_sum_that_a_rule_makes_too_small_is_not_opened_and_says_so(tmp_path, monkeypatch):
    """FLTrust leaves out whoever points away from the trusted client: one more than the job expects."""
    cohort = Shared(10, 2, monkeypatch)
    job = judged("fltrust", 1, 10, secure="mpc3", root=cohort.names[0], rounds={"retries": 0})
    async with three_parties(tmp_path, cohort.names, dimension=DIMENSION) as (fed, _, _):
        await fed.submit(job)
        (aborted,) = await fed.until(RoundAborted, timeout_s=20)
    assert "is not opened: the terms say 8" in aborted.reason


@asynccontextmanager
async def stopped_at(folder, cohort, job, monkeypatch, *, kind, step=None):
    """The federation, when party 2 was asked this for the first time; and what lets it answer."""
    asked, go = asyncio.Event(), asyncio.Event()
    answer = building.serve

    async def stubborn(custody, sender, asked_kind, body):
        if custody.index == 2 and asked_kind == kind and not go.is_set():
            if step is None or body["step"] == step:
                asked.set()
                raise Unavailable("not yet")
        return await answer(custody, sender, asked_kind, body)

    monkeypatch.setattr(building, "serve", stubborn)
    async with three_parties(folder, cohort.names, dimension=DIMENSION) as (fed, _, _):
        await fed.submit(job)
        async with asyncio.timeout(20):
            await asked.wait()
        yield fed, go


@pytest.mark.parametrize(
    ("party", "kind"),
    [(0, "gram"), (0, "release"), (1, "gram"), (2, "choose"), (1, "release"), (2, "release")],
)
async def test_a_party_that_restarts_after_the_norm_check_signs_the_same_selection(
    tmp_path, monkeypatch, party, kind
):
    """Weights that are no plain choice: party 0 has to find the same integers again."""
    cohort = Shared(10, 2, monkeypatch)
    job = shared_job("geometric-median", 2, 10)
    async with stopped_at(tmp_path, cohort, job, monkeypatch, kind=kind) as (fed, go):
        await fed.restart(SERVICES[party])
        go.set()
        (event,) = await fed.until(UpdateAggregated, timeout_s=30)
        update = await update_in(fed, event)
    rows = cohort.clipped(job)
    expected = weights_of("geometric-median", rows, 2) @ rows
    assert np.linalg.norm(update - expected) <= ROUNDING * np.linalg.norm(expected)


async def test_after_a_restart_party_0_draws_the_same_buckets(tmp_path, monkeypatch):
    """The other two have signed a selection already: for other buckets the round would fail."""
    cohort = Shared(12, 1, monkeypatch)
    job = shared_job("geometric-median", 1, 12, mixing=Mix.BUCKETS)
    async with stopped_at(tmp_path, cohort, job, monkeypatch, kind="release") as (fed, go):
        await fed.restart(SERVICES[0])
        go.set()
        (event,) = await fed.until(UpdateAggregated, timeout_s=30)
        update = await update_in(fed, event)
    weights = np.array([event.weights[name] for name in cohort.names])
    expected = weights @ cohort.clipped(job)
    assert sorted(np.unique(weights, return_counts=True)[1]) == [2] * 6
    assert np.linalg.norm(update - expected) <= ROUNDING * np.linalg.norm(expected)


@pytest.mark.parametrize("party", [0, 1, 2])
async def test_a_party_that_loses_its_memory_in_the_norm_check_ends_the_session(tmp_path, monkeypatch, party):
    cohort = Shared(10, 2, monkeypatch)
    job = judged("multi-krum", 2, 10, secure="mpc3", rounds={"retries": 0})
    async with stopped_at(tmp_path, cohort, job, monkeypatch, kind="layer", step=7) as (fed, go):
        await fed.restart(SERVICES[party])
        go.set()
        (aborted,) = await fed.until(RoundAborted, timeout_s=30)
        parties = [fed.services[name].context for name in SERVICES[1:]]
        await until(lambda: not any(each.places for each in parties))
    assert "lost its memory during the norm check" in aborted.reason
