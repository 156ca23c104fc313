"""Every LoRA method's model: exact gradients of what a round trains, the forward pass that its formula says."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from services.client.trainer import TrainingTask
from services.client.training import trainer as module
from services.client.training.adapted_model import adapt
from services.client.training.auditing.small_model import small_model
from services.client.training.batching import together
from services.client.training.evaluating import measure_each
from services.client.training.step import losses
from services.client.training.trainer import LoraTrainer
from shared.core.lora import flatten, unflatten
from shared.core.lora.methods import METHODS
from shared.core.lora.methods.adapters import cut_to
from shared.errors import Refused
from shared.events.values import PoissonSampled
from shared.job.specification import JobSpecification
from shared.sessions.contents import Contents
from tests.training.models import FAMILIES, Padding, adapted, base, job, records
from tests.training.test_per_record import TASK, assert_equal, one_by_one, per_record

IDS = torch.tensor([[3, 5, 7, 9, 11]])
DEVICE = torch.device("cpu")


def names_of(model, method, completed, **lora):
    contents = Contents.of(job(method=method, **lora), model.layout, completed, "r")
    return [tensor.name for tensor in contents.tensors]


def logits(model, ids=IDS):
    with torch.no_grad():
        return model.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def shaken(model, seed=13):
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters.values():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("completed", [0, 1])
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_has_the_gradients_of_its_records_whatever_a_round_trains(family, method, completed):
    model = adapted(family, method=method)
    shaken(model)
    names = names_of(model, method, completed)
    model.train_only(names)
    assert set(model.trained) == set(names)
    batch = records(family, [5, 9, 3, 12])
    assert_equal(per_record(model, batch, TASK[family]), one_by_one(model, batch, TASK[family]))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_fedsb_adds_u_r_v_to_a_layer(family):
    plain, model = base(family), adapted(family, method="fedsb")
    alone = logits_of(plain)
    model.load({tensor.name: np.zeros(tensor.shape, np.float32) for tensor in model.layout.trainable})
    torch.testing.assert_close(logits(model), alone)
    generator = np.random.default_rng(3)
    given = {t.name: generator.normal(size=t.shape).astype(np.float32) for t in model.layout.trainable}
    assert all(".lora_R." in name and tensor.shape == (4, 4) for name, tensor in given.items())
    model.load(given)
    scale = 2.0
    for name, middle in given.items():
        layer = name.split(".lora_R.")[0]
        b, a = (model.parameters[f"{layer}.lora_{f}.weight"].detach().numpy() for f in "BA")
        change = torch.from_numpy(scale * b @ middle @ a)
        add(plain, layer, change)
    torch.testing.assert_close(logits(model), logits_of(plain), rtol=1e-4, atol=1e-5)
    assert (logits(model) - alone).abs().max() > 1e-3


def logits_of(plain):
    plain.eval()
    with torch.no_grad():
        return plain(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits


def add(plain, layer, change):
    module_ = plain.get_submodule(layer.removeprefix("base_model.model."))
    with torch.no_grad():
        module_.weight += change.T if type(module_).__name__ == "Conv1D" else change


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_change_of_the_base_is_added_once_and_taken_back(family):
    plain, model = base(family), adapted(family, method="flora")
    model.model.eval()
    before = logits(model)
    layers = sorted({tensor.name.split(".lora_")[0] for tensor in model.layout.trainable})
    generator = np.random.default_rng(5)
    sizes = {t.name: t.shape for t in model.layout.tensors}
    base_change = {
        layer: 0.1
        * generator.normal(
            size=(sizes[f"{layer}.lora_B.weight"][0], sizes[f"{layer}.lora_A.weight"][1])
        ).astype(np.float32)
        for layer in layers
    }
    model.shift(base_change)
    model.shift(base_change)
    model.load({t.name: np.zeros(t.shape, np.float32) for t in model.layout.trainable})
    shifted = logits(model)
    for layer, change in base_change.items():
        add(plain, layer, torch.from_numpy(2.0 * change))
    torch.testing.assert_close(shifted, logits_of(plain), rtol=1e-4, atol=1e-5)
    model.shift({})
    again = adapted(family, method="flora")
    again.model.eval()
    model.load(again.trainable())
    torch.testing.assert_close(logits(model), before)
    with pytest.raises(Refused, match="no layer"):
        model.shift({"elsewhere": np.zeros((2, 2), np.float32)})


@pytest.mark.parametrize("method", ["ffa", "fedsb", "flora"])
def test_a_client_of_a_smaller_rank_trains_the_first_columns_of_the_federations(method):
    specification = job(method=method, rank=8, mixed_ranks=True)
    whole = shaken(adapt(base("llama"), Padding(), specification, DEVICE))
    small = adapt(base("llama"), Padding(), specification, DEVICE, max_rank=3)
    assert small.layout == whole.layout
    assert (small.rank, whole.rank) == (3, 8)
    for name, parameter in whole.parameters.items():
        own = cut_to(3, name, parameter.detach().numpy())
        small.parameters[name].data = torch.from_numpy(np.ascontiguousarray(own))
        if ".lora_" in name:
            masked = torch.zeros_like(parameter)
            masked[tuple(slice(extent) for extent in own.shape)] = torch.from_numpy(np.ascontiguousarray(own))
            parameter.data = masked
    torch.testing.assert_close(logits(small), logits(whole), rtol=1e-5, atol=1e-6)
    batch = records("llama", [5, 9, 3])
    names = names_of(whole, method, 0, rank=8, mixed_ranks=True)
    for model in (small, whole):
        model.train_only(names)
    large = {n: g.detach().numpy() for n, g in gradients_of(whole, batch).items()}
    mine = {n: g.detach().numpy() for n, g in gradients_of(small, batch).items()}
    for name, padded in small.padded(mine).items():
        own = mine[name].shape
        np.testing.assert_allclose(
            large[name][tuple(slice(e) for e in own)], mine[name], rtol=1e-4, atol=1e-6
        )
        assert padded.shape == large[name].shape
        assert np.count_nonzero(padded) <= mine[name].size


def gradients_of(model, batch):
    total = losses(model, together(batch), TASK["llama"]).sum()
    return dict(zip(model.trained, torch.autograd.grad(total, list(model.trained.values())), strict=True))


def test_a_smaller_rank_is_refused_where_ranks_are_equal():
    with pytest.raises(Refused, match="trains rank 3 at most"):
        adapt(base("llama"), Padding(), job(rank=8, method="ffa"), DEVICE, max_rank=3)


def test_a_job_that_starts_from_given_tensors_uses_them_frozen_ones_too():
    model = adapted("llama", method="fedsb")
    given = {name: np.full(tuple(p.shape), 0.25, np.float32) for name, p in model.parameters.items()}
    started = adapt(base("llama"), Padding(), job(method="fedsb"), DEVICE, start=given)
    assert all((p.detach().numpy() == 0.25).all() for p in started.parameters.values())
    wrong = {name: values[:1] for name, values in given.items()}
    with pytest.raises(Refused, match="of this rank"):
        adapt(base("llama"), Padding(), job(method="fedsb"), DEVICE, start=wrong)


TEXTS = [f"the square of {n} is {n * n}" for n in range(6)]


def private_job(**sections):
    body = {
        "name": "t",
        "model": {"base": "small", "task": "causal-lm", "max_length": 32},
        "data": {"text": "text"},
        "training": {"optimizer": "sgd", "learning_rate": 0.05, "local_steps": 1},
        "privacy": {"sampling_rate": 1.0, "clip_norm": 0.3, "noise_multiplier": 4.0},
        "lora": {"rank": 8, "method": "fedit"},
    }
    for name, section in sections.items():
        body[name] = {**body.get(name, {}), **section}
    return JobSpecification.model_validate(body)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Trains (job, adapter, steps) with next to no noise; gives the flat update."""
    monkeypatch.setattr(
        module, "build", lambda specification, *_, start=None, **__: small_model(specification)
    )
    module._MODELS.clear()
    data = tmp_path / "data.txt"
    data.write_text("\n".join(TEXTS) + "\n")

    def train(specification, adapter, steps=1, completed=0, **changes):
        trainer = LoraTrainer(device="cpu")
        layout = trainer.prepare("j", specification, data, quiet).layout
        start = adapter or {t.name: random_of(t) for t in layout.trainable}
        contents = Contents.of(specification, layout, completed, "r")
        mechanism = PoissonSampled(sampling_rate=1.0, noise_multiplier=1e-12, steps=steps)
        task = TrainingTask(
            "j", "r", specification, data, start, mechanism, len(TEXTS), 0.3, contents=contents
        )
        return trainer.train(replace(task, **changes), quiet, lambda: False).update, start, contents

    yield train
    module._MODELS.clear()


