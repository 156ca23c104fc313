"""Divided noise is refused with what it cannot go with, and taking the remedy gives a job that works."""

import math
import re

import pytest

from shared.core.privacy import Mechanism, Skellam, epsilon
from shared.errors import Refused
from shared.events.plans import NoisePlan, SessionPlan
from shared.events.values import PoissonSampled
from shared.job.plan import (
    divided_noise,
    honest_survivors,
    least_planned_noise,
    mechanism_of,
    planned_bound,
    planned_noise,
)
from shared.job.refusals import refusals
from shared.job.refusals.cohort import cohort_refusals
from shared.job.specification import JobSpecification

WORKING = {
    "name": "j",
    "model": {"base": "m", "task": "causal-lm"},
    "data": {"text": "text"},
    "training": {"optimizer": "sgd", "local_steps": 1, "learning_rate": 0.5},
    "privacy": {"noise": "divided", "sampling_rate": 0.05},
    "rounds": {"count": 200, "min_clients": 10},
    "aggregation": {"weight_cap": 1000, "rotate": True},
}


def job(**changes):
    tree = {**WORKING, **{name: {**WORKING.get(name, {}), **block} for name, block in changes.items()}}
    return JobSpecification.model_validate(tree)


def followed(refused: Refused, specification: JobSpecification) -> JobSpecification:
    """The job with the first remedy taken, and what it adds after a semicolon."""
    tree = specification.model_dump(mode="json")
    found = re.findall(
        r"(?:^|; and )(remove|set|)\s?(\w+)\.(\w+)(?:: ([\w.+-]+))?", refused.remedy.split(", or")[0]
    )
    assert found, refused.remedy
    for what, block, name, value in found:
        if what == "remove":
            del tree[block][name]
        else:
            tree[block][name] = value
    return JobSpecification.model_validate(tree)


def test_a_job_of_divided_noise_is_accepted():
    assert refusals(job()) == ()


CASES = [
    ({"aggregation": {"secure": "none", "rotate": False}}, "aggregation.secure", "opens each update"),
    ({"aggregation": {"weight_cap": None}}, "aggregation.weight_cap", "bounds their sum"),
    (
        {"aggregation": {"robust": "trimmed-mean", "malicious": 1, "group_size": 8}, "rounds": {"min_clients": 40}},
        "aggregation.robust",
        "all that is protected",
    ),
    ({"training": {"local_steps": 8}}, "training.local_steps", "once a round"),
    ({"training": {"optimizer": "adam"}}, "training.optimizer", "without noise"),
    ({"training": {"momentum": 0.9}}, "training.momentum", "starts fresh"),
    ({"privacy": {"clipping": "adaptive"}}, "privacy.clipping", "count of each client"),
    ({"privacy": {"delta": 1e-13}}, "privacy.delta", "not negligible"),
    ({"aggregation": {"bits": 8}}, "aggregation.bits", "too coarse"),
    ({"aggregation": {"rotate": False, "weight_cap": 200_000}}, "aggregation.bits", "too coarse"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "field", "reason"), CASES, ids=[field for _, field, _ in CASES])
def test_what_divided_noise_cannot_go_with_is_refused_and_the_remedy_works(changes, field, reason):
    specification = job(**changes)
    [refused] = [one for one in refusals(specification) if one.field == field]
    assert reason in refused.reason
    assert refusals(followed(refused, specification)) == ()


def test_a_client_that_only_looks_knows_its_own_noise_so_malicious_ones_and_one_more_do_not_count():
    assert honest_survivors(job()) == 9
    assert honest_survivors(job(aggregation={"malicious": 2})) == 7
    assert honest_survivors(job(rounds={"min_clients": 2})) == 1
    tight = job(aggregation={"malicious": 9})
    assert "aggregation.malicious" in [refused.field for refused in refusals(tight)]


def test_sums_so_large_that_no_bits_hold_them_are_refused_with_what_to_lower():
    [refused] = refusals(job(aggregation={"weight_cap": 100_000_000}))
    assert refused.field == "aggregation.weight_cap"
    assert "sampling_rate" in refused.remedy


def test_an_adapter_that_leaves_no_room_is_refused_when_its_size_is_known():
    assert cohort_refusals(job(), 10, 100_000) == ()
    coarse = job(aggregation={"bits": 13})
    assert refusals(coarse) == ()
    [refused] = cohort_refusals(coarse, 10, 30_000_000)
    assert refused.field == "aggregation.bits"


def test_automatic_noise_is_the_least_by_the_accountant_of_the_skellam_mechanism():
    specification = job()
    noise = planned_noise(specification)
    assert least_planned_noise(specification) == noise
    plan = mechanism_of(specification, noise, 200)
    assert isinstance(plan, Skellam)
    assert epsilon([plan], 1e-5) == epsilon([plan], 1e-5, "rdp") <= 8 - 1e-6
    assert epsilon([mechanism_of(specification, noise - 1e-3, 200)], 1e-5) > 8 - 1e-6


def test_integers_cost_more_than_gaussian_noise_and_by_renyi_hardly_more():
    plan = mechanism_of(job(), 1.2, 200)
    gaussian = [Mechanism(plan.sampling_rate, plan.noise_multiplier, 200)]
    spent = epsilon([plan], 1e-5)
    assert (
        epsilon(gaussian, 1e-5)
        <= epsilon(gaussian, 1e-5, "rdp")
        <= spent
        <= 1.02 * epsilon(gaussian, 1e-5, "rdp")
    )


def test_a_finer_grid_and_any_dimension_cost_no_more_than_was_planned():
    plan = mechanism_of(job(), 1.2, 200)
    for finer in (1.0, 1.5, 40):
        for dimension in (1, 10_000, 10**8):
            other = Skellam(
                plan.sampling_rate, 1.2, 200, l2_sensitivity=finer * plan.l2_sensitivity, dimension=dimension
            )
            assert epsilon([other], 1e-5) <= epsilon([plan], 1e-5)


def test_what_a_record_moves_is_the_learning_rate_times_the_clip_norm_over_the_largest_expected_batch():
    noise = divided_noise(job(privacy={"clip_norm": 0.4}), 1.2)
    assert noise.sensitivity == pytest.approx(0.5 * 0.4 / (0.05 * 1000))
    assert (noise.noise_multiplier, noise.shares) == (1.2, 9)


def test_the_bound_is_that_of_a_whole_clients_gradients_without_noise():
    batch, spread = 50, 6 / 64
    expected = 0.5 * (1 + 6 / math.sqrt(batch)) * spread
    assert expected <= planned_bound(job(), 1.2) <= 1.002 * expected


def test_the_round_and_its_session_say_what_noise_is_added():
    a_round = PoissonSampled.of_round(job(), 1.2)
    assert (a_round.kind, a_round.steps) == ("poisson-skellam", 1)
    assert PoissonSampled.of(a_round.core()) == a_round
    plan = SessionPlan.of(job(), 1.2)
    assert plan.noise == NoisePlan(noise_multiplier=1.2, sensitivity=0.01, shares=9)
    assert SessionPlan.of(job(privacy={"noise": "local"}), 1.2).noise is None


@pytest.mark.parametrize(
    "change",
    [{"l2_sensitivity": None}, {"kind": "poisson-gaussian"}, {"bits_noise_multiplier": 12.0}],
)
def test_a_mechanism_of_two_kinds_at_once_is_none(change):
    values = {**PoissonSampled.of_round(job(), 1.2).model_dump(), **change}
    with pytest.raises(ValueError, match="integers"):
        PoissonSampled(**values)
