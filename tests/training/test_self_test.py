"""The checks before the first step see what would make clipping or noise unsound."""

import numpy as np
import pytest
import torch

from services.client.training import self_test, step
from services.client.training.adapted_model import adapt
from services.client.training.noise import KeyStream
from services.client.training.self_test import check_gradients, check_noise
from shared.errors import Refused
from shared.job.specification import Task
from tests.training.models import Padding, adapted, base, job, records

SOME = records("llama", [5, 9, 7, 12])


def test_a_sound_model_passes():
    check_gradients(adapted("llama"), SOME, Task.CAUSAL_LM)
    check_noise(KeyStream())


def test_a_loss_that_mixes_records_is_refused(monkeypatch):
    sound = step.losses
    monkeypatch.setattr(
        "services.client.training.step.losses",
        lambda model, batch, task: sound(model, batch, task) / len(batch.records),
    )
    with pytest.raises(Refused, match="depend on the other records"):
        check_gradients(adapted("llama"), SOME, Task.CAUSAL_LM)


def test_a_factor_beside_one_that_begins_with_zeros_is_looked_at_too(monkeypatch):
    model = adapt(base("llama"), Padding(), job("llama", method="fedit"), torch.device("cpu"))
    before = {name: parameter.detach().clone() for name, parameter in model.parameters.items()}
    check_gradients(model, SOME, Task.CAUSAL_LM)
    assert all(torch.equal(before[name], parameter) for name, parameter in model.parameters.items())
    sound = self_test.gradients

    def wrong_in_a(adapted_model, batch, task):
        sound(adapted_model, batch, task)
        for name, parameter in adapted_model.trained.items():
            if ".lora_A." in name:
                parameter.grad_sample = parameter.grad_sample.roll(1, dims=0)

    monkeypatch.setattr(self_test, "gradients", wrong_in_a)
    with pytest.raises(Refused, match="depend on the other records"):
        check_gradients(model, SOME, Task.CAUSAL_LM)


def test_a_layer_that_normalises_over_the_batch_is_refused():
    model = adapted("llama")
    norm = model.model.get_base_model().model.norm
    sound = norm.forward
    norm.forward = lambda x: sound(x - x.mean(dim=0, keepdim=True) * 0.1)
    with pytest.raises(Refused, match="depend on the other records"):
        check_gradients(model, SOME, Task.CAUSAL_LM)


def test_noise_that_is_too_small_is_refused():
    class Half(KeyStream):
        def gaussian(self, count, sigma):
            return super().gaussian(count, sigma) * 0.97

    with pytest.raises(Refused, match="variance"):
        check_noise(Half())


def test_integers_from_words_that_are_not_uniform_are_refused():
    class Short(KeyStream):
        def words(self, count):
            return super().words(count) >> np.uint64(1)

        def gaussian(self, count, sigma):
            return KeyStream().gaussian(count, sigma)

    with pytest.raises(Refused, match="integers"):
        check_noise(Short())


def test_gradients_start_from_nothing():
    """What an earlier pass left behind is not added to."""
    model = adapted("llama")
    step.gradients(model, step_batch(), Task.CAUSAL_LM)
    first = {name: p.grad_sample.clone() for name, p in model.trained.items()}
    step.gradients(model, step_batch(), Task.CAUSAL_LM)
    assert all(torch.equal(p.grad_sample, first[name]) for name, p in model.trained.items())
    assert any(np.any(g.numpy()) for g in first.values())


def step_batch():
    from services.client.training.batching import together

    return together(SOME)
