"""A base model with a LoRA adapter: built from a job, its tensors by name, its linear layers to train."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import nn

from services.client.training.batching import Batching
from services.client.training.targets import HEADS, target_modules
from shared.core.lora import automatic_rank, initial_tensor
from shared.errors import Refused
from shared.events.values import Layout, TensorSpec
from shared.job.plan import noise_on_sum, planned_steps
from shared.job.specification import JobSpecification, Task


@dataclass(frozen=True)
class AdaptedModel:
    """A PEFT model on its device.

    Attributes:
        parameters: of the adapter, by PEFT state-dict name.
        trained_layers: linear layers with a trained tensor, by module name.
        batching: micro-batches that fit this worker's memory.
    """

    model: PeftModel
    tokenizer: Any
    device: torch.device
    parameters: Mapping[str, nn.Parameter]
    layout: Layout
    trained_layers: Mapping[str, nn.Linear]
    batching: Batching = Batching()

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that training moves."""
        return {name: p for name, p in self.parameters.items() if p.requires_grad}

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


def adapt(base: Any, tokenizer: Any, job: JobSpecification, device: torch.device) -> AdaptedModel:  # noqa: ANN401 - transformers' models share no public type
    """Wrap `base` with the job's adapter, initialised from the public seed."""
    classification = job.model.task is Task.SEQUENCE_CLASSIFICATION
    heads = [name for name in HEADS if classification and hasattr(base, name)]
    if any(isinstance(getattr(base, name), nn.Sequential | nn.ModuleList) for name in heads):
        raise Refused("model.base", "its classifier head is not one linear layer", "name another model")
    targets = target_modules(base, job)
    # GPT-2's Conv1D keeps its weight transposed.
    transposed = any(type(base.get_submodule(name)).__name__ == "Conv1D" for name in targets)
    rank = _rank(base, targets, job)
    config = LoraConfig(
        r=rank,
        lora_alpha=job.lora.alpha or 2 * rank,  # type: ignore[arg-type] # PEFT divides it; any number will do
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
    refuse_other_adapters(parameters)
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
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and any(id(p) in trained for p in module.parameters(recurse=False))
    }
    model.train()
    return AdaptedModel(model, tokenizer, device, parameters, layout, layers)


def _rank(base: nn.Module, targets: Sequence[str], job: JobSpecification) -> int:
    """The job's, or by the public rule: every client finds the same."""
    if job.lora.rank != "auto":
        return job.lora.rank
    outputs = sum(_outputs(base.get_submodule(name)) for name in targets)
    return automatic_rank(
        records=job.privacy.sampling_rate * (job.lora.records or 0),
        steps=planned_steps(job),
        noise=noise_on_sum(job),
        outputs=outputs,
        scale=job.lora.rank_scale,
    )


def _outputs(layer: nn.Module) -> int:
    """m of a linear layer m x n."""
    return int(layer.nf if hasattr(layer, "nf") else layer.out_features)  # type: ignore[arg-type] # GPT-2's Conv1D


def _peft_name(name: str) -> str:
    return name.replace(".modules_to_save.default", "").replace(".default.", ".")


def refuse_other_adapters(parameters: Mapping[str, nn.Parameter]) -> None:
    """What has no exact per-record gradient here, by name."""
    for name in parameters:
        kind = next((k for k in ("lora_magnitude_vector", "lora_embedding") if k in name), None)
        if kind is not None:
            raise Refused("lora", f"{name} has no exact per-record gradient", "choose linear layers only")
