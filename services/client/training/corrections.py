"""What FedProx and SCAFFOLD add to a client's gradients: after clipping, noise and division, so that it
costs no privacy and changes nothing that is clipped."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from services.client.trainer import TrainingTask
from services.client.training.adapted_model import AdaptedModel
from shared.core.lora import unflatten
from shared.core.lora.methods.adapters import cut_to

Correct = Callable[[Sequence[nn.Parameter]], None]


def of(task: TrainingTask, adapted: AdaptedModel) -> Correct | None:
    """What the job's server optimizer asks of a client; None for nothing."""
    server = task.specification.server
    if server.optimizer == "fedprox":
        return proximal(list(adapted.trained.values()), server.proximal)
    if server.optimizer == "scaffold" and task.control is not None:
        return controlled(task, adapted, task.control)
    return None


def proximal(parameters: Sequence[nn.Parameter], strength: float) -> Correct:
    """gradient + mu (theta - theta_t), theta_t where the parameters are now; see
    `shared.core.optimisers.fedprox`."""
    anchors = {id(parameter): parameter.detach().clone() for parameter in parameters}

    def correct(moving: Sequence[nn.Parameter]) -> None:
        with torch.no_grad():
            for parameter in moving:
                if parameter.grad is not None:
                    parameter.grad += strength * (parameter - anchors[id(parameter)])

    return correct


def controlled(task: TrainingTask, adapted: AdaptedModel, control: NDArray[np.float64]) -> Correct:
    """gradient + c - c_k; see `shared.core.optimisers.scaffold`."""
    tensors = adapted.layout.trainable if task.contents is None else task.contents.tensors
    whole = unflatten(control.astype(np.float32), [(tensor.name, tensor.shape) for tensor in tensors])
    added = {
        id(parameter): torch.from_numpy(np.ascontiguousarray(cut_to(adapted.rank, name, whole[name]))).to(
            parameter.device
        )
        for name, parameter in adapted.trained.items()
    }

    def correct(moving: Sequence[nn.Parameter]) -> None:
        with torch.no_grad():
            for parameter in moving:
                if parameter.grad is not None:
                    parameter.grad += added[id(parameter)]

    return correct
