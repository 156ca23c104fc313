"""What a classifier's last layer attends to, once for all records: nothing of it is trained."""

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from services.client.data import TokenRecord
from services.client.training.adapted_model import AdaptedModel
from services.client.training.batching import Batching, padded


def kept(adapted: AdaptedModel, records: Sequence[TokenRecord]) -> tuple[torch.Tensor, torch.Tensor]:
    """The last layer's input: (n, heads, width), what each head attends to from the first position, and
    (n, width), that position. Made once, and kept in a file."""
    content = repr([record.ids for record in records]).encode()
    file = Path(tempfile.gettempdir()) / f"fedlora-attacks-{hashlib.sha256(content).hexdigest()[:16]}.npz"
    if not file.exists():
        attended, first = _attended(adapted, records)
        np.savez(file, attended=attended.numpy(), first=first.numpy())
    held = np.load(file)
    return torch.from_numpy(held["attended"]), torch.from_numpy(held["first"])


def _attended(adapted: AdaptedModel, records: Sequence[TokenRecord]) -> tuple[torch.Tensor, torch.Tensor]:
    bert = adapted.model.get_base_model().bert
    layer = bert.encoder.layer[-1]
    attention = layer.attention.self
    inputs: list[torch.Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    numbers = {id(record): number for number, record in enumerate(records)}
    found: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    with torch.no_grad():
        for batch in Batching(tokens=4096).split(records):
            ids, mask, _ = padded(batch, adapted.tokenizer.pad_token_id, adapted.device)
            bert(input_ids=ids, attention_mask=mask)
            x = inputs.pop()
            heads = (len(x), -1, attention.num_attention_heads, attention.attention_head_size)
            query = attention.query(x[:, :1]).view(heads)[:, 0]
            scores = torch.einsum("nho,nlho->nhl", query, attention.key(x).view(heads))
            scores = scores / attention.attention_head_size**0.5
            shares = scores.masked_fill(mask[:, None] == 0, -torch.inf).softmax(dim=2)
            for record, mean, start in zip(batch.records, shares @ x, x[:, 0], strict=True):
                found[numbers[id(record)]] = mean, start
    hook.remove()
    attended, first = zip(*(found[number] for number in range(len(records))), strict=True)
    return torch.stack(attended), torch.stack(first)
