"""Records through a model: padded micro-batches in, the loss of each record on its own out."""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn import functional

from services.client.data.tokens import IGNORED, TokenRecord
from shared.job.specification import Task

MICRO_BATCH_TOKENS = 1024  # padded; bounds activation memory, changes no result


def micro_batches(records: Sequence[TokenRecord]) -> Iterator[list[TokenRecord]]:
    """Records of similar length together, each batch within MICRO_BATCH_TOKENS when padded."""
    batch: list[TokenRecord] = []
    for record in sorted(records, key=lambda r: len(r.ids)):
        if batch and (len(batch) + 1) * len(record.ids) > MICRO_BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(record)
    if batch:
        yield batch


def padded(
    records: Sequence[TokenRecord], padding: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Right-padded ids and mask, (B, T); targets, padded with IGNORED to (B, most targets)."""

    def rows(sequences: Sequence[Sequence[int]], filler: int) -> torch.Tensor:
        longest = max(map(len, sequences))
        full = [[*sequence, *[filler] * (longest - len(sequence))] for sequence in sequences]
        return torch.tensor(full, dtype=torch.long, device=device)

    ids = [record.ids for record in records]
    mask = [[1] * len(record.ids) for record in records]
    return rows(ids, padding), rows(mask, 0), rows([record.targets for record in records], IGNORED)


def learnt_logits(
    model: Any,  # noqa: ANN401 - transformers' models share no public type
    ids: torch.Tensor,
    mask: torch.Tensor,
    targets: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B, P, V) and targets (B, P) at the P positions before a token that some record learns.

    The output layer is a fifth of a small model; it is left out where nobody learns anything.
    """
    following = targets[:, 1:]
    positions = (following != IGNORED).any(dim=0).nonzero().flatten()
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
    records: Sequence[TokenRecord],
    task: Task,
    padding: int,
    device: torch.device,
) -> torch.Tensor:
    """(B,) losses, none of which depends on another record or on its length.

    A language model's is the mean over the record's own learnt tokens, and 0 without any.
    """
    ids, mask, targets = padded(records, padding, device)
    if task is Task.CAUSAL_LM:
        totals, counts = causal_lm_losses(*learnt_logits(model, ids, mask, targets))
        return totals / counts.clamp(min=1)
    logits = model(input_ids=ids, attention_mask=mask).logits
    return functional.cross_entropy(logits.float(), targets[:, 0], reduction="none")


def _base(model: Any) -> Any:  # noqa: ANN401
    """The transformers model inside a PEFT model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