def random_of(tensor):
    generator = np.random.default_rng(len(tensor.name) + tensor.shape[0])
    return (0.1 * generator.standard_normal(tensor.shape)).astype(np.float32)


def quiet(phase, done, of):
    """No one watches."""


def after(start, contents, update):
    names = [name for name, _ in contents.shapes]
    return {**start, **unflatten(flatten(start, names) + update, contents.shapes)}


def test_fedprox_pulls_back_and_scaffold_corrects_by_their_formulas(run):
    plain = private_job()
    first, start, contents = run(plain, None)
    second, *_ = run(plain, after(start, contents, first))
    two, *_ = run(plain, copy.deepcopy(start), steps=2)
    np.testing.assert_allclose(two, first + second, atol=1e-6)
    pulled = private_job(server={"optimizer": "fedprox", "proximal": 3.0})
    prox, *_ = run(pulled, start, steps=2)
    np.testing.assert_allclose(prox, first + second - 0.05 * 3.0 * first, atol=1e-6)
    assert np.abs(prox - two).max() > 1e-5
    scaffold = private_job(server={"optimizer": "scaffold"})
    control = np.random.default_rng(9).normal(size=first.size)
    corrected, *_ = run(scaffold, start, control=control)
    np.testing.assert_allclose(corrected, first - 0.05 * control, atol=1e-6)


def test_rolora_uploads_the_factor_whose_turn_it_is(run):
    specification = private_job(lora={"method": "rolora", "rank": 8})
    for completed, factor in ((0, ".lora_B."), (1, ".lora_A.")):
        update, _, contents = run(specification, None, completed=completed)
        assert all(factor in tensor.name for tensor in contents.tensors)
        assert update.shape == (contents.dimension,)
        assert np.abs(update).max() > 1e-6


def test_a_classifier_over_a_coarse_base_can_be_evaluated():
    coarse = base("bert").to(torch.bfloat16)
    model = adapt(coarse, Padding(), job("bert"), DEVICE)
    found = measure_each(model, records("bert", [5, 6, 9]), TASK["bert"], lambda: False)
    assert found.shape == (3, 2)
    assert np.isfinite(found).all()
