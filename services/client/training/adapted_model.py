"""A base model with a LoRA adapter: built from a job, its tensors by name, its linear layers to train."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from services.client.models import locate
from shared.core.lora import initial_tensor
from shared.errors import Refused
from shared.events.values import Layout, TensorSpec
from shared.job.specification import JobSpecification, Task

# By the last part of a module's name; the first group that a model has is used.
ATTENTION = {
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "query",
    "key",
    "value",
    "c_attn",
    "q_lin",
    "v_lin",
    "k_lin",
}
MLP = {"gate_proj", "up_proj", "down_proj", "c_fc", "fc1", "fc2", "lin1", "lin2", "intermediate.dense"}
HEADS = ("classifier", "score")


@dataclass(frozen=True)
class AdaptedModel:
    """A PEFT model on its device; `parameters` by PEFT state-dict name."""

    model: PeftModel
    tokenizer: Any
    device: torch.device
    parameters: Mapping[str, nn.Parameter]
    layout: Layout
    trained_layers: list[nn.Linear]

    def load(self, tensors: Mapping[str, NDArray[np.float32]]) -> None:
        """Set trainable tensors. Raises: Refused when names or shapes are not the layout's."""
        expected = {tensor.name: tuple(tensor.shape) for tensor in self.layout.trainable}
        if expected != {name: tuple(tensor.shape) for name, tensor in tensors.items()}:
            raise Refused("adapter", "its tensors are not this model's", "submit the job again")
        with torch.no_grad():
            for name, tensor in tensors.items():
                self.parameters[name].copy_(torch.from_numpy(np.array(tensor, np.float32)))

    def trainable(self) -> dict[str, NDArray[np.float32]]:
        """Copies of the trainable tensors."""
        return {
            tensor.name: self.parameters[tensor.name].detach().float().cpu().numpy().copy()
            for tensor in self.layout.trainable
        }


def choose_device() -> torch.device:
    """CUDA, Apple's MPS, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def choose_dtype(name: str) -> torch.dtype:
    """Of the frozen base; the adapter and its gradients are always float32.

    `auto` is float32: in bfloat16 a record's gradient depends, by rounding, on which others share its
    batch, so that removing one record moves the sum by more than its own clipped gradient
    (docs/privacy.md). A job may ask for it in writing.
    """
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def build(job: JobSpecification, cache: Path, device: torch.device) -> AdaptedModel:
    """Load the base and wrap it. Raises: Refused with the setting that is at fault."""
    base, tokenizer = load_base(job, cache, device)
    return adapt(base, tokenizer, job, device)


def load_base(job: JobSpecification, cache: Path, device: torch.device) -> tuple[Any, Any]:
    """The frozen base model on `device` (before PEFT wraps it) and its tokenizer."""
    source = locate(job.model.base, cache)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.name, local_files_only=source.local_only)
        options: dict[str, Any] = {
            "dtype": choose_dtype(job.model.dtype),
            "local_files_only": source.local_only,
        }
        if job.model.task is Task.CAUSAL_LM:
            base = AutoModelForCausalLM.from_pretrained(source.name, **options)
        else:
            base = AutoModelForSequenceClassification.from_pretrained(
                source.name, num_labels=len(job.model.labels), **options
            )
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise Refused(
            "model.base", f"{job.model.base} cannot be loaded: {reason}", "name another model or a folder"
        ) from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    base.config.pad_token_id = tokenizer.pad_token_id
    placed: Any = base
    return placed.to(device), tokenizer


def adapt(base: Any, tokenizer: Any, job: JobSpecification, device: torch.device) -> AdaptedModel:  # noqa: ANN401 - transformers' models share no public type
    """Wrap `base` with the job's adapter, initialised from the public seed."""
    classification = job.model.task is Task.SEQUENCE_CLASSIFICATION
    heads = [name for name in HEADS if classification and hasattr(base, name)]
    if any(isinstance(getattr(base, name), nn.Sequential | nn.ModuleList) for name in heads):
        raise Refused("model.base", "its classifier head is not one linear layer", "name another model")
    targets = target_modules(base, job)
    # GPT-2's Conv1D keeps its weight transposed.
    transposed = any(type(base.get_submodule(name)).__name__ == "Conv1D" for name in targets)
    config = LoraConfig(
        r=job.lora.rank,
        lora_alpha=job.lora.alpha or 2 * job.lora.rank,  # type: ignore[arg-type] # PEFT divides it; any number will do
        lora_dropout=0.0,
        target_modules=targets,
        fan_in_fan_out=transposed,
        modules_to_save=heads or None,
        task_type=TaskType.SEQ_CLS if classification else TaskType.CAUSAL_LM,
    )
    model = get_peft_model(base, config)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # a record's gradient is a function of the record
    parameters = {
        _peft_name(name): parameter
        for name, parameter in model.named_parameters()
        if ".lora_" in name or ".modules_to_save." in name
    }
    _refuse_other_adapters(parameters)
    frozen_a = job.lora.method == "ffa"
    for name, parameter in parameters.items():
        parameter.requires_grad_(not (frozen_a and ".lora_A." in name))
        parameter.data = torch.from_numpy(
            initial_tensor(job.seed, name, parameter.shape, job.lora.method)
        ).to(device)
    layout = Layout(
        tensors=tuple(
            TensorSpec(
                name=name, shape=tuple(parameters[name].shape), trainable=parameters[name].requires_grad
            )
            for name in sorted(parameters)
        )
    )
    trained = {id(parameter) for parameter in parameters.values() if parameter.requires_grad}
    layers = [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear) and any(id(p) in trained for p in module.parameters(recurse=False))
    ]
    model.train()
    return AdaptedModel(model, tokenizer, device, parameters, layout, layers)


def target_modules(base: nn.Module, job: JobSpecification) -> list[str]:
    """Full names of the layers that get an adapter. Raises: Refused when there are none."""
    wanted = job.lora.target_modules
    linear = [
        name
        for name, module in base.named_modules()
        if (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D")
        and name.split(".")[0] not in HEADS
        and not name.endswith(("lm_head", "pooler.dense"))
    ]
    if isinstance(wanted, tuple):
        chosen = [n for n in linear if any(n == w or n.endswith(f".{w}") for w in wanted)]
    elif wanted == "all":
        chosen = linear
    else:
        group = ATTENTION if wanted == "attention" else MLP
        chosen = [n for n in linear if any(n == w or n.endswith(f".{w}") for w in group)]
    if not chosen:
        names = sorted({name.rsplit(".", 1)[-1] for name in linear})
        raise Refused(
            "lora.target_modules",
            f"{job.model.base} has no linear layer that matches {wanted}",
            f"choose from {', '.join(names)}",
        )
    return chosen


def _peft_name(name: str) -> str:
    return name.replace(".modules_to_save.default", "").replace(".default.", ".")


def _refuse_other_adapters(parameters: Mapping[str, nn.Parameter]) -> None:
    """What has no exact per-record gradient here, by name."""
    for name in parameters:
        kind = next((k for k in ("lora_magnitude_vector", "lora_embedding") if k in name), None)
        if kind is not None:
            raise Refused("lora", f"{name} has no exact per-record gradient", "choose linear layers only")
