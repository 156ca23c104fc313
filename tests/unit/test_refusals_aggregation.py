"""A job whose updates cannot be summed as it says is refused, and the nearest setting it is told works."""

import math
import re

import pytest

from shared.core.secagg.encoding import Adam, Sgd, coordinate_bound
from shared.errors import Refused
from shared.job.hypergeometric import most_marked, tail
from shared.job.loading import JobFileError, parse_job
from shared.job.plan import fewest_in_a_sum, planned_bound
from shared.job.refusals import cohort as refusals_cohort
from shared.job.refusals import refusals
from shared.job.refusals.cohort import cohort_refusals
from shared.job.specification import JobSpecification


def job(aggregation: dict | None = None, rounds: dict | None = None, **blocks: dict) -> JobSpecification:
    return JobSpecification.model_validate(
        {
            "name": "j",
            "model": {"base": "m", "task": "causal-lm"},
            "data": {"text": "text"},
            "aggregation": aggregation or {},
            "rounds": rounds or {},
            **blocks,
        }
    )


def only(found: tuple[Refused, ...]) -> Refused:
    [refused] = found
    return refused


def followed(refused: Refused, specification: JobSpecification) -> JobSpecification:
    """The job with the first remedy taken."""
    tree = specification.model_dump(mode="json")
    setting = re.search(r"(remove|set) (\w+)\.(\w+)(?:: ([\w.+-]+))?", refused.remedy)
    assert setting, refused.remedy
    what, block, name, value = setting.groups()
    if what == "remove":
        del tree[block][name]
    else:
        tree[block][name] = value
    return JobSpecification.model_validate(tree)


