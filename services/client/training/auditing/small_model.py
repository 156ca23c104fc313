"""A model that any machine audits in seconds, on the code path of real ones."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from services.client.training.adapted_model import AdaptedModel, adapt
from shared.job.specification import JobSpecification, Task

HIDDEN = 64  # the largest rank of a job
LONGEST = 64  # tokens


@dataclass(frozen=True)
class ByteTokenizer:
    """A token for each byte of UTF-8, as much of a tokenizer as the worker looks at."""

    pad_token_id: int = 0
    bos_token_id: int = 1
    eos_token_id: int = 2

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:  # noqa: ANN401 - options are ignored
        """`input_ids`, cut to what the model takes."""
        return {"input_ids": [3 + byte for byte in text.encode()[: LONGEST // 2 - 2]] or [self.eos_token_id]}


def small_model(job: JobSpecification) -> AdaptedModel:
    """A random Llama or BERT of two layers with the job's adapter, on the CPU in float32.

    Module names in the job may be another model's: attention is adapted then.
    """
    sizes: dict[str, Any] = {
        "vocab_size": 259,
        "hidden_size": HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 2 * HIDDEN,
        "max_position_embeddings": LONGEST,
        "pad_token_id": 0,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.seed)  # public: weights, neither noise nor sampling
        if job.model.task is Task.CAUSAL_LM:
            base: Any = LlamaForCausalLM(LlamaConfig(**sizes))
        else:
            sizes["num_labels"] = len(job.model.labels)
            base = BertForSequenceClassification(BertConfig(**sizes))
    if isinstance(job.lora.target_modules, tuple):
        lora = job.lora.model_copy(update={"target_modules": "attention"})
        job = job.model_copy(update={"lora": lora})
    return adapt(base, ByteTokenizer(), job, torch.device("cpu"))
