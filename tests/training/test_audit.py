"""The audit passes the private step as it is, and catches each bug that is planted in it."""

import hashlib
import itertools

import numpy as np
import pytest
import torch

from services.client.training import optimizer as optimizing
from services.client.training import step as private
from services.client.training.auditing import audit, run
from services.client.training.clipping import FixedClipping
from services.client.training.noise import KeyStream
from services.client.training.optimizer import SecureDPOptimizer
from shared.core.privacy import Mechanism, epsilon
from shared.errors import Refused
from shared.job.specification import JobSpecification
from tests.training.models import adapted, batch_mean, job, records

CLIP = 0.05
TENSORS = 16  # that the small Llama trains


def keyed(key):
    """Randomness that is the same in every run of a test."""
    print(f"key {key}")
    draws = itertools.count()
    return KeyStream(lambda count: hashlib.shake_256(f"{key}/{next(draws)}".encode()).digest(count))


def private_job(family="llama", **privacy):
    settings = {"clip_norm": CLIP, "sampling_rate": 0.5, "noise_multiplier": 1.0, **privacy}
    return JobSpecification.model_validate({**job(family).model_dump(), "privacy": settings})


def audited(family="llama", *, key=1, canaries=500, steps=6, data=None, **privacy):
    data = data or records(family, [5, 9, 4, 20, 7, 30])
    found = audit(
        adapted(family),
        private_job(family, **privacy),
        data,
        canaries=canaries,
        steps=steps,
        stream=keyed(key),
    )
    print(found)
    return found


def shrink_noise(monkeypatch, factor):
    sound = optimizing.noised

    def less(total, sigma, stream):
        return sound(total, factor * sigma, stream) if factor else total

    monkeypatch.setattr(optimizing, "noised", less)


@pytest.mark.parametrize("clipping", ["fixed", "per-layer", "automatic", "adaptive"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_the_private_step_as_it_is_passes(family, clipping):
    report = audited(family, clipping=clipping)
    assert report.sound
    assert report.noise[0].variance == pytest.approx(1.0, abs=0.1)


def test_the_claim_is_that_of_the_steps_taken():
    report = audited(sampling_rate=0.3, steps=5)
    assert report.claimed_epsilon == epsilon([Mechanism(0.3, 1.0, 5)], report.delta)


def test_adaptive_clipping_is_audited_with_the_noise_of_its_gradients():
    report = audited(clipping="adaptive", noise_multiplier=2.0, steps=5)
    assert report.claimed_epsilon == epsilon([Mechanism(0.5, 2.0, 5)], report.delta)


def test_a_sound_step_is_seen_to_leak_something_and_less_than_claimed():
    report = audited(sampling_rate=1.0, steps=1, canaries=1000)
    assert 1.0 < report.audited_epsilon < report.claimed_epsilon < report.most_audited_epsilon


def test_empty_samples_are_audited_too():
    assert audited(sampling_rate=1e-3, canaries=10, steps=20).sound


@pytest.mark.parametrize("factor", [0.0, 0.5, 0.9])
def test_noise_that_is_forgotten_or_too_small_is_caught_by_its_variance(monkeypatch, factor):
    shrink_noise(monkeypatch, factor)
    report = audited()
    assert {test.what for test in report.failed_noise} >= {"variance over all coordinates"}
    assert report.noise[0].variance == pytest.approx(factor**2, abs=0.05)


def test_forgotten_noise_is_caught_by_the_canaries_alone(monkeypatch):
    shrink_noise(monkeypatch, 0.0)
    report = audited(noise_multiplier=2.0, steps=2)
    assert report.refuted
    assert report.audited_epsilon > 1.5 * report.claimed_epsilon


def test_the_same_noise_in_every_step_is_caught(monkeypatch):
    drawn = {}

    def repeated(total, sigma, stream):
        return total + drawn.setdefault(len(drawn) % TENSORS, stream.gaussian(total.size, sigma))

    monkeypatch.setattr(optimizing, "noised", repeated)
    failed = {test.what for test in audited().failed_noise}
    assert "variance along the noise of the step before" in failed


def test_records_sampled_twice_are_caught_by_what_the_sum_leaves_over_and_seen_by_the_canaries(monkeypatch):
    sound = run.poisson_sample
    monkeypatch.setattr(run, "poisson_sample", lambda *which: np.repeat(sound(*which), 2))
    report = audited()
    assert "drift along the canaries" in {test.what for test in report.failed_noise}
    monkeypatch.setattr(run, "poisson_sample", sound)
    assert audited().audited_epsilon < report.audited_epsilon - 1.0


def test_one_record_sampled_twice_in_each_step_is_caught(monkeypatch):
    sound = run.poisson_sample

    def first_of_them_twice(*which):
        chosen = sound(*which)
        return np.concatenate([chosen[:1], chosen])

    monkeypatch.setattr(run, "poisson_sample", first_of_them_twice)
    report = audited(noise_multiplier=0.5, steps=30, canaries=50)
    assert "drift along the records" in {test.what for test in report.failed_noise}


def test_a_batch_whose_gradients_are_summed_twice_is_caught(monkeypatch):
    sound = SecureDPOptimizer.clip_and_accumulate

    def twice(self):
        sound(self)
        sound(self)

    monkeypatch.setattr(SecureDPOptimizer, "clip_and_accumulate", twice)
    assert audited().failed_noise


def test_forgotten_clipping_is_caught_by_the_canaries(monkeypatch):
    monkeypatch.setattr(FixedClipping, "factors", lambda self, norms: torch.ones_like(norms))
    report = audited(noise_multiplier=2.0, sampling_rate=1.0, steps=1)
    assert report.refuted


def test_a_loss_averaged_over_the_batch_is_caught(monkeypatch):
    short, long = records("llama", [4], 1)[0], records("llama", [60], 2)[0]
    data = [records("llama", [2], 5)[0], *[short] * 12, long]
    # As large as a short record's own gradient: clipping does not hide that the others rescale it.
    assert audited(data=data, clip_norm=2.0, canaries=50, steps=20).sound
    monkeypatch.setattr(private, "losses", batch_mean)
    report = audited(data=data, clip_norm=2.0, canaries=50, steps=20)
    assert "variance along the records" in {test.what for test in report.failed_noise}


def test_more_canaries_than_trained_parameters_are_refused():
    with pytest.raises(Refused, match="do not fit in the 1024 trained parameters"):
        audited(canaries=1025)
