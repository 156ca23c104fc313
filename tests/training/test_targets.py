"""What has no exact per-record gradient is refused by name."""

import pytest
import torch
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM

from services.client.training.adapted_model import adapt
from services.client.training.batching import together
from services.client.training.step import gradients
from services.client.training.targets import target_modules
from shared.errors import Refused
from shared.job.specification import Task
from tests.training.models import Padding, adapted, base, job, records


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        (("q_proj",), 2),
        (("layers.0.*.v_proj",), 1),
        (("*.1.mlp.*",), 3),
        (("self_attn.?_proj", "up_proj"), 10),
    ],
)
def test_layers_are_chosen_by_name_or_pattern(wanted, count):
    assert len(target_modules(base("llama"), job("llama", target_modules=wanted))) == count


def mixture():
    torch.manual_seed(7)
    return MixtralForCausalLM(
        MixtralConfig(
            vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=2, num_local_experts=2, max_position_embeddings=64,
        )
    )  # fmt: skip


@pytest.mark.parametrize("wanted", ["embed_tokens", "model.embed_tokens"])
def test_an_embedding_is_refused_by_name(wanted):
    with pytest.raises(Refused, match=r"model\.embed_tokens is Embedding"):
        target_modules(base("llama"), job("llama", target_modules=(wanted,)))


@pytest.mark.parametrize("wanted", ["experts", "gate_up_proj", "down_proj"])
def test_parameters_of_experts_are_refused_by_name(wanted):
    with pytest.raises(Refused, match=r"model\.layers\.0\.mlp\.experts"):
        target_modules(mixture(), job("llama", target_modules=(wanted,)))


def test_the_attention_of_a_mixture_of_experts_can_be_trained():
    model = adapt(mixture(), Padding(), job("llama"), torch.device("cpu"))
    some = records("llama", [5, 8])
    gradients(model, together(some), Task.CAUSAL_LM)
    assert all(p.grad_sample.shape[0] == 2 for p in model.trained.values())


def test_a_linear_layer_that_sees_all_tokens_in_one_row_is_refused_in_its_first_pass():
    model = adapted("llama", target_modules="mlp")
    block = model.model.get_base_model().model.layers[0].mlp
    plain = block.forward
    block.forward = lambda x: plain(x.reshape(1, -1, x.shape[-1])).view_as(x)
    with pytest.raises(Refused, match=r"layers\.0\.mlp\.\w+_proj.* mixed"):
        gradients(model, together(records("llama", [5, 8])), Task.CAUSAL_LM)


def test_weights_decomposed_into_magnitude_and_direction_are_refused_by_name():
    from services.client.training.adapted_model import refuse_other_adapters

    with pytest.raises(Refused, match="lora_magnitude_vector"):
        refuse_other_adapters({"a.lora_magnitude_vector.weight": nn.Parameter(torch.ones(2))})
