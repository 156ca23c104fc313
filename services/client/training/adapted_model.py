"""A base model with a LoRA adapter: built from a job, its tensors by name, its linear layers to train."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import nn

from services.client.training.batching import Batching
from services.client.training.layers import FrozenLayer, frozen_layers, insert_middles, peft_name
from services.client.training.targets import HEADS, target_modules
from shared.core.lora import automatic_rank, initial_tensor
from shared.core.lora.methods import METHODS
from shared.core.lora.methods.adapters import cut_to, in_rank, pad_to, rank_of_tensor, trains
from shared.errors import Refused
from shared.events.values import Layout, TensorSpec
from shared.job.plan import noise_on_sum, planned_steps
from shared.job.specification import JobSpecification, Task


@dataclass(frozen=True)
class AdaptedModel:
    """A PEFT model on its device.

    Attributes:
        parameters: of the adapter, by PEFT state-dict name, in this client's rank.
        layout: of the federation's adapter, whose rank may be larger.
        layers: linear layers with a tensor of the adapter, by module name.
        batching: micro-batches that fit this worker's memory.
        bases: of methods that change them, the frozen layers as they were loaded.
    """

    model: PeftModel
    tokenizer: Any
    device: torch.device
    parameters: Mapping[str, nn.Parameter]
    layout: Layout
    layers: Mapping[str, nn.Linear]
    batching: Batching = Batching()
    bases: Mapping[str, FrozenLayer] = field(default_factory=dict)

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that training moves."""
        return {name: p for name, p in self.parameters.items() if p.requires_grad}

    @property
    def trained_layers(self) -> dict[str, nn.Linear]:
        """Linear layers with a trained tensor, by module name."""
        moving = {id(parameter) for parameter in self.parameters.values() if parameter.requires_grad}
        return {
            name: layer
            for name, layer in self.layers.items()
            if any(id(p) in moving for p in layer.parameters(recurse=False))
        }

    @property
    def rank(self) -> int:
        """Of what this client trains."""
        name, factor = next((name, p) for name, p in self.parameters.items() if ".lora_" in name)
        return rank_of_tensor(name, tuple(factor.shape))

    def train_only(self, names: Collection[str]) -> None:
        """Train these tensors of the layout, and freeze the others."""
        for name, parameter in self.parameters.items():
            parameter.requires_grad_(name in names)

    def load(self, tensors: Mapping[str, NDArray[np.float32]]) -> None:
        """Set trainable tensors, given in the federation's rank. Raises: Refused when names or shapes are not
        the layout's."""
        expected = {tensor.name: tuple(tensor.shape) for tensor in self.layout.trainable}
        if expected != {name: tuple(tensor.shape) for name, tensor in tensors.items()}:
            raise Refused("adapter", "its tensors are not this model's", "submit the job again")
        with torch.no_grad():
            for name, tensor in tensors.items():
                own = cut_to(self.rank, name, np.array(tensor, np.float32))
                self.parameters[name].copy_(torch.from_numpy(np.ascontiguousarray(own)))

    def trainable(self) -> dict[str, NDArray[np.float32]]:
        """Copies of the trainable tensors, in this client's rank."""
        return {
            tensor.name: self.parameters[tensor.name].detach().float().cpu().numpy().copy()
            for tensor in self.layout.trainable
        }

    def padded(self, changes: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        """Changes in this client's rank, zero where it trains nothing, in the federation's."""
        shapes = {tensor.name: tensor.shape for tensor in self.layout.tensors}
        return {name: pad_to(shapes[name], values) for name, values in changes.items()}

    def shift(self, base: Mapping[str, NDArray[np.float32]]) -> None:
        """Set the frozen layers to what was loaded plus `base`, layer -> (m, n), times LoRA's scale.

        Raises: Refused when a layer is not this model's.
        """
        if strangers := sorted(base.keys() - self.bases.keys()):
            raise Refused("base", f"this model has no layer {strangers[0]}", "submit the job again")
        for name, layer in self.bases.items():
            layer.set(base.get(name))


def adapt(  # noqa: PLR0913 - what is wrapped, as the job says, on what there is
    base: Any,  # noqa: ANN401 - transformers' models share no public type
    tokenizer: Any,  # noqa: ANN401 - as above
    job: JobSpecification,
    device: torch.device,
    *,
    max_rank: int | None = None,
    start: Mapping[str, NDArray[np.float32]] | None = None,
) -> AdaptedModel:
    """Wrap `base` with the job's adapter.

    Args:
        base: of transformers.
        tokenizer: its own.
        job: whose method says which tensors there are.
        device: where it is.
        max_rank: of this client; below the job's only where ranks may be mixed.
        start: tensors in the federation's rank, in place of the public seed's.

    Raises: Refused with the setting that is at fault.
    """
    classification = job.model.task is Task.SEQUENCE_CLASSIFICATION
    heads = [name for name in HEADS if classification and hasattr(base, name)]
    if any(isinstance(getattr(base, name), nn.Sequential | nn.ModuleList) for name in heads):
        raise Refused("model.base", "its classifier head is not one linear layer", "name another model")
    targets = target_modules(base, job)
    # GPT-2's Conv1D keeps its weight transposed.
    transposed = any(type(base.get_submodule(name)).__name__ == "Conv1D" for name in targets)
    whole = _rank(base, targets, job)
    rank = _own_rank(whole, max_rank, job)
    config = LoraConfig(
        r=rank,
        lora_alpha=(job.lora.alpha or 2 * whole) * rank / whole,  # type: ignore[arg-type] # any number will do
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
    if job.lora.method == "fedsb":
        insert_middles(model, rank, device)
    parameters = {
        peft_name(name): parameter
        for name, parameter in model.named_parameters()
        if ".lora_" in name or ".modules_to_save." in name
    }
    refuse_other_adapters(parameters)
    tensors = []
    for name in sorted(parameters):
        parameter = parameters[name]
        shape = in_rank(whole, name, tuple(parameter.shape))
        value = initial_tensor(job.seed, name, shape, job.lora.method)
        if start is not None and name in start:
            value = start[name]
        if value.shape != shape:
            raise Refused(
                "start", f"{name} of shape {value.shape}, {shape} expected", "give one of this rank"
            )
        own = np.ascontiguousarray(cut_to(rank, name, value))
        parameter.data = torch.from_numpy(own).to(device)
        trainable = any(trains(METHODS[job.lora.method], name, completed) for completed in (0, 1))
        parameter.requires_grad_(trainable)
        tensors.append(TensorSpec(name=name, shape=shape, trainable=trainable))
    ours = {id(parameter) for parameter in parameters.values()}
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and any(id(p) in ours for p in module.parameters(recurse=False))
    }
    for name, layer in layers.items():
        if ".modules_to_save." in name:  # a bfloat16 base hands bfloat16 to a float32 head
            layer.register_forward_pre_hook(
                lambda head, inputs: (inputs[0].to(head.weight.dtype), *inputs[1:])
            )
    model.train()
    bases = frozen_layers(model) if METHODS[job.lora.method].changes_base else {}
    return AdaptedModel(
        model, tokenizer, device, parameters, Layout(tensors=tuple(tensors)), layers, bases=bases
    )


def _own_rank(whole: int, most: int | None, job: JobSpecification) -> int:
    """What this client trains. Raises: Refused where it is less than the job's and may not be."""
    if most is None or most >= whole:
        return whole
    if job.lora.mixed_ranks:
        return most
    raise Refused(
        "lora.rank",
        f"this worker trains rank {most} at most, and the job's is {whole}",
        "set lora.mixed_ranks: true, or start the worker with a larger --max-rank",
    )


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


def refuse_other_adapters(parameters: Mapping[str, nn.Parameter]) -> None:
    """What has no exact per-record gradient here, by name."""
    for name in parameters:
        kind = next((k for k in ("lora_magnitude_vector", "lora_embedding") if k in name), None)
        if kind is not None:
            raise Refused("lora", f"{name} has no exact per-record gradient", "choose linear layers only")
