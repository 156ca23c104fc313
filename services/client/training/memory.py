"""Micro-batches under a memory budget: what a record costs is counted, not guessed."""

import math
from typing import Any

import psutil
import torch

from services.client.data.tokens import TokenRecord
from services.client.training.adapted_model import AdaptedModel
from services.client.training.batching import Batching, together
from services.client.training.forward import per_record_losses
from shared.errors import Refused
from shared.job.specification import JobSpecification, Task

# Padded tokens beyond which a larger micro-batch is not faster.
ENOUGH_TOKENS = {"cpu": 1024, "mps": 4096, "cuda": 16384}
CPU_SHARE, GPU_SHARE = 0.25, 0.8  # of what is free
BACKWARD = 2.0  # gradients of activations live beside them
PROBE_TOKENS = 64


def fit(adapted: AdaptedModel, job: JobSpecification, budget: int | None) -> Batching:
    """The largest useful micro-batch within `budget` bytes, with gradient checkpointing where even one
    record of `max_length` tokens does not fit without.

    Raises: Refused when one record does not fit at all, with the nearest length that does.
    """
    room = free_bytes(adapted.device) if budget is None else budget
    # A record's gradient, and the same once more while it is clipped.
    gradient = 8 * sum(p.numel() for p in adapted.trained.values())
    longest = job.model.max_length
    token = _bytes_per_token(adapted, job)
    if longest * token + gradient > room:
        base: Any = adapted.model.get_base_model()
        base.activation_checkpointing_enable({"use_reentrant": False})
        token = _bytes_per_token(adapted, job)
    if longest * token + gradient > room:
        length = int((room - gradient) / token)
        remedy = f"set model.max_length: {length}" if length >= 8 else "name a smaller model"
        raise Refused(
            "model.max_length",
            f"one record of {longest} tokens needs {(longest * token + gradient) / 2**20:.0f} MiB and this "
            f"worker may use {room / 2**20:.0f}",
            remedy,
        )
    coarse = job.model.dtype == "bfloat16" or job.model.quantisation != "none"
    # A batch of fixed shape is filled up with spare rows: smaller ones waste less.
    enough = ENOUGH_TOKENS.get(adapted.device.type, ENOUGH_TOKENS["cpu"]) // (4 if coarse else 1)
    return Batching(
        tokens=enough,
        room=int(room / token),
        gradient=math.ceil(gradient / token),
        fixed_shape=coarse,
    )


def free_bytes(device: torch.device) -> int:
    """What training may use of the device's memory without asking its owner."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * GPU_SHARE)
    if device.type == "mps":
        used = torch.mps.driver_allocated_memory()
        return int((torch.mps.recommended_max_memory() - used) * GPU_SHARE)
    return int(psutil.virtual_memory().available * CPU_SHARE)


def _bytes_per_token(adapted: AdaptedModel, job: JobSpecification) -> float:
    """What a forward pass keeps for the backward pass, counted on one record of padding tokens."""
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in adapted.model.parameters()}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    length = min(PROBE_TOKENS, job.model.max_length)
    token: Any = adapted.tokenizer.pad_token_id
    ids = (token,) * length
    probe = TokenRecord(ids, ids if job.model.task is Task.CAUSAL_LM else (0,))
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss = per_record_losses(adapted.model, together([probe]), job.model.task, token, adapted.device)
    del loss
    return BACKWARD * sum(kept.values()) / length
