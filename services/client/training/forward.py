"""A micro-batch through a model: the loss of each record on its own comes out."""

import inspect
from typing import Any

import torch
from torch.nn import functional

from services.client.data.tokens import IGNORED
from services.client.training.batching import MicroBatch, padded
from shared.job.specification import Task


def learnt_logits(
    model: Any,  # noqa: ANN401 - transformers' models share no public type
    ids: torch.Tensor,
    mask: torch.Tensor,
    targets: torch.Tensor,
    everywhere: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B, P, V) and targets (B, P) at the P positions before a token that some record learns.

    The output layer is a fifth of a small model; it is left out where nobody learns anything, unless
    `everywhere` asks for a shape that no record has a say in.
    """
    following = targets[:, 1:]
    learnt = following != IGNORED
    positions = (learnt | everywhere).any(dim=0).nonzero().flatten()
    if "logits_to_keep" in inspect.signature(_base(model).forward).parameters:
        logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=positions, use_cache=False).logits
    else:
        logits = model(input_ids=ids, attention_mask=mask).logits[:, positions]
    return logits, following[:, positions]


def causal_lm_losses(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(B,) summed negative log-likelihood of each record's learnt tokens, and (B,) how many those are.

    Args:
        logits: (B, P, V).
        targets: (B, P), aligned with the logits; IGNORED where nothing is learnt.
    """
    per_token = functional.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return per_token.view(targets.shape).sum(dim=1), (targets != IGNORED).sum(dim=1)


def per_record_losses(
    model: Any,  # noqa: ANN401
    batch: MicroBatch,
    task: Task,
    padding: int,
    device: torch.device,
) -> torch.Tensor:
    """(rows,) losses, none of which depends on another record or on its length; 0 in a spare row.

    A language model's is the mean over the record's own learnt tokens, and 0 without any.
    """
    ids, mask, targets = padded(batch, padding, device)
    if task is Task.CAUSAL_LM:
        totals, counts = causal_lm_losses(*learnt_logits(model, ids, mask, targets, batch.fixed_shape))
        return totals / counts.clamp(min=1)
    logits = model(input_ids=ids, attention_mask=mask).logits
    return functional.cross_entropy(logits.float(), targets[:, 0], ignore_index=IGNORED, reduction="none")


def _base(model: Any) -> Any:  # noqa: ANN401
    """The transformers model inside a PEFT model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
