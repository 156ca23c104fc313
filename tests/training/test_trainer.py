"""The trainer on a real model: exactly the planned steps, an update in layout order, a loadable adapter."""

import io
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from services.client.models import default_cache, locate
from services.client.trainer import Cancelled, DataError, TrainingTask
from services.client.training import trainer as module
from services.client.training.noise import KeyStream
from services.client.training.trainer import LoraTrainer
from services.gateway.adapter import Parts, zipped_adapter
from shared.core.lora import flatten, initial_tensor, to_safetensors, unflatten
from shared.errors import Refused, Rejected
from shared.events.values import PoissonSampled
from shared.job.specification import JobSpecification

ROWS = [{"text": f"item {n} is {'good' if n % 2 else 'bad'}", "label": "ab"[n % 2]} for n in range(40)]


def quiet(phase, done, of):
    """No one watches."""


def job(**sections):
    return JobSpecification.model_validate(
        {
            "name": "t",
            "model": {
                "base": "minilm", "task": "sequence-classification", "labels": ["a", "b"], "max_length": 16,
            },
            "data": {"text": "text", "label": "label"},
            "lora": {"rank": 4, "target_modules": ["value"]},
            "training": {"optimizer": "sgd", "learning_rate": 0.5},
            **sections,
        }
    )  # fmt: skip


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    return path


def task(specification, data, layout, steps=3):
    adapter = {
        t.name: initial_tensor(specification.seed, t.name, t.shape, specification.lora.method)
        for t in layout.trainable
    }
    mechanism = PoissonSampled(sampling_rate=0.3, noise_multiplier=0.5, steps=steps)
    return TrainingTask("j", "j-r1", specification, data, adapter, mechanism, len(ROWS), 1.0)


def test_the_planned_steps_are_taken_and_the_adapter_loads(data, tmp_path, monkeypatch):
    taken = []
    step = module.private_step
    monkeypatch.setattr(module, "private_step", lambda *a: (taken.append(len(a[2])), step(*a)))
    trainer, specification = LoraTrainer(device="cpu"), job()
    prepared = trainer.prepare("j", specification, data, quiet)
    assert prepared.records == len(ROWS)
    work = task(specification, data, prepared.layout)
    result = trainer.train(work, quiet, lambda: False)
    assert len(taken) == result.steps == 3
    assert len(set(taken)) > 1 or taken[0] != round(0.3 * len(ROWS))  # Poisson sizes, not fixed batches
    assert result.update.shape == (prepared.layout.dimension,)

    names = [t.name for t in prepared.layout.trainable]
    shapes = [(t.name, t.shape) for t in prepared.layout.trainable]
    after = unflatten(flatten(work.adapter, names) + result.update, shapes)
    content = zipped_adapter(specification, prepared.layout, Parts(to_safetensors(after)), "card")
    zipfile.ZipFile(io.BytesIO(content)).extractall(tmp_path / "adapter")
    source = locate("minilm", default_cache()).name
    base = AutoModelForSequenceClassification.from_pretrained(source, num_labels=2, dtype=torch.float32)
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    ids = torch.tensor([[101, 2204, 102]])
    (trained,) = module._MODELS.values()
    with torch.no_grad():
        assert torch.allclose(loaded(input_ids=ids).logits, trained.model(input_ids=ids).logits, atol=1e-5)
        with loaded.disable_adapter():
            untouched = loaded(input_ids=ids).logits
        assert not torch.allclose(untouched, trained.model(input_ids=ids).logits, atol=1e-4)


@pytest.mark.parametrize("clipping", ["per-layer", "automatic", "adaptive"])
def test_every_clipping_rule_trains_and_adaptive_moves_its_bound(data, clipping):
    trainer, specification = LoraTrainer(device="cpu"), job(privacy={"clipping": clipping})
    layout = trainer.prepare("j", specification, data, quiet).layout
    work = task(specification, data, layout)
    work = replace(work, mechanism=PoissonSampled.of_round(specification, 0.5))
    result = trainer.train(work, quiet, lambda: False)
    assert np.isfinite(result.update).all()
    assert (result.clip_norm == 1.0) == (clipping != "adaptive")


def test_rank_auto_is_the_same_for_every_client_and_loads(data):
    def layout(**lora):
        value = {"rank": "auto", "target_modules": ["value"], **lora}
        return LoraTrainer(device="cpu").prepare("j", job(lora=value), data, quiet).layout

    many, few = layout(records=10**7), layout(records=10)
    ranks = [next(t.shape[0] for t in found.tensors if ".lora_A." in t.name) for found in (many, few)]
    assert ranks == [64, 4]
    assert layout(records=10**7).sha256 == many.sha256


def test_two_runs_of_the_same_task_differ_by_their_secret_noise(data):
    trainer, specification = LoraTrainer(device="cpu"), job()
    layout = trainer.prepare("j", specification, data, quiet).layout
    first, second = (
        trainer.train(task(specification, data, layout, 1), quiet, lambda: False) for _ in range(2)
    )
    assert not np.allclose(first.update, second.update)


def test_streams_that_are_given_repeat_a_round_of_the_rows_that_are_lent(data):
    trainer, specification = LoraTrainer(device="cpu"), job()
    layout = trainer.prepare("j", specification, data, quiet).layout

    def trained(rows, key):
        part = trainer.part("j", data, rows, lambda: KeyStream(lambda count: bytes([key]) * count))
        return part.train(task(specification, data, layout, 2), quiet, lambda: False).update

    assert np.array_equal(trained(range(9), 1), trained(range(9), 1))
    assert not np.allclose(trained(range(9), 1), trained(range(9), 2))
    assert not np.allclose(trained(range(9), 1), trained(range(9, 18), 1))
    assert trainer.streams is KeyStream  # of whoever lends, nothing changes
    with pytest.raises(Rejected, match="not prepared"):
        trainer.part("other", data, [0], KeyStream)


def test_a_cancelled_round_has_no_result(data):
    trainer, specification = LoraTrainer(device="cpu"), job()
    layout = trainer.prepare("j", specification, data, quiet).layout
    with pytest.raises(Cancelled):
        trainer.train(task(specification, data, layout), quiet, lambda: True)


@pytest.mark.parametrize(
    ("rows", "place"),
    [
        ([{"text": "x", "label": "c"}], "row 1, column 'label'"),
        ([{"text": 5, "label": "a"}], "row 1, column 'text'"),
        ([{"words": "x", "label": "a"}], "column 'text'"),
    ],
)
def test_bad_data_names_row_column_and_reason(tmp_path, rows, place):
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=place):
        LoraTrainer(device="cpu").prepare("j", job(), path, quiet)


def test_bad_rows_are_skipped_and_counted_or_stop_as_the_job_says(data):
    data.write_text(data.read_text() + '\nnot json\n{"text": "x", "label": "z"}')
    prepared = LoraTrainer(device="cpu").prepare("j", job(), data, quiet)
    assert [bad.row for bad in prepared.skipped] == [41, 42]
    stopping = job(data={"text": "text", "label": "label", "bad_rows": "stop"})
    with pytest.raises(DataError, match="row 41"):
        LoraTrainer(device="cpu").prepare("j", stopping, data, quiet)


def test_an_adapter_of_another_model_is_refused(data):
    trainer, specification = LoraTrainer(device="cpu"), job()
    layout = trainer.prepare("j", specification, data, quiet).layout
    work = task(specification, data, layout)
    wrong = TrainingTask(**{**vars(work), "adapter": {"other": np.zeros(3, np.float32)}})
    with pytest.raises(Refused, match="not this model's"):
        trainer.train(wrong, quiet, lambda: False)
