"""What evaluations cost, and that a plan leaves room for all of them."""

import math

import pytest

from shared.core.privacy import Mechanism, epsilon
from shared.events.plans import SessionPlan
from shared.events.values import PoissonSampled
from shared.job.evaluation import beside_training, due, evaluation_mechanism, planned_evaluations
from shared.job.plan import least_planned_noise, mechanism_of, planned_steps
from shared.job.refusals import refusals
from shared.job.specification import JobSpecification


def job(**changes):
    body = {
        "name": "evaluated",
        "model": {"base": "minilm", "task": "causal-lm"},
        "data": {"text": "text"},
        "rounds": {"count": 20, "min_clients": 8, "deadline_s": 60},
        "training": {"local_steps": 4},
        "evaluation": {"every": 1},
    }
    for section, values in changes.items():
        body[section] = {**body.get(section, {}), **values}
    return JobSpecification.model_validate(body)


DIVIDED = {
    "privacy": {"noise": "divided"},
    "training": {"local_steps": 1, "optimizer": "sgd", "learning_rate": 0.1},
    "aggregation": {"weight_cap": 1000, "rotate": True, "bits": 16},
}


@pytest.mark.parametrize(
    ("every", "count", "expected"), [(1, 20, 20), (3, 20, 7), (5, 20, 4), (50, 20, 1), (None, 20, 0)]
)
def test_as_many_evaluations_are_planned_as_become_due(every, count, expected):
    specification = job(evaluation={"every": every}, rounds={"count": count})
    assert planned_evaluations(specification) == expected
    evaluated, happened = 0, 0
    for completed in range(1, count + 1):
        if due(specification, completed, evaluated):
            evaluated, happened = completed, happened + 1
    assert happened == expected
    assert (evaluated == count) == bool(expected)


def test_one_evaluation_costs_what_a_gaussian_query_of_every_record_does():
    """Balle and Wang 2018, arXiv:1805.06530, Theorem 8, gives delta of a Gaussian query exactly."""
    noise, delta = 10.0, 1e-5
    found = epsilon([evaluation_mechanism(job())], delta)

    def delta_at(eps):
        def phi(x):
            return math.erfc(-x / math.sqrt(2)) / 2

        return phi(0.5 / noise - eps * noise) - math.exp(eps) * phi(-0.5 / noise - eps * noise)

    assert delta_at(found) <= delta < delta_at(found - 2e-3)


@pytest.mark.parametrize("changes", [{}, {"evaluation": {"every": 7}}, DIVIDED])
def test_training_and_all_evaluations_stay_under_epsilon_and_less_noise_would_not(changes):
    specification = job(**changes)
    assert not refusals(specification)
    noise, steps = least_planned_noise(specification), planned_steps(specification)
    beside = beside_training(specification)
    assert epsilon([mechanism_of(specification, noise, steps), *beside], 1e-5) <= 8
    assert epsilon([mechanism_of(specification, noise - 1e-3, steps), *beside], 1e-5) > 8 - 1e-6
    without = job(**{**changes, "evaluation": {"every": None}})
    assert least_planned_noise(without) < noise


def test_noise_that_is_given_and_leaves_no_room_is_refused_with_one_that_does():
    enough = least_planned_noise(job())
    assert not refusals(job(privacy={"noise_multiplier": enough}))
    short = refusals(job(privacy={"noise_multiplier": least_planned_noise(job(evaluation={"every": None}))}))
    assert [one.field for one in short] == ["privacy.noise_multiplier"]
    assert f"{enough:g}" in short[0].remedy


def test_evaluations_that_spend_half_of_epsilon_are_refused_with_a_noise_that_works():
    found = [
        one
        for one in refusals(job(evaluation={"every": 1, "noise_multiplier": 1.0}))
        if one.field == "evaluation.noise_multiplier"
    ]
    noise = float(found[0].remedy.split(":")[1].split(",")[0])
    assert not refusals(job(evaluation={"every": 1, "noise_multiplier": noise}))


def test_what_is_asked_of_a_client_is_what_was_planned():
    assert PoissonSampled.of_evaluation(job()).core() == Mechanism(1.0, 10.0, 1)
    assert PoissonSampled.of_evaluation(job(**DIVIDED)).core() == evaluation_mechanism(job(**DIVIDED))


def test_an_evaluation_is_summed_by_the_jobs_protocol_without_its_rule_or_groups():
    specification = job(
        aggregation={"secure": "none", "robust": "median", "group_size": 4, "bits": 8},
        rounds={"min_clients": 8},
    )
    plan = SessionPlan.evaluating(specification)
    assert (plan.protocol, plan.bits, plan.fewest, plan.rule.name, plan.noise) == (
        "none",
        16,
        8,
        "mean",
        None,
    )
    shared = SessionPlan.evaluating(job(**DIVIDED, rounds={"min_clients": 8})).noise
    assert (shared.noise_multiplier, shared.shares) == (10.0, 7)
    assert shared.sensitivity == pytest.approx(math.sqrt(3) / 256)
