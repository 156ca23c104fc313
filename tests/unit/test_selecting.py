"""Whom a round asks: as often as the weights say, the root always, more than it needs where told to."""

import os
import random
from collections import Counter

import pytest

from services.coordinator.cohort.pace import Pace
from services.coordinator.cohort.selecting import cohort, enough, sample, weights
from shared.job.plan import clients_asked
from tests.unit.test_refusals_aggregation import job

SEED = int(os.environ.get("TEST_SEED", "11"))


@pytest.fixture
def drawn():
    print("seed", SEED)
    return random.Random(SEED).randbytes


def paces(**changes):
    return {name: Pace(client_id=name, **fields) for name, fields in changes.items()}


def test_each_draw_is_in_proportion_to_the_weights(drawn):
    weighed = {"a": 1.0, "b": 2.0, "c": 5.0}
    count = 4000
    found = Counter(sample(weighed, 1, drawn)[0] for _ in range(count))
    squares = sum((found[name] - count * w / 8) ** 2 / (count * w / 8) for name, w in weighed.items())
    assert squares < 13.8  # chi-squared, 2 degrees of freedom, one in a thousand
    pairs = Counter(sample(weighed, 2, drawn) for _ in range(count))
    expected = 2 / 8 * 5 / 6 + 5 / 8 * 2 / 3
    assert abs(pairs["b", "c"] / count - expected) < 4 * (expected * (1 - expected) / count) ** 0.5


def test_equal_weights_are_a_uniform_choice_without_repetition(drawn):
    weighed = dict.fromkeys("abcdefgh", 1.0)
    found = Counter(name for _ in range(2000) for name in sample(weighed, 3, drawn))
    assert all(abs(found[name] - 750) < 4 * (750 * 5 / 8) ** 0.5 for name in weighed)
    assert sample(weighed, None, drawn) == sample(weighed, 9, drawn) == tuple("abcdefgh")


def test_availability_is_the_share_of_rounds_that_were_finished():
    known = paces(new={}, good={"asked": 8, "finished": 8}, bad={"asked": 8, "finished": 0})
    rather = weights(job({}, {"clients_per_round": 2, "selection": "availability"}), known)
    assert rather == {"new": 0.5, "good": 0.9, "bad": 0.1}


def test_bandwidth_prefers_who_is_expected_soon_and_nearly_never_who_is_late():
    known = paces(fast={"seconds": 10.0}, slow={"seconds": 40.0}, late={"seconds": 900.0}, new={})
    specification = job({}, {"clients_per_round": 2, "selection": "bandwidth", "deadline_s": 600})
    rather = weights(specification, known)
    assert rather["fast"] == 4 * rather["slow"]
    assert rather["new"] == rather["slow"]
    assert 0 < rather["late"] < 1e-15


def test_a_pace_follows_what_came():
    pace = Pace(client_id="a").after(10.0).after(None).after(20.0)
    assert (pace.asked, pace.finished, pace.availability) == (3, 2, 0.6)
    assert pace.seconds == pytest.approx(12.0)


def test_more_are_asked_than_are_needed_and_as_many_end_each_groups_uploads():
    specification = job({}, {"clients_per_round": 8, "over_selection": 0.3})
    assert clients_asked(specification) == 11
    assert enough(specification, 11, 11) == 8
    assert [enough(specification, size, 11) for size in (6, 5)] == [5, 4]
    assert enough(specification, 8, 8) is None
    assert enough(job({}, {"clients_per_round": 8}), 8, 8) is None
    assert clients_asked(job()) is None


def test_the_root_is_always_asked(drawn):
    root = {"secure": "none", "robust": "fltrust", "root": "c"}
    specification = job(root, {"clients_per_round": 2, "min_clients": 2})
    known = paces(a={}, b={}, c={}, d={})
    cohorts = {cohort(specification, list(known), known, drawn) for _ in range(50)}
    assert all("c" in one and len(one) == 2 for one in cohorts)
    assert len(cohorts) == 3
