"""Divided noise trains as central DP-SGD does: the same adapters without noise, one noisy sum with it."""

import math
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from services.client.trainer import Cancelled, TrainingTask
from services.client.training import trainer as module
from services.client.training.auditing.small_model import small_model
from services.client.training.batching import together
from services.client.training.clipping import FixedClipping
from services.client.training.step import clipped_sum, losses
from services.client.training.trainer import LoraTrainer
from shared.core.lora import flatten, unflatten
from shared.core.secagg.encoding import decode_sum, encode
from shared.errors import Refused
from shared.events import JobEnded, RoundCompleted
from shared.events.values import PoissonSampled
from shared.job.plan import divided_noise, full_batch, planned_bound, weight_of
from shared.job.refusals import refusals
from shared.job.specification import JobSpecification
from tests.integration.worker_federation import adapter_of, worker_federation

TEXTS = [f"the {word} of {n} is {n * n}" for n, word in enumerate(("square", "power", "area") * 8)]
CLIENTS = {"alice": TEXTS[:6], "bob": TEXTS[6:10], "carol": TEXTS[10:24]}
CAP = 14


def job(**sections):
    body = {
        "name": "t",
        "model": {"base": "small", "task": "causal-lm", "max_length": 32},
        "data": {"text": "text"},
        "training": {"optimizer": "sgd", "learning_rate": 0.05, "local_steps": 1},
        "privacy": {"noise": "divided", "sampling_rate": 0.5, "clip_norm": 0.3, "noise_multiplier": 4.0},
        "rounds": {"count": 3, "min_clients": 3},
        "aggregation": {"weight_cap": CAP, "rotate": True},
        "lora": {"rank": 16, "method": "fedit"},
        "seed": 3,
    }
    for name, section in sections.items():
        body[name] = {**body[name], **section}
    return JobSpecification.model_validate(body)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(module, "build", lambda specification, *_, **__: small_model(specification))
    module._MODELS.clear()
    yield
    module._MODELS.clear()


def quiet(phase, done, of):
    """No one watches."""


def prepared(folder, specification):
    """Each client's trainer, its data, and the adapter's start; B is not zero, so that A learns too."""
    clients = {}
    for name, texts in CLIENTS.items():
        data = folder / f"{name}.txt"
        data.write_text("\n".join(texts) + "\n")
        trainer = LoraTrainer(device="cpu")
        layout = trainer.prepare("j", specification, data, quiet).layout
        clients[name] = trainer, data
    generator = np.random.default_rng(5)
    start = {t.name: (0.1 * generator.standard_normal(t.shape)).astype(np.float32) for t in layout.trainable}
    return clients, layout, start


def work(specification, data, adapter, declared, sigma=4.0):
    mechanism = PoissonSampled.of_round(specification, sigma)
    norm = specification.privacy.clip_norm
    return TrainingTask("j", "j-r1", specification, data, adapter, mechanism, declared, norm)


def central_step(specification, model, adapter, sample, pooled):
    """One step of DP-SGD on all records without its noise, a record at a time by autograd."""
    model.load(adapter)
    parameters = [model.parameters[tensor.name] for tensor in model.layout.trainable]
    total = np.zeros(sum(p.numel() for p in parameters))
    for record in sample:
        loss = losses(model, together([record]), specification.model.task).sum()
        gradient = torch.cat([g.flatten().double() for g in torch.autograd.grad(loss, parameters)]).numpy()
        total += gradient * min(1, specification.privacy.clip_norm / np.linalg.norm(gradient))
    return -specification.training.learning_rate * total / (specification.privacy.sampling_rate * pooled)


@pytest.mark.parametrize("method", ["ffa", "fedit", "fedsb"])
def test_without_noise_the_adapters_are_those_of_central_training_on_all_records(
    tmp_path, monkeypatch, method
):
    """Same samples; the integers of 16 bits, their rotation and rounding are those of a session."""
    specification = job(lora={"method": method})
    assert refusals(specification) == ()
    clients, layout, start = prepared(tmp_path, specification)
    shapes = [(tensor.name, tensor.shape) for tensor in layout.trainable]
    names = [name for name, _ in shapes]
    noise = replace(divided_noise(specification, 4.0), noise_multiplier=1e-9)
    encoding = noise.encoding(layout.dimension, 16, planned_bound(specification, 4.0), b"seed")
    generator = np.random.default_rng(11)
    federated = central = flatten(start, names).astype(np.float64)
    for _ in range(3):
        total, weights, sample = np.zeros(encoding.length), 0.0, []
        for name, (trainer, data) in clients.items():
            records = trainer._data["j", data]
            chosen = np.flatnonzero(generator.uniform(size=len(records)) <= 0.5)
            sample += [records[index] for index in chosen]
            monkeypatch.setattr(module, "poisson_sample", lambda *_, chosen=chosen: chosen)
            adapter = unflatten(federated.astype(np.float32), shapes)
            result = trainer.train(work(specification, data, adapter, len(records)), quiet, lambda: False)
            assert (result.noised, result.steps) == (False, 1)
            total += encode(encoding, result.update, 1, os.urandom).values
            weights += weight_of(specification, len(CLIENTS[name]))
        federated = federated + decode_sum(encoding, total) / weights
        (model,) = module._MODELS.values()
        adapter = unflatten(central.astype(np.float32), shapes)
        central = central + central_step(specification, model, adapter, sample, len(TEXTS))
    moved = np.abs(central - flatten(start, names)).max()
    assert moved > 1e-3
    assert np.abs(federated - central).max() < 1e-5


