"""`fedlora rules`: every rule a job may name, with the same figures by which a job is refused."""

import json

import pytest

from shared.core.robust.judging import names
from shared.job.refusals import refusals
from tests.command_line import fedlora
from tests.unit.test_refusals_aggregation import job


def listed(*options):
    code, out, err = fedlora("rules", "--json", *options)
    assert (code, err) == (0, "")
    return {line["rule"]: line for line in json.loads(out)}


def test_every_rule_is_listed_with_what_it_assumes():
    found = listed()
    assert set(found) == set(names())
    assert all(line["assumes"] for line in found.values())
    assert "no breakdown point" in found["foolsgold"]["warning"]


@pytest.mark.parametrize("clients", [9, 30])
def test_what_a_rule_is_said_to_bear_is_what_a_job_may_ask_of_it_and_no_more(clients):
    for rule, line in listed("--clients", clients).items():
        if rule in ("mean", "fltrust"):
            continue
        for secure in line["under"]:
            settings = {"robust": rule, "secure": secure.split()[0]}
            if secure != "none":
                settings["smallest_group"] = 2
            if "mixing" in secure:
                settings["mixing"] = "nearest-neighbour"

            def fields(malicious, settings=settings):
                specification = job({**settings, "malicious": malicious}, {"min_clients": clients})
                return {refused.field for refused in refusals(specification)}

            if line["bears"]:
                assert fields(line["bears"]) == set(), (rule, secure)
            assert "aggregation.malicious" in fields(line["bears"] + 1), (rule, secure)


def test_groups_are_counted_instead_of_clients():
    assert listed("--clients", 1000, "--group-size", 10)["median"]["bears"] == 49
    assert listed("--clients", 30, "--group-size", 8)["fltrust"]["under"] == []


def test_the_table_is_for_people():
    code, out, _ = fedlora("rules")
    assert code == 0
    assert "bears of 30" in out
    assert "FoolsGold has no breakdown point" in out
