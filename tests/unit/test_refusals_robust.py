"""A rule goes only with what it can see and bear, and the nearest setting that a refusal names works."""

import pytest

from shared.core.robust.judging import Choice, names
from shared.job.plan import fewest_selected
from shared.job.refusals import refusals
from shared.job.refusals.cohort import cohort_refusals
from shared.job.refusals.robust import most_malicious
from tests.unit.test_refusals_aggregation import followed, job, only

KRUM = {"robust": "multi-krum", "malicious": 3}


@pytest.mark.parametrize(
    ("aggregation", "clients", "field", "reason"),
    [
        ({"robust": "multi-crum", "malicious": 1, "secure": "none"}, 20, "aggregation.robust", "not one of centred-clipping"),
        ({"robust": "multi-krum", "malicious": 0, "secure": "none"}, 20, "aggregation.malicious", "is the mean"),
        (KRUM, 20, "aggregation.robust", "oneshot opens only sums"),
        ({**KRUM, "secure": "secagg", "malicious": 1}, 40, "aggregation.robust", "secagg opens only sums"),
        ({"robust": "median", "secure": "mpc3"}, 20, "aggregation.robust", "inner products alone"),
        ({"robust": "trimmed-mean", "secure": "secagg", "malicious": 1}, 40, "aggregation.robust", "only sums"),
        ({"robust": "krum", "secure": "mpc3", "malicious": 2}, 20, "aggregation.robust", "one client's update"),
        ({**KRUM, "secure": "mpc3"}, 10, "rounds.min_clients", "over 7 updates"),
        ({"robust": "fltrust", "secure": "none"}, 20, "aggregation.root", "none is named"),
        ({"robust": "mean", "root": "anna"}, 20, "aggregation.root", "trusts nobody"),
        ({"robust": "fltrust", "root": "anna"}, 20, "aggregation.robust", "compares updates"),
        ({"robust": "median", "secure": "none", "mixing": "buckets"}, 20, "aggregation.mixing", "inner products"),
        ({**KRUM, "secure": "none", "bucket": 3}, 20, "aggregation.bucket", "no buckets"),
        ({**KRUM, "secure": "none", "weight_cap": 9}, 20, "aggregation.weight_cap", "counts every client the same"),
        ({"suspend_at": 3.0}, 20, "aggregation.suspend_at", "leaves nobody out"),
        ({"robust": "geometric-median", "secure": "none", "suspend_at": 5}, 20, "aggregation.suspend_at", "that is 0"),
        ({"robust": "fltrust", "secure": "mpc3", "root": "anna", "malicious": 2}, 10, "rounds.min_clients", "over 7"),
        ({"robust": "cosine-clustering", "secure": "mpc3", "malicious": 2}, 12, "rounds.min_clients", "may keep 7"),
        ({"robust": "foolsgold", "secure": "none", "malicious": 1}, 20, "aggregation.malicious", "bears 0"),
        ({**KRUM, "secure": "none", "mixing": "buckets", "bucket": 4}, 20, "aggregation.malicious", "buckets of 4"),
        ({**KRUM, "malicious": 7, "secure": "none"}, 20, "aggregation.malicious", "a third or more"),
        ({"robust": "median", "secure": "none", "group_size": 8, "malicious": 3}, 40, "aggregation.group_size", "than the 2"),
        ({"robust": "krum", "secure": "none", "malicious": 5, "group_size": 4}, 40, "aggregation.group_size", "than the 3"),
        ({**KRUM, "secure": "none", "bits": 8}, 20, "aggregation.bits", "fixed point"),
    ],
)  # fmt: skip
def test_an_impossible_combination_is_refused_and_its_remedy_works(aggregation, clients, field, reason):
    specification = job(aggregation, {"min_clients": clients})
    refused = only(refusals(specification))
    assert refused.field == field
    assert reason in refused.reason
    mended = followed(refused, specification)
    assert field not in {again.field for again in refusals(mended)}, refused.remedy


@pytest.mark.parametrize("secure", ["none", "mpc3"])
@pytest.mark.parametrize(
    "rule", ["multi-krum", "norm-clipped-mean", "centred-clipping", "geometric-median", "cosine-clustering"]
)
def test_just_under_a_third_may_be_malicious_where_single_updates_are_judged(rule, secure):
    settings = {"robust": rule, "secure": secure}
    assert refusals(job({**settings, "malicious": 9}, {"min_clients": 28})) == ()
    assert "aggregation.malicious" in {
        refused.field for refused in refusals(job({**settings, "malicious": 10}, {"min_clients": 28}))
    }


def test_no_rule_is_accepted_for_a_third_of_a_cohort():
    for rule in names():
        for secure in ("none", "mpc3", "oneshot"):
            specification = job(
                {"robust": rule, "secure": secure, "malicious": 10, "root": "anna"}, {"min_clients": 30}
            )
            assert any(refused.field == "aggregation.malicious" for refused in refusals(specification)), rule


def test_a_coordinate_wise_rule_in_the_clear_has_use_for_bits_and_a_bound():
    assert refusals(job({"robust": "median", "secure": "none", "bits": 8, "bound": 0.1})) == ()


def test_an_adapter_too_long_for_a_sketch_is_refused_when_its_dimension_is_known():
    specification = job({**KRUM, "secure": "mpc3"}, {"min_clients": 20})
    assert cohort_refusals(specification, 20, 2_500_000) == ()
    assert only(cohort_refusals(specification, 20, 4_000_000)).field == "lora.rank"
    assert cohort_refusals(job({"secure": "mpc3"}), 20, 4_000_000) == ()


def test_no_sum_is_opened_in_which_malicious_clients_leave_fewer_than_two_honest_ones():
    for clients in range(12, 60):
        for malicious in range(1, (clients - 1) // 3 + 1):
            aggregation = {"robust": "multi-krum", "secure": "mpc3", "malicious": malicious}
            specification = job(aggregation, {"min_clients": clients})
            if refusals(specification) == ():
                assert fewest_selected(specification) >= max(8, malicious + 2)
                assert clients - malicious >= fewest_selected(specification)


@pytest.mark.parametrize("rule", ["median", "multi-krum", "geometric-median"])
def test_a_rule_bears_as_many_malicious_clients_as_groups_wherever_they_are(rule):
    choice = Choice(rule)
    for clients, size in ((1000, 2), (1000, 5), (1000, 32), (60, 8)):
        most, groups = most_malicious(clients, size, choice), clients // size
        assert 0 < most <= choice.kind.largest_f(groups)
        for malicious, fits in ((most, True), (most + 1, False)):
            aggregation = {"robust": rule, "secure": "none", "group_size": size, "malicious": malicious}
            found = {one.field for one in refusals(job(aggregation, {"min_clients": clients}))}
            assert fits == (not found & {"aggregation.group_size", "aggregation.malicious"}), (clients, size)