@pytest.mark.parametrize(
    ("aggregation", "rounds", "field", "reason"),
    [
        ({"secure": "none", "bits": 8}, {}, "aggregation.bits", "fixed point"),
        ({"secure": "none", "bound": 0.5}, {}, "aggregation.bound", "fixed point"),
        ({"secure": "none", "rotate": True}, {}, "aggregation.rotate", "fixed point"),
        ({"secure": "mpc3", "key_holders": ["a", "b"]}, {}, "aggregation.key_holders", "no key holders"),
        ({"secure": "none", "committee": 8}, {}, "aggregation.committee", "no key holders"),
        ({"key_holders": ["a", "b"], "committee": 8}, {}, "aggregation.committee", "already names"),
        ({"smallest_group": 4}, {}, "aggregation.smallest_group", "no groups"),
        ({"group_size": 5}, {"min_clients": 20}, "aggregation.group_size", "privacy floor is 8"),
        ({"group_size": 30}, {"min_clients": 20, "clients_per_round": 25}, "aggregation.group_size", "only 25"),
        ({"group_size": 10}, {"min_clients": 2}, "rounds.min_clients", "fewer than 8"),
        ({"group_size": 40}, {"min_clients": 10}, "rounds.min_clients", "fewer than 20"),
        ({"stage_s": 26}, {}, "aggregation.stage_s", "1 of them after the last upload"),
        ({"secure": "secagg", "stage_s": 13}, {"min_clients": 9}, "aggregation.stage_s", "2 of them after"),
        ({"secure": "mpc3", "stage_s": 13}, {}, "aggregation.stage_s", "2 of them after"),
        ({"secure": "secagg"}, {"min_clients": 9, "deadline_s": 30}, "aggregation.stage_s", "before the upload"),
        ({"secure": "secagg"}, {"min_clients": 2}, "rounds.min_clients", "among 2 clients"),
        ({"secure": "secagg"}, {"min_clients": 3}, "rounds.min_clients", "among 3 clients"),
        ({"secure": "secagg", "group_size": 3, "smallest_group": 3}, {"min_clients": 9},
         "aggregation.group_size", "among 3 clients"),
        ({}, {"clients_per_round": 2048}, "rounds.clients_per_round", "2048 values of 16 bits can overflow"),
        ({"group_size": 1500}, {"min_clients": 1000, "clients_per_round": 9000}, "aggregation.group_size", "2999 values"),
        ({"secure": "secagg"}, {"min_clients": 4, "clients_per_round": 70_000}, "aggregation.bits", "overflow"),
        ({"malicious": 1}, {"min_clients": 3}, "aggregation.malicious", "a third or more"),
        ({"malicious": 10}, {"min_clients": 12}, "aggregation.malicious", "a third or more"),
        ({"malicious": 63}, {"min_clients": 1000}, "aggregation.malicious", "committee"),
        ({"malicious": 9, "group_size": 10, "key_holders": ["a", "b"]}, {"min_clients": 1000},
         "aggregation.malicious", "fewer than 2 honest"),
        ({"secure": "secagg", "malicious": 2}, {"min_clients": 20}, "aggregation.malicious", "the 1 that may collude"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_and_its_remedy_works(aggregation, rounds, field, reason):
    specification = job(aggregation, rounds)
    refused = only(refusals(specification))
    assert refused.field == field
    assert reason in refused.reason
    assert refusals(followed(refused, specification)) == ()


@pytest.mark.parametrize(
    ("aggregation", "rounds"),
    [
        ({}, {"min_clients": 2}),
        ({"committee": 2}, {"min_clients": 50}),
        ({}, {"clients_per_round": 2047}),
        ({"secure": "mpc3"}, {"clients_per_round": 100_000}),
        ({"secure": "secagg"}, {"min_clients": 4, "clients_per_round": 65_000}),
        ({"secure": "mpc3", "group_size": 16}, {"min_clients": 100}),
        ({"secure": "none", "group_size": 2}, {"min_clients": 2}),
        ({"key_holders": [f"kh{index}" for index in range(64)]}, {}),
        ({"malicious": 1}, {"min_clients": 4}),
        ({"malicious": 62}, {"min_clients": 1000}),
        ({"malicious": 333, "key_holders": ["a", "b"]}, {"min_clients": 1000}),
        ({"group_size": 3, "smallest_group": 2}, {"min_clients": 9}),
        ({"secure": "secagg", "stage_s": 12.5}, {"min_clients": 9}),
    ],
)
def test_what_can_work_is_not_refused(aggregation, rounds):
    assert refusals(job(aggregation, rounds)) == ()


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["a"], "committee of 1"),
        ([f"kh{i}" for i in range(65)], "committee of 65"),
        (["a", "b", "a"], "twice"),
    ],
)
def test_a_committee_has_2_to_64_different_key_holders(names, reason):
    refused = only(refusals(job({"key_holders": names})))
    assert (refused.field, reason in refused.reason) == ("aggregation.key_holders", True)


def test_a_refusal_names_its_line_in_a_job_file():
    text = (
        "name: j\nmodel:\n  base: m\n  task: causal-lm\ndata:\n  text: text\n"
        "aggregation:\n  secure: mpc3\n  key_holders: [anna, bert]\n"
    )
    with pytest.raises(JobFileError) as caught:
        parse_job(text.encode())
    [problem] = caught.value.problems
    assert (problem.line, problem.field) == (9, "aggregation.key_holders")
    assert parse_job(text.replace("mpc3", "oneshot").encode()).aggregation.key_holders == ("anna", "bert")


def test_a_drawn_cohort_is_refused_where_no_file_could_tell():
    assert refusals(job()) == ()
    assert cohort_refusals(job(), 2047) == ()
    assert only(cohort_refusals(job(), 2048)).field == "rounds.clients_per_round"
    grouped = job({"group_size": 1024}, {"min_clients": 600})
    assert cohort_refusals(grouped, 1_000_000) == ()


@pytest.mark.parametrize(("dimension", "allowed"), [(2048, False), (2049, True), (None, True)])
def test_a_rotated_adapter_must_be_as_large_as_the_planned_bound_takes_it_to_be(dimension, allowed):
    rotated = job({"rotate": True})
    assert (cohort_refusals(rotated, 10, dimension) == ()) is allowed
    assert cohort_refusals(job({"rotate": True, "bound": 0.1}), 10, dimension) == ()


