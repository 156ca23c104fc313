"""Tiny random Llama, GPT-2 and BERT models with adapters, and records to train them on."""

import numpy as np
import torch
from torch.nn import functional
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from services.client.data.tokens import IGNORED, TokenRecord
from services.client.training.adapted_model import adapt
from services.client.training.batching import padded
from services.client.training.forward import learnt_logits
from shared.job.specification import JobSpecification

VOCABULARY = 50
FAMILIES = ("llama", "gpt2", "bert")


class Padding:
    """All of a tokenizer that a training step looks at."""

    pad_token_id = 0


def job(family="llama", **lora):
    model = {"base": family, "task": "causal-lm"}
    if family == "bert":
        model = {"base": family, "task": "sequence-classification", "labels": ["a", "b", "c"]}
    settings = {"rank": 4, "method": "fedit", **lora}
    return JobSpecification.model_validate({"name": "t", "model": model, "data": {}, "lora": settings})


def base(family):
    torch.manual_seed(7)
    small = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    if family == "llama-wide":  # wide enough for kernels that quantise
        wide = {**small, "hidden_size": 128}
        return LlamaForCausalLM(LlamaConfig(**wide, intermediate_size=256, max_position_embeddings=64))
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(**small, intermediate_size=24, max_position_embeddings=64))
    if family == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=64)
        )
    return BertForSequenceClassification(
        BertConfig(**small, intermediate_size=24, max_position_embeddings=64, num_labels=3)
    )


def adapted(family="llama", **lora):
    """An adapted model whose B and head are not zero, so that every gradient is alive."""
    model = adapt(base(family), Padding(), job(family, **lora), torch.device("cpu"))
    torch.manual_seed(11)
    with torch.no_grad():
        for parameter in model.parameters.values():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def records(family, lengths, seed=3):
    generator = np.random.default_rng(seed)
    made = []
    for length in lengths:
        ids = tuple(int(i) for i in generator.integers(1, VOCABULARY, length))
        if family == "bert":
            made.append(TokenRecord(ids, (int(generator.integers(3)),)))
        else:
            made.append(TokenRecord(ids, (*[IGNORED] * (length // 3), *ids[length // 3 :])))
    return made


def trained(model):
    return [parameter for parameter in model.parameters.values() if parameter.requires_grad]


def batch_mean(model, batch, task):
    """What `labels=` computes: one mean over all learnt tokens of the batch, shared out by record."""
    ids, mask, targets = padded(batch, model.tokenizer.pad_token_id, model.device)
    logits, following = learnt_logits(model.model, ids, mask, targets)
    per_token = functional.cross_entropy(
        logits.flatten(0, 1), following.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return len(batch.records) * per_token.view(following.shape).sum(dim=1) / (following != IGNORED).sum()
