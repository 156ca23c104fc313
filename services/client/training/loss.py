"""The loss of each record on its own: no record's loss depends on another's length."""

import torch
from torch.nn import functional

from services.client.data.tokens import IGNORED


def causal_lm_losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(B,) mean negative log-likelihood over each record's own learnt tokens; 0 without any.

    Args:
        logits: (B, T, V).
        targets: (B, T), aligned with the input ids; IGNORED where nothing is learnt.
    """
    shifted = targets[:, 1:]
    per_token = functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), shifted, ignore_index=IGNORED, reduction="none"
    )
    learnt = (shifted != IGNORED).sum(dim=1)
    return per_token.sum(dim=1) / learnt.clamp(min=1)


def classification_losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(B,) cross-entropy of each record. logits: (B, classes); targets: (B, 1)."""
    return functional.cross_entropy(logits.float(), targets[:, 0], reduction="none")