def test_malicious_clients_of_a_certain_group_are_counted_and_of_a_chance_one_bounded():
    assert most_marked(40, 40, 12) == 12
    assert tail(10, 4, 3, 3) == pytest.approx(4 / 120)
    most = most_marked(1000, 64, 21)
    assert tail(1000, most, 64, 22) <= 2**-40 < tail(1000, most + 1, 64, 22)


@pytest.mark.parametrize(
    ("secure", "size", "floor", "clients", "fewest"),
    [
        ("oneshot", None, 8, 3, 3), ("oneshot", 10, 8, 20, 8), ("oneshot", 40, 8, 100, 20),
        ("secagg", 10, 2, 20, 5), ("none", 10, 8, 2, 2), ("none", 10, 8, 20, 5),
    ],
)  # fmt: skip
def test_no_group_below_the_floor_is_opened(secure, size, floor, clients, fewest):
    aggregation = {"secure": secure, "group_size": size, "smallest_group": floor}
    assert fewest_in_a_sum(job(aggregation, {"min_clients": clients})) == fewest


def test_the_planned_bound_of_adam_holds_and_is_close_in_every_dimension():
    training = {"optimizer": "adam", "learning_rate": 0.003, "local_steps": 20}
    exact = coordinate_bound(Adam(0.003, 20))
    assert exact <= planned_bound(job(training=training), 1.0) <= 1.002 * exact
    rotated = planned_bound(job({"rotate": True}, training=training), 1.0)
    assert all(rotated >= coordinate_bound(Adam(0.003, 20), d) for d in (1, 2, 30, 2048, 10**6))


@pytest.mark.parametrize("rotate", [False, True])
def test_the_planned_bound_of_sgd_knows_clipping_noise_and_momentum(rotate):
    training = {"optimizer": "sgd", "learning_rate": 0.1, "local_steps": 5, "momentum": 0.9}
    specification = job({"rotate": rotate}, training=training, privacy={"clip_norm": 2.0})
    exact = coordinate_bound(Sgd(0.1, 5, 2.0, 1.5, 1.0, 0.9), 10**6 if rotate else None)
    assert exact <= planned_bound(specification, 1.5) <= 1.002 * exact


def test_a_bound_that_is_given_is_taken():
    assert planned_bound(job({"bound": 0.25}), 3.0) == 0.25


def test_adaptive_clipping_widens_the_bound_of_sgd_and_is_refused_when_it_may_go_anywhere():
    training = {"optimizer": "sgd", "local_steps": 4}
    privacy = {"clipping": "adaptive"}
    adaptive = job(training=training, privacy=privacy)
    fixed = job(training=training)
    gradients = 1.0 / math.sqrt(1 - 0.1**2)
    assert refusals(adaptive) == ()
    widened = planned_bound(fixed, gradients) * math.exp(0.2 * 0.5 * 4 * 3)
    assert planned_bound(adaptive, 1.0) == pytest.approx(widened, rel=2e-3)
    long = job(training=training, privacy=privacy, rounds={"count": 50})
    assert only(refusals(long)).field == "aggregation.bound"
    assert refusals(job({"bound": 0.1}, {"count": 50}, training=training, privacy=privacy)) == ()
    assert refusals(job({"secure": "none"}, {"count": 50}, training=training, privacy=privacy)) == ()


def test_a_bound_out_of_all_proportion_is_refused():
    huge = job(training={"optimizer": "sgd"}, privacy={"clip_norm": 1e35})
    assert only(refusals(huge)).field == "aggregation.bound"


def test_the_graph_of_secagg_is_refused_for_2_and_3_clients_and_for_no_more():
    specification = job({"secure": "secagg"}, {"min_clients": 4})
    refused = [n for n in range(2, 130) if refusals_cohort.cohort_refusals(specification, n)]
    assert refused == [2, 3]
