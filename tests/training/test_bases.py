"""Coarse bases (bfloat16, 8-bit, 4-bit): float32 adapters, and gradients that no neighbour touches."""

import bitsandbytes
import pytest
import torch
from transformers import AutoTokenizer

from services.client.models import locate
from services.client.training.bases import load_base
from services.client.training.building import build
from services.client.training.self_test import check_gradients
from services.client.training.step import gradients
from services.client.training.trainer import LoraTrainer
from shared.errors import Refused
from shared.job.specification import JobSpecification, Task
from tests.training.models import base, records

COARSE = [
    {"dtype": "bfloat16"},
    {"dtype": "float32", "quantisation": "8bit"},
    {"dtype": "float32", "quantisation": "4bit"},
    {"dtype": "bfloat16", "quantisation": "4bit"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small Llama with a tokenizer of another model, as a worker would find it on disk."""
    path = tmp_path_factory.mktemp("llama")
    base("llama-wide").save_pretrained(path)
    source = locate("minilm", tmp_path_factory.mktemp("cache"))
    AutoTokenizer.from_pretrained(source.name).save_pretrained(path)
    return path


def job(folder, **model):
    settings = {"base": str(folder), "task": "causal-lm", "max_length": 48, **model}
    return JobSpecification.model_validate(
        {"name": "t", "model": settings, "data": {"text": "text"}, "lora": {"rank": 4, "method": "fedit"}}
    )


def built(folder, tmp_path, **model):
    return build(job(folder, **model), tmp_path, torch.device("cpu"), None)


@pytest.mark.parametrize("model", COARSE, ids=lambda model: "-".join(model.values()))
def test_a_coarse_base_has_a_float32_adapter_and_exact_gradients(folder, tmp_path, model):
    adapted = built(folder, tmp_path, **model)
    assert adapted.batching.fixed_shape
    assert {p.dtype for p in adapted.trained.values()} == {torch.float32}
    some = records("llama", [20, 21, 22, 17, 30])
    check_gradients(adapted, some, Task.CAUSAL_LM)  # raises when a bit differs
    gradients(adapted, next(adapted.batching.split(some)), Task.CAUSAL_LM)
    assert all(p.grad_sample.dtype == torch.float32 for p in adapted.trained.values())


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_a_quantised_base_is_smaller(folder, tmp_path, bits):
    def size(model):
        layers = [m.weight for n, m in model.named_modules() if n.endswith("mlp.up_proj")]
        return sum(weight.numel() * weight.element_size() for weight in layers)

    plain, _ = load_base(job(folder), tmp_path, torch.device("cpu"))
    small, _ = load_base(job(folder, quantisation=bits), tmp_path, torch.device("cpu"))
    assert size(small) * {"8bit": 4, "4bit": 8}[bits] == size(plain)


def test_8_bit_layers_choose_no_outlier_columns_from_the_batch(folder, tmp_path):
    """Their usual threshold of 6 lets one record change how another is rounded."""
    adapted = built(folder, tmp_path, quantisation="8bit")
    layers = [m for m in adapted.model.modules() if isinstance(m, bitsandbytes.nn.Linear8bitLt)]
    assert layers
    assert {layer.state.threshold for layer in layers} == {0.0}


@pytest.mark.parametrize("name", ["cuda:99", "abacus"])
def test_a_device_that_is_not_there_is_refused_at_the_start(name):
    with pytest.raises(Refused, match=f"FEDLORA_CLIENT_DEVICE: {name}"):
        LoraTrainer(device=name)


def test_quantisation_without_the_package_says_what_to_install(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("services.client.training.bases.find_spec", lambda name: None)
    with pytest.raises(Refused, match=r"pip install 'fedlora\[quantised\]'"):
        built(folder, tmp_path, quantisation="4bit")


def test_rounding_that_depends_on_the_neighbours_is_refused(folder, tmp_path):
    adapted = built(folder, tmp_path, dtype="bfloat16")
    layer = adapted.model.get_base_model().model.layers[0].self_attn.v_proj.base_layer
    sound = layer.forward

    def nudged(x):
        """The last bit of one number of the first record, when there is a second one."""
        out = sound(x)
        alone = torch.equal(x[1], x[-1])  # a spare row
        factors = torch.ones_like(out)
        factors[0, 2, 0] += 0 if alone else 2**-7
        return out * factors

    layer.forward = nudged
    with pytest.raises(Refused, match=r"model\.dtype"):
        check_gradients(adapted, records("llama", [20, 21, 22]), Task.CAUSAL_LM)
