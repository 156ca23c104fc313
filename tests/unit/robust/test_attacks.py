"""Each attack of `benchmarks/attacks.py` does what its paper says, to draws of one seed."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
from attacking.attacks import ATTACKS, Seen, flipped, largest_z

SEED, HONEST, HOSTILE, DIMENSION = 11, 21, 9, 400


@pytest.fixture
def seen():
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    draws = rng.normal(0.3, 1, (HONEST + HOSTILE, DIMENSION))
    return Seen(draws[:HONEST], draws[HONEST:], rng.standard_normal((HOSTILE, DIMENSION)))


@pytest.mark.parametrize("name", ATTACKS)
def test_one_update_an_attacker_and_nothing_seen_is_changed(name, seen):
    before = [array.copy() for array in (seen.honest, seen.own, seen.normal)]
    assert ATTACKS[name](seen).shape == (HOSTILE, DIMENSION)
    for array, copy in zip((seen.honest, seen.own, seen.normal), before, strict=True):
        assert np.array_equal(array, copy)


def test_sign_flip_is_each_attackers_own_update_five_times_backwards(seen):
    assert np.array_equal(ATTACKS["sign flip x5"](seen), -5 * seen.own)


def test_inner_product_manipulation_turns_the_mean_of_all_against_the_honest_mean(seen):
    sent = ATTACKS["IPM x5"](seen)
    np.testing.assert_allclose(sent[0], -5 * seen.honest.mean(axis=0))
    assert (sent == sent[0]).all()
    assert np.vstack([seen.honest, sent]).mean(axis=0) @ seen.honest.mean(axis=0) < 0


def test_little_is_enough_stays_z_standard_deviations_below_the_mean(seen):
    sent = ATTACKS["ALIE"](seen)
    off = (seen.honest.mean(axis=0) - sent) / seen.honest.std(axis=0)
    np.testing.assert_allclose(off, largest_z(HONEST + HOSTILE, HOSTILE))


@pytest.mark.parametrize(("clients", "hostile", "z"), [(50, 24, 1.43), (30, 9, 0.43), (30, 6, 0.21)])
def test_largest_z_needs_a_majority_with_the_nearest_honest_clients(clients, hostile, z):
    """50 and 24: s = 2, so that 24 of 26 honest clients must be nearer; the others by hand."""
    assert largest_z(clients, hostile) == pytest.approx(z, abs=0.01)


def test_gaussian_noise_is_ten_honest_lengths_long_and_points_nowhere(seen):
    sent = ATTACKS["Gaussian"](seen)
    np.testing.assert_allclose(np.linalg.norm(sent, axis=1) / seen.length, 10, rtol=0.2)
    directions = sent / np.linalg.norm(sent, axis=1)[:, None]
    assert np.abs(directions @ seen.honest.mean(axis=0)).max() < 5 * np.linalg.norm(
        seen.honest.mean(axis=0)
    ) / np.sqrt(DIMENSION)


def test_colluders_send_one_vector_of_an_honest_length_against_the_honest_mean(seen):
    sent, mean = ATTACKS["collusion"](seen), seen.honest.mean(axis=0)
    assert (sent == sent[0]).all()
    assert np.linalg.norm(sent[0]) == pytest.approx(np.median(np.linalg.norm(seen.honest, axis=1)))
    assert sent[0] @ mean == pytest.approx(-np.linalg.norm(sent[0]) * np.linalg.norm(mean))


def test_flipped_labels_are_the_classes_from_the_other_end():
    assert flipped(np.array([0, 1, 2, 3, 4]), 5).tolist() == [4, 3, 2, 1, 0]


def test_who_flips_labels_sends_what_it_learnt(seen):
    assert np.array_equal(ATTACKS["label flip"](seen), seen.own)
