"""A client's own epsilon: how much noise it needs, over which clip norm, and who takes part with it."""

from datetime import UTC, datetime

import pytest

from services.client import budgets
from services.client import ledger as ledgers
from services.client.policy import Policy
from services.client.state import LocalJob
from services.coordinator.personal import planned
from services.coordinator.state import Job
from shared.core.privacy import Skellam, epsilon
from shared.core.secagg.encoding.divided import rounded_sensitivity
from shared.errors import Refused
from shared.events.values import PoissonSampled, Reservation
from shared.job.personal import own_clip_norm, own_mechanism, planned_own_noise
from shared.job.plan import divided_noise, mean_noise_variance, planned_bound, planned_noise, planned_steps
from shared.job.specification import JobSpecification

DELTA = 1e-5
NOW = datetime(2026, 1, 1, tzinfo=UTC)
DIVIDED = {
    "privacy": {"noise": "divided"},
    "training": {"optimizer": "sgd", "local_steps": 1, "learning_rate": 0.1},
    "aggregation": {"secure": "oneshot", "bits": 16, "weight_cap": 500},
    "rounds": {"count": 40, "min_clients": 4},
}


def specification(**changes):
    body = {
        "name": "job",
        "model": {"base": "minilm", "task": "causal-lm"},
        "data": {"text": "text"},
        "privacy": {"epsilon": 8, "delta": DELTA, "personal_budgets": True, "sampling_rate": 0.1},
    }
    for section, values in changes.items():
        body[section] = {**body.get(section, {}), **values}
    return JobSpecification.model_validate(body)


def divided(rotate=False):
    return specification(**{**DIVIDED, "aggregation": {**DIVIDED["aggregation"], "rotate": rotate}})


@pytest.mark.parametrize(("own", "noise"), [(4, 1.2964), (2, 2.0634), (1, 3.5717), (0.5, 6.4942)])
def test_the_noise_multiplier_for_an_own_epsilon_is_the_least_that_keeps_it(own, noise):
    job = specification(rounds={"count": 10}, training={"local_steps": 8})
    sigma = planned_noise(job)
    assert sigma == 0.888
    found = planned_own_noise(job, sigma, own)
    assert found == noise
    reached = epsilon([own_mechanism(job, sigma, found, planned_steps(job))], DELTA)
    assert own - 0.01 < reached <= own
    norm = own_clip_norm(job, sigma, found, 1000)
    assert norm * found == pytest.approx(job.privacy.clip_norm * sigma, rel=1e-12)


def test_who_needs_no_more_noise_than_the_job_has_clips_as_everyone():
    job = specification(privacy={"noise_multiplier": 6.0})
    assert planned_own_noise(job, 6.0, 4) == 6.0
    assert own_clip_norm(job, 6.0, 6.0, 1000) == job.privacy.clip_norm


@pytest.mark.parametrize(("dimension", "rotate"), [(2_500, False), (300_000, True)])
def test_rounded_to_integers_a_record_moves_them_by_no_more_than_the_own_noise_allows(dimension, rotate):
    job = divided(rotate)
    sigma = planned_noise(job)
    own = planned_own_noise(job, sigma, 2)
    noise, bits = divided_noise(job, sigma), job.aggregation.bits
    encoding = noise.encoding(dimension, bits, planned_bound(job, sigma), b"seed" if rotate else None)
    factor = own_clip_norm(job, sigma, own, dimension) / job.privacy.clip_norm
    usual = rounded_sensitivity(noise.sensitivity / encoding.step, encoding.length)
    lessened = rounded_sensitivity(factor * noise.sensitivity / encoding.step, encoding.length)
    assert 0.99 * sigma / own * usual < lessened <= sigma / own * usual
    assert factor < sigma / own, "rounding moves the integers as far as it moves others'"
    charged = own_mechanism(job, sigma, own, planned_steps(job))
    assert charged.l2_sensitivity <= lessened
    assert epsilon([charged], DELTA) <= 2


