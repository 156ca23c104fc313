"""Micro-batches stay within the memory that a worker may use, and say so when nothing fits."""

from dataclasses import replace

import pytest
import torch

from services.client.training.batching import Batching
from services.client.training.memory import fit
from services.client.training.step import gradients
from shared.errors import Refused
from tests.training.models import adapted, job, records

MIB = 2**20


def spec(length=48):
    plain = job("llama")
    return plain.model_copy(update={"model": plain.model.model_copy(update={"max_length": length})})


def kept_bytes(model, batch):
    """What the forward pass of a micro-batch keeps for the backward pass."""
    kept = {}
    weights = {p.untyped_storage().data_ptr() for p in model.model.parameters()}

    def count(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        gradients(model, batch, job("llama").model.task)
    return sum(kept.values())


def test_less_memory_makes_smaller_micro_batches_that_stay_within_it():
    model = adapted("llama")
    some = records("llama", [40] * 60)
    sizes = []
    for mib in (1, 2, 64):
        largest = next(fit(model, spec(), mib * MIB).split(some))
        assert kept_bytes(model, largest) + gradient_bytes(model, largest) <= mib * MIB
        sizes.append(len(largest.records))
    assert 1 < sizes[0] < sizes[1] < sizes[2] == 1024 // 40


def test_short_records_are_bounded_by_their_gradients():
    model = adapted("llama", rank=16, target_modules="all")
    largest = next(fit(model, spec(), MIB).split(records("llama", [2] * 600)))
    assert 1 < len(largest.records)
    assert gradient_bytes(model, largest) <= MIB


def gradient_bytes(model, batch):
    return 4 * len(batch.records) * sum(p.numel() for p in model.trained.values())


def test_where_not_even_one_record_fits_checkpointing_is_tried_and_then_a_length_is_named():
    model = adapted("llama")
    with pytest.raises(Refused, match="max_length") as refused:
        fit(model, spec(), 20_000)
    assert model.model.get_base_model().is_activation_checkpointing
    nearest = int(refused.value.remedy.removeprefix("set model.max_length: "))
    fit(model, spec(nearest), 20_000)
    with pytest.raises(Refused):
        fit(model, spec(nearest + 1), 20_000)


def test_a_budget_between_is_met_by_checkpointing_and_changes_no_gradient():
    some = records("llama", [40, 44])
    plain = adapted("llama")
    whole = Batching().split(some)
    gradients(plain, next(whole), job("llama").model.task)
    model = adapted("llama")
    budget = next(b for b in range(20_000, 2_000_000, 10_000) if fits(adapted("llama"), b))
    small = replace(model, batching=fit(model, spec(), budget))
    assert model.model.get_base_model().is_activation_checkpointing
    gradients(small, next(Batching().split(some)), job("llama").model.task)
    for name, parameter in small.trained.items():
        assert torch.allclose(parameter.grad_sample, plain.trained[name].grad_sample, atol=1e-6)


def fits(model, budget):
    try:
        fit(model, spec(), budget)
    except Refused:
        return False
    return True
