"""Each held-out record's own loss and hits, without gradients."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from services.client.data import TokenRecord
from services.client.data.tokens import IGNORED
from services.client.evaluating import HoldOut
from services.client.trainer import Cancelled
from services.client.training.adapted_model import AdaptedModel
from services.client.training.batching import padded
from services.client.training.forward import causal_lm_losses, learnt_logits
from shared.job.specification import Task


def trained_on(records: Sequence[TokenRecord], hold_out: HoldOut | None) -> list[TokenRecord]:
    """All that are not held out."""
    if hold_out is None:
        return list(records)
    return [record for record in records if not hold_out.holds(content(record))]


def asked(records: Sequence[TokenRecord], hold_out: HoldOut, most: int) -> list[TokenRecord]:
    """The held-out ones that an evaluation reads."""
    return [records[index] for index in hold_out.asked([content(record) for record in records], most)]


def content(record: TokenRecord) -> bytes:
    """What decides whether a record is held out."""
    return repr((record.ids, record.targets)).encode()


def measure_each(
    adapted: AdaptedModel, records: Sequence[TokenRecord], task: Task, cancelled: Callable[[], bool]
) -> NDArray[np.float64]:
    """(n, 2) in no order: what of a record is right, from 0 to 1, and its loss in nats.

    Of a language model both are means over the record's own learnt tokens, 0 without any. Micro-batches are
    those of training: others beside a record change its figures as little as they change its gradient.
    Raises: Cancelled.
    """
    found = []
    adapted.model.eval()
    try:
        for batch in adapted.batching.split(records):
            if cancelled():
                raise Cancelled("the round is over")
            ids, mask, targets = padded(batch, adapted.tokenizer.pad_token_id, adapted.device)
            with torch.inference_mode():
                if task is Task.CAUSAL_LM:
                    logits, wanted = learnt_logits(adapted.model, ids, mask, targets, batch.fixed_shape)
                    totals, counts = causal_lm_losses(logits, wanted)
                    hits = ((logits.argmax(dim=-1) == wanted) & (wanted != IGNORED)).sum(dim=1)
                    counts = counts.clamp(min=1)
                    correct, losses = hits / counts, totals / counts
                else:
                    logits = adapted.model(input_ids=ids, attention_mask=mask).logits.float()
                    losses = functional.cross_entropy(
                        logits, targets[:, 0], ignore_index=IGNORED, reduction="none"
                    )
                    correct = (logits.argmax(dim=1) == targets[:, 0]).float()
            rows = torch.stack([correct.double(), losses.double()], dim=1)[: len(batch.records)]
            found.append(rows.cpu().numpy())
    finally:
        adapted.model.train()
    return np.concatenate(found) if found else np.zeros((0, 2))