@pytest.mark.parametrize("steps_of_noise", [3.0, 30.0, 3000.0])
@pytest.mark.parametrize("noise", [0.8, 3.0])
def test_more_steps_of_noise_or_a_larger_multiplier_never_cost_more(steps_of_noise, noise):
    def cost(s, z):
        return epsilon([Skellam.of_any_dimension(0.1, z, 40, s / z)], DELTA)

    charged = cost(steps_of_noise, noise)
    for more_s, more_z in ((1.0, 1.1), (1.1, 1.0), (2.0, 1.5), (50.0, 1.0), (1.0, 3.0)):
        assert cost(steps_of_noise * more_s, noise * more_z) <= charged


def test_an_update_too_long_for_a_small_budget_is_refused_before_training():
    job = divided()
    sigma = planned_noise(job)
    with pytest.raises(Refused, match=r"privacy\.epsilon.*rounding 300000 coordinates"):
        own_clip_norm(job, sigma, planned_own_noise(job, sigma, 2), 300_000)


def test_the_noise_on_the_mean_is_the_jobs_whoever_has_an_own_budget():
    job = specification(training={"optimizer": "sgd"})
    sigma = planned_noise(job)
    own = planned_own_noise(job, sigma, 1)
    norm = own_clip_norm(job, sigma, own, 1000)
    clipped = job.model_copy(update={"privacy": job.privacy.model_copy(update={"clip_norm": norm})})
    theirs = mean_noise_variance(clipped, own, [50], 8)
    assert theirs == pytest.approx(mean_noise_variance(job, sigma, [50], 8), rel=1e-12)


def local(epsilon_=2.0):
    job = specification()
    whole = LocalJob(job_id="j", specification=job, noise_multiplier=planned_noise(job))
    return budgets.planned(whole, Policy(largest_epsilon=epsilon_))


def reserved(job, mechanism, limit):
    reservation = Reservation(
        reservation_id="s1", client_id="a", mechanism=mechanism, epsilon_after=1, epsilon_limit=limit,
        delta=DELTA,
    )  # fmt: skip
    return ledgers.reserve(budgets.new_ledger(job), "r1", reservation, [], Policy())


def test_a_worker_reserves_its_own_mechanism_under_its_own_epsilon_and_no_other():
    job = local()
    own = budgets.new_ledger(job).announced
    assert own.noise_multiplier == job.own_noise > job.noise_multiplier
    assert reserved(job, own, 2.0).entries[0].mechanism == own
    with pytest.raises(Refused, match="epsilon_limit"):
        reserved(job, own, 8.0)
    with pytest.raises(Refused, match="noise_multiplier"):
        reserved(job, PoissonSampled.of_round(job.specification, job.noise_multiplier), 2.0)


def test_an_epsilon_that_no_noise_keeps_declines_the_job():
    with pytest.raises(Refused, match=r"privacy\.epsilon"):
        local(1e-5)


def job_of(**privacy):
    found = specification(privacy=privacy)
    return Job(job_id="j", specification=found, noise_multiplier=planned_noise(found), accepted_at=NOW)


def test_the_coordinator_plans_what_the_worker_does_and_keeps_to_it():
    job = job_of()
    own = planned(job, "a", 2.0, None)
    assert own.noise_multiplier == local().own_noise
    assert planned(job, "a", 2.0, own) is own
    assert planned(job, "b", 8.0, None) is None
    for other in (4.0, None):
        with pytest.raises(Refused, match="said before"):
            planned(job, "a", other, own)


@pytest.mark.parametrize(("personal", "own"), [(False, 2.0), (True, 1e-5)])
def test_who_cannot_be_given_its_own_epsilon_is_refused(personal, own):
    with pytest.raises(Refused, match=r"privacy\.epsilon"):
        planned(job_of(personal_budgets=personal), "a", own, None)
