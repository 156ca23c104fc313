"""Rules on the Gram matrix give what ByzFL and HDBSCAN give on the updates; golden/gram_peers.py wrote the answers."""

import json
from pathlib import Path

import numpy as np
import pytest

from shared.core.robust.gram import RULES, bucketing, nearest_neighbour_mixing, weigh_mixed
from shared.core.robust.gram.centred_clipping import clip_to_centre
from shared.core.robust.gram.geometric_median import weiszfeld

GOLDEN = json.loads(Path(__file__).with_name("golden").joinpath("gram_peers.json").read_text())
F = GOLDEN["f"]


@pytest.fixture(params=GOLDEN["cohorts"].items(), ids=list(GOLDEN["cohorts"]))
def cohort(request):
    print(f"seed {GOLDEN['seed']}, {request.param[0]}")
    return {
        name: answer if name == "bucketing" else np.array(answer) for name, answer in request.param[1].items()
    }


@pytest.fixture
def updates(cohort):
    return cohort["updates"]


@pytest.fixture
def gram(updates):
    return updates @ updates.T


def near(update, golden, updates):
    """To 1e-6 of the median length of an update: one that is a million times as long costs 12 digits."""
    scale = np.median(np.linalg.norm(updates, axis=1))
    assert np.abs(update - golden).max() <= 1e-6 * scale


@pytest.mark.parametrize("name", ["krum", "multi-krum"])
def test_krum(name, cohort, updates, gram):
    near(RULES[name](gram, F).weights @ updates, cohort[name.replace("-", "_")], updates)


def test_weiszfeld_steps(cohort, updates, gram):
    weights = weiszfeld(gram, np.zeros(len(gram)), smoothing=0.1, steps=3)
    near(weights @ updates, cohort["geometric_median_3_steps"], updates)


def test_geometric_median(cohort, updates, gram):
    near(RULES["geometric-median"](gram, F).weights @ updates, cohort["geometric_median"], updates)


def test_centred_clipping(cohort, updates, gram):
    start = np.zeros(len(gram))
    weights = clip_to_centre(gram, start, GOLDEN["radius"], GOLDEN["steps"]).weights
    near(weights @ updates, cohort["centred_clipping"], updates)


def test_nearest_neighbour_mixing(cohort, updates, gram):
    mixing = nearest_neighbour_mixing(gram, F)
    near(mixing.matrix @ updates, cohort["nearest_neighbour_mixing"], updates)


@pytest.mark.parametrize("name", ["multi-krum", "geometric-median"])
def test_weights_compose_after_mixing(name, cohort, updates, gram):
    weights = weigh_mixed(RULES[name], nearest_neighbour_mixing(gram, F), gram, F).weights
    near(weights @ updates, cohort[f"mixing_then_{name.replace('-', '_')}"], updates)


def test_bucketing(cohort, updates):
    mixing = bucketing(np.array(cohort["bucketing"]["permutation"]), GOLDEN["bucket"])
    near(mixing.matrix @ updates, np.array(cohort["bucketing"]["rows"]), updates)


def test_cosine_clustering_admits_what_hdbscan_does(cohort, gram):
    admitted = np.flatnonzero(RULES["cosine-clustering"](gram, F).weights)
    assert admitted.tolist() == cohort["densest_majority"].tolist()
