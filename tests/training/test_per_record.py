"""Per-record gradients are those of single records, for every family, padded, checkpointed or not."""

import pytest
import torch

from services.client.training.batching import Batching, MicroBatch, together
from services.client.training.step import gradients, losses
from shared.errors import Refused
from tests.training.models import FAMILIES, adapted, job, records, trained

TASK = {family: job(family).model.task for family in FAMILIES}


def per_record(model, batch, task):
    """(B, d) by the function under test."""
    gradients(model, batch if isinstance(batch, MicroBatch) else together(batch), task)
    flat = torch.cat([p.grad_sample.flatten(1) for p in trained(model)], dim=1)
    for parameter in trained(model):
        parameter.grad_sample = None
    return flat


def one_by_one(model, batch, task):
    """(B, d) by plain autograd, one record at a time."""
    rows = []
    for record in batch:
        model.model.zero_grad(set_to_none=True)
        losses(model, together([record]), task).sum().backward()
        rows.append(torch.cat([p.grad.flatten() for p in trained(model)]))
    model.model.zero_grad(set_to_none=True)
    return torch.stack(rows)


def assert_equal(left, right):
    assert (left - right).abs().max() <= 1e-6 * max(1.0, float(right.abs().max()))
    assert right.abs().max() > 1e-4  # the comparison is not between zeros


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["fedit", "ffa"])
def test_a_batch_has_the_gradients_of_its_records(family, method):
    model = adapted(family, method=method)
    batch = records(family, [5, 9, 3, 12])
    assert_equal(per_record(model, batch, TASK[family]), one_by_one(model, batch, TASK[family]))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
def test_gradient_checkpointing_changes_nothing(family, reentrant):
    model = adapted(family)
    batch = records(family, [5, 9, 3])
    plain = one_by_one(model, batch, TASK[family])
    model.model.enable_input_require_grads()
    model.model.get_base_model().gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.model.train()
    assert_equal(per_record(model, batch, TASK[family]), plain)


@pytest.mark.parametrize("group", ["mlp", "all"])
def test_every_group_of_layers_is_exact(group):
    model = adapted("llama", target_modules=group)
    batch = records("llama", [4, 7])
    assert_equal(per_record(model, batch, TASK["llama"]), one_by_one(model, batch, TASK["llama"]))


def test_micro_batches_hold_every_record_once():
    many = records("llama", [3, 200, 7, 64, 64, 64, 900, 5], seed=5)
    batches = list(Batching().split(many))
    assert sorted(r.ids for batch in batches for r in batch.records) == sorted(r.ids for r in many)
    assert len(batches) > 1


def test_the_layers_are_as_before_afterwards():
    model = adapted("llama")
    forwards = [layer.forward.__func__ for layer in model.trained_layers.values()]
    per_record(model, records("llama", [4]), TASK["llama"])
    assert [layer.forward.__func__ for layer in model.trained_layers.values()] == forwards


def test_a_target_that_no_layer_matches_is_refused_with_those_that_exist():
    with pytest.raises(Refused, match="q_proj"):
        adapted("llama", target_modules=("nowhere",))