def test_one_record_moves_a_clients_update_by_no_more_than_the_plan_says(tmp_path, monkeypatch):
    specification = job(privacy={"clip_norm": 0.01})
    clients, _, start = prepared(tmp_path, specification)
    trainer, data = clients["carol"]
    limit = divided_noise(specification, 4.0).sensitivity
    assert limit == pytest.approx(0.05 * 0.01 / full_batch(specification))
    updates = []
    for count in (3, 2, 0):
        monkeypatch.setattr(module, "poisson_sample", lambda *_, count=count: np.arange(count))
        for declared in (1, 14, 1000):
            found = trainer.train(work(specification, data, start, declared), quiet, lambda: False)
            updates.append(found.update)
    for declared in range(3):
        three, two, none = updates[declared::3]
        assert np.linalg.norm(three - two) <= limit * (1 + 1e-4)
        assert not none.any()
    assert np.linalg.norm(updates[0] - updates[3]) >= 0.9 * limit
    assert np.linalg.norm(updates[2]) < 0.1 * np.linalg.norm(updates[0])  # 1000 records share one weight


@pytest.mark.parametrize("clipping", ["per-layer", "automatic"])
def test_the_other_clipping_rules_sum_within_the_clip_norm_too(tmp_path, clipping):
    specification = job(privacy={"clipping": clipping})
    assert refusals(specification) == ()
    clients, _, start = prepared(tmp_path, specification)
    trainer, data = clients["bob"]
    result = trainer.train(work(specification, data, start, 4), quiet, lambda: False)
    limit = len(CLIENTS["bob"]) * divided_noise(specification, 4.0).sensitivity
    assert np.linalg.norm(result.update) <= limit * (1 + 1e-4)


def test_a_record_whose_gradient_is_not_finite_adds_nothing(tmp_path):
    specification = job()
    clients, _, start = prepared(tmp_path, specification)
    trainer, data = clients["bob"]
    (model,) = module._MODELS.values()
    model.load(start)
    records = trainer._data["j", data]
    rule, task = FixedClipping(0.3), specification.model.task
    whole = clipped_sum(model, rule, records, task, lambda: False)
    name = next(iter(model.trained))
    spoilt = {key: tensor.copy() for key, tensor in start.items()}
    spoilt[name][:] = np.inf
    model.load(spoilt)
    found = clipped_sum(model, rule, records, task, lambda: False)
    assert all(np.isfinite(part).all() for part in found.values())
    assert any(part.any() for part in whole.values())


def test_what_another_kind_of_round_would_release_is_not_trained(tmp_path):
    specification = job()
    clients, _, start = prepared(tmp_path, specification)
    trainer, data = clients["bob"]
    local = work(job(privacy={"noise": "local"}), data, start, 4).mechanism
    with pytest.raises(Refused, match="poisson-skellam"):
        trainer.train(replace(work(specification, data, start, 4), mechanism=local), quiet, lambda: False)
    twice = work(specification, data, start, 4)
    twice = replace(twice, mechanism=twice.mechanism.model_copy(update={"steps": 2}))
    with pytest.raises(Refused, match="2 steps without noise"):
        trainer.train(twice, quiet, lambda: False)


def test_a_cancelled_round_has_no_sum(tmp_path):
    specification = job(privacy={"sampling_rate": 1.0})
    clients, _, start = prepared(tmp_path, specification)
    trainer, data = clients["bob"]
    with pytest.raises(Cancelled):
        trainer.train(work(specification, data, start, 4), quiet, lambda: True)


async def test_a_whole_federation_trains_a_model_by_noisy_sums(tmp_path):
    """Real services, workers and training; the adapter moves by what noise of the planned size moves it."""
    specification = job(
        rounds={"count": 2, "deadline_s": 60, "gather_s": 5},
        aggregation={"secure": "oneshot", "stage_s": 5.0},
    )
    layout = small_model(specification).layout
    async with worker_federation(tmp_path, ()) as (fed, workers):
        for name, texts in CLIENTS.items():
            workers.trainers[name] = Reading(texts)
            await workers.start(name)
        fed.clients = dict.fromkeys(CLIENTS)
        await fed.registered()
        await fed.submit(specification)
        (ended,) = await fed.until(JobEnded, timeout_s=120)
        assert ended.outcome == "completed", ended.reason
        first, second = sorted(await fed.until(RoundCompleted, 2), key=lambda event: event.number)
        names = [tensor.name for tensor in layout.trainable]
        vectors = [await adapter_of(fed, event, names) for event in (first, second)]
    moved = vectors[1].astype(np.float64) - vectors[0]
    plan = divided_noise(specification, 4.0)
    encoding = plan.encoding(layout.dimension, 16, planned_bound(specification, 4.0), b"any")
    weights = sum(weight_of(specification, len(texts)) for texts in CLIENTS.values())
    sigma = encoding.noise_sigma * math.sqrt(len(CLIENTS)) / weights
    gradients = plan.sensitivity * len(TEXTS) / weights  # at most, all along one axis
    spread = 7 * math.sqrt(2 / layout.dimension)
    assert float(np.mean(moved**2)) >= sigma**2 * (1 - spread)
    assert float(np.mean(moved**2)) <= sigma**2 * (1 + spread) + gradients**2 / layout.dimension


class Reading(LoraTrainer):
    """The real trainer, on records that it writes itself."""

    def __init__(self, texts):
        super().__init__(device="cpu")
        self.texts = texts

    def prepare(self, job_id, specification, data, progress, start=b""):
        data.write_text("\n".join(self.texts) + "\n")
        return super().prepare(job_id, specification, data, progress)
