"""Methods, optimisers and rounds that cannot go together are refused, and what a refusal proposes works."""

import pytest

from shared.core.lora.methods import METHODS
from shared.core.optimisers import OPTIMISERS
from shared.job.refusals import refusals
from shared.job.refusals.cohort import cohort_refusals
from tests.unit.test_refusals_aggregation import followed, job

CLEAR = {"secure": "none"}
SGD = {"optimizer": "sgd"}
SCAFFOLD = {"server": {"optimizer": "scaffold"}, "training": SGD}
ASKED = {"min_clients": 4, "clients_per_round": 8}
DIVIDED = {
    "privacy": {"noise": "divided"},
    "aggregation": {"weight_cap": 100},
    "rounds": {"min_clients": 8},
    "training": {"optimizer": "sgd", "local_steps": 1},
}
JUDGED = {
    "aggregation": {"secure": "none", "robust": "median", "malicious": 2},
    "rounds": {"min_clients": 10},
}


@pytest.mark.parametrize(
    ("blocks", "field", "reason"),
    [
        ({"lora": {"method": "flora"}}, "lora.method", "opens a sum alone"),
        ({**JUDGED, "lora": {"method": "fedex"}}, "aggregation.robust", "each client's factors"),
        ({"lora": {"method": "flora"}, "aggregation": {**CLEAR, "group_size": 4}, "rounds": {"min_clients": 8}},
         "aggregation.group_size", "groups give sums"),
        ({"lora": {"method": "flexlora"}, "aggregation": CLEAR, "server": {"optimizer": "fedavgm"}},
         "server.optimizer", "no mean update"),
        ({"lora": {"method": "fedex"}, "aggregation": CLEAR, "compression": {"kind": "random-k"}},
         "compression.kind", "multiply to nothing"),
        ({"lora": {"method": "flora"}, "aggregation": CLEAR, "model": {"base": "m", "task": "causal-lm", "quantisation": "4bit"}},
         "model.quantisation", "frozen in 4bit"),
        ({"lora": {"method": "rolora", "mixed_ranks": True}}, "lora.mixed_ranks", "same rank"),
        ({**JUDGED, "lora": {"mixed_ranks": True}}, "lora.mixed_ranks", "outlier"),
        ({"server": {"proximal": 0.1}}, "server.proximal", "has none"),
        ({"server": {"optimizer": "fedavgm", "memory": 0.9}}, "server.memory", "has none"),
        ({"server": {"optimizer": "fedprox"}, "training": {"local_steps": 1}}, "server.optimizer", "is fedavg"),
        ({"server": {"optimizer": "fedprox", "proximal": 0}}, "server.proximal", "is fedavg"),
        ({"server": {"optimizer": "fedadam"}}, "server.learning_rate", "by about 1 "),
        ({"server": {"optimizer": "fedavgm"}, "lora": {"method": "rolora"}}, "server.optimizer", "another factor"),
        ({"server": {"optimizer": "fedyogi", "learning_rate": 0.01}, "compression": {"kind": "random-k"}},
         "compression.kind", "leaves most of them out"),
        ({"server": {"optimizer": "scaffold"}}, "training.optimizer", "plain SGD"),
        ({**SCAFFOLD, "aggregation": {"weight_cap": 9}}, "aggregation.weight_cap", "plain mean"),
        ({**SCAFFOLD, "training": {**SGD, "adaptive_steps": True}}, "training.adaptive_steps", "plain mean"),
        ({**DIVIDED, "server": {"optimizer": "scaffold"}}, "privacy.noise", "without noise"),
        ({"compression": {"kind": "top-k"}}, "compression.kind", "data choose"),
        ({"compression": {"kind": "sign"}}, "compression.kind", "no mean"),
        ({"compression": {"keep": 0.5}}, "compression.keep", "nothing is left out"),
        ({"training": {"local_steps": 1, "adaptive_steps": True}}, "training.adaptive_steps", "fewest"),
        ({"rounds": {"selection": "bandwidth"}}, "rounds.selection", "nothing is selected"),
        ({"rounds": {"over_selection": 0.2}}, "rounds.over_selection", "more there are not"),
        ({"rounds": {**ASKED, "clients_per_round": 40, "over_selection": 0.5}, "aggregation": {"secure": "secagg"}},
         "rounds.over_selection", "10% of them lost"),
        ({"rounds": {"buffer": 4}}, "rounds.buffer", "synchronous"),
        ({"rounds": {"asynchronous": True}}, "rounds.asynchronous", "sum of one hides nothing"),
        ({"rounds": {"asynchronous": True}, "aggregation": CLEAR, "lora": {"method": "rolora"}}, "lora.method", "together"),
        ({"rounds": {"asynchronous": True}, "aggregation": CLEAR, "training": {"adaptive_steps": True}},
         "training.adaptive_steps", "in common"),
        ({"rounds": {"asynchronous": True, **ASKED, "over_selection": 0.1}, "aggregation": CLEAR},
         "rounds.over_selection", "together"),
        ({"rounds": {"asynchronous": True, "min_clients": 4, "buffer": 5}, "aggregation": CLEAR},
         "rounds.buffer", "give 4 updates a step"),
        ({"rounds": {"asynchronous": True, "min_clients": 10}, "aggregation": CLEAR, "privacy": {"clipping": "adaptive"}},
         "privacy.clipping", "together"),
        ({**DIVIDED, "rounds": {"asynchronous": True, "min_clients": 10}}, "privacy.noise", "together"),
        ({"evaluation": {"share": 0.3}}, "evaluation.share", "nothing is evaluated"),
        ({"evaluation": {"every": 1, "stop_epsilon": 0.5}}, "evaluation.patience", "how many"),
        ({"evaluation": {"every": 1, "patience": 2, "stop_epsilon": 8}}, "evaluation.stop_epsilon", "nothing of epsilon"),
        ({"privacy": {"personal_budgets": True, "clipping": "adaptive"}}, "privacy.personal_budgets", "stay below"),
    ],
)  # fmt: skip
def test_an_impossible_combination_is_refused_and_its_remedy_works(blocks, field, reason):
    specification = job(**blocks)
    found = {refused.field: refused for refused in refusals(specification)}
    assert field in found, found
    assert reason in found[field].reason
    mended = followed(found[field], specification)
    assert field not in {again.field for again in refusals(mended)}, found[field].remedy


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_run(method):
    secure = "oneshot" if METHODS[method].linear else "none"
    assert refusals(job({"secure": secure}, {"min_clients": 4}, lora={"method": method})) == ()


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_optimiser_can_run(name):
    rate = 0.01 if OPTIMISERS[name].noise else 1.0
    blocks = {"server": {"optimizer": name, "learning_rate": rate}, "training": SGD}
    assert refusals(job({}, {"min_clients": 4}, **blocks)) == ()


def test_what_the_rest_allows_can_run():
    assert refusals(job({}, {"min_clients": 4}, compression={"kind": "random-k", "keep": 0.1})) == ()
    assert refusals(job({}, {"min_clients": 4}, training={"adaptive_steps": True})) == ()
    assert refusals(job({}, {**ASKED, "selection": "availability", "over_selection": 0.3})) == ()
    assert refusals(job(CLEAR, {**ASKED, "asynchronous": True, "buffer": 4})) == ()
    assert refusals(job({}, {"min_clients": 4}, evaluation={"every": 1, "patience": 2})) == ()


def test_methods_that_keep_every_update_are_refused_cohorts_that_fill_the_memory():
    specification = job(CLEAR, {"min_clients": 4}, lora={"method": "flora"})
    assert cohort_refusals(specification, 8, 2**26) == ()  # 8 x 256 MiB
    (refused,) = cohort_refusals(specification, 9, 2**26)
    assert refused.field == "lora.method"
    assert "rounds.clients_per_round: 8" in refused.remedy
    assert cohort_refusals(job(CLEAR, {"min_clients": 4}), 9, 2**26) == ()
