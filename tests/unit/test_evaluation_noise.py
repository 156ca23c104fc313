"""The noise on an evaluation's sums is the planned one; which records are asked never changes."""

import math
import secrets
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from services.client.evaluating import HoldOut, evaluate, sums
from shared.core.secagg.encoding.codec import decode_sum, encode
from shared.job.evaluation import BITS, DIMENSION, SENSITIVITY, divided_over, noise_on_sums, own_noise, scale
from tests.unit.test_evaluation_plan import DIVIDED, job

RUNS = 4000
MEASURED = np.tile([1.0, 2.0], (100, 1))


class Known:
    def evaluate(self, task, progress, cancelled):
        return MEASURED


def uploads(specification, count, random_bytes):
    """(count, 3) of what clients encode, in records, less what is true."""
    task = SimpleNamespace(clip_norm=1.0, specification=specification)
    results = [evaluate(Known(), task, None, lambda: False, random_bytes) for _ in range(count)]
    true = sums(MEASURED, specification)
    divided = divided_over(specification)
    if divided is None:
        assert all(one.noised for one in results)
        return np.array([one.update for one in results], np.float64) * scale(specification) - true
    assert not any(one.noised for one in results)
    encoding = divided.encoding(DIMENSION, BITS, 1.0, None)
    encoded = [encode(encoding, one.update, 1.0, random_bytes).values for one in results]
    decoded = np.array([decode_sum(encoding, one.astype(np.float64)) for one in encoded], np.float64)
    return decoded * scale(specification) - true


@pytest.mark.parametrize("changes", [{}, DIVIDED])
def test_a_sums_noise_has_the_planned_variance(changes):
    seed = secrets.randbits(63)
    print("seed", seed)
    generator, specification = np.random.default_rng(seed), job(**changes)
    left = uploads(specification, RUNS, generator.bytes).ravel()
    sigma = noise_on_sums(specification, 1)
    statistic = float(left @ left) / sigma**2
    assert stats.chi2.ppf(5e-7, left.size) < statistic < stats.chi2.ppf(1 - 5e-7, left.size)
    assert abs(left.mean()) < 6 * sigma / math.sqrt(left.size)


def test_a_clients_own_noise_and_that_of_all_honest_survivors_are_what_is_charged():
    noise = job().evaluation.noise_multiplier
    assert own_noise(job()) == noise * SENSITIVITY
    specification = job(**DIVIDED)
    divided = divided_over(specification)
    encoding = divided.encoding(DIMENSION, BITS, 1.0, None)
    together = math.sqrt(divided.shares) * encoding.noise_sigma * scale(specification)
    assert together >= noise * SENSITIVITY
    assert together == pytest.approx(noise * SENSITIVITY, rel=0.05)  # rounding adds to the sensitivity


def test_one_record_more_changes_what_is_released_by_no_more_than_its_sensitivity():
    seed = secrets.randbits(63)
    print("seed", seed)
    random, specification = np.random.default_rng(seed), job(evaluation={"records": 30})
    for _ in range(200):
        contents = [random.bytes(8) for _ in range(int(random.integers(20, 200)))]
        measured = {content: random.normal(0, 20, 2) for content in contents}
        hold_out = HoldOut(random.bytes(32), 0.5)

        def released(some, hold_out=hold_out, measured=measured):
            indices = hold_out.asked(some, 30)
            figures = np.array([measured[some[index]] for index in indices]).reshape(-1, 2)
            return sums(figures, specification)

        moved = released(contents) - released(contents[1:])
        assert np.linalg.norm(moved) <= SENSITIVITY + 1e-9


def test_what_is_not_a_number_counts_as_wrong_and_keeps_its_bound():
    found = sums(np.array([[np.nan, np.nan], [np.inf, -np.inf], [0.5, 1e9]]), job())
    assert found.tolist() == [1.5, 3.0, 2.0]
    assert np.isfinite(found).all()


def test_records_are_held_out_by_their_content_and_the_key_alone():
    contents = [b"record %d" % number for number in range(4000)]
    hold_out = HoldOut(b"k" * 32, 0.1)
    held = {content for content in contents if hold_out.holds(content)}
    assert len(held) == pytest.approx(400, abs=6 * math.sqrt(360))
    shuffled = contents[::-1]
    asked = [shuffled[index] for index in hold_out.asked(shuffled, 50)]
    assert [contents[index] for index in hold_out.asked(contents, 50)] == asked
    assert set(asked) <= held
    others = {content for content in contents if HoldOut(b"o" * 32, 0.1).holds(content)}
    assert len(others & held) < len(held) / 2
