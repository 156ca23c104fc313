"""A language model whose lower layers were run once: what they give stands in its embedding table.

Nothing below the last layers is trained. So their input is the same in every step, and is kept: each
position of each record is a row of a table. The small model is transformers' own with the layers that are
left, and looks rows up where the whole one looks tokens up.
"""

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from services.client.data import TokenRecord
from services.client.models import default_cache
from services.client.training.adapted_model import AdaptedModel, adapt
from services.client.training.bases import load_base
from services.client.training.batching import Batching, MicroBatch, padded
from services.client.training.forward import causal_lm_losses, learnt_logits
from shared.job.specification import JobSpecification

KEPT_LAYERS, SAMPLE, TOLERANCE = 2, 8, 1e-4


class PositionNumbers:
    """Stands for a tokenizer: a token is a row of the table, the first is padding."""

    pad_token_id = 0


class KeptText:
    """All records of a data set, below the last layers; `adapted` wraps those for one job."""

    def __init__(self, job: JobSpecification, tokens: Sequence[TokenRecord]) -> None:
        """Raises: AssertionError when the small model's losses are not the whole one's."""
        self._device = torch.device("cpu")
        self._whole, tokenizer = load_base(job, default_cache(), self._device)
        self._table, self.records = self._run(tokens, tokenizer.pad_token_id)
        found = self.loss(self._small(), self.records[:SAMPLE])
        batch = MicroBatch(tokens[:SAMPLE], SAMPLE, max(len(record.ids) for record in tokens[:SAMPLE]))
        wanted = _loss(self._whole, batch, tokenizer.pad_token_id, self._device)
        assert abs(found - wanted) < TOLERANCE * wanted, (
            f"loss {found:g} without lower layers, {wanted:g} with"
        )

    def adapted(self, job: JobSpecification, rank: int) -> AdaptedModel:
        """A model of its own, with a fresh adapter in that rank."""
        return adapt(self._small(), PositionNumbers(), job, self._device, max_rank=rank)

    def loss(self, model: nn.Module, records: Sequence[TokenRecord]) -> float:
        """Nats a learnt token."""
        total, count = 0.0, 0
        for batch in Batching().split(records):
            learnt = sum(target >= 0 for record in batch.records for target in record.targets[1:])
            total += learnt * _loss(model, batch, 0, self._device)
            count += learnt
        return total / count

    def _run(self, tokens: Sequence[TokenRecord], padding: int) -> tuple[torch.Tensor, list[TokenRecord]]:
        records, first = [], 1
        for record in tokens:
            records.append(TokenRecord(tuple(range(first, first + len(record.ids))), record.targets))
            first += len(record.ids)
        content = repr((KEPT_LAYERS, [record.ids for record in tokens])).encode()
        file = Path(tempfile.gettempdir()) / f"fedlora-text-{hashlib.sha256(content).hexdigest()[:16]}.npy"
        if not file.exists():
            np.save(file, self._inner(tokens, padding).numpy())
        return torch.from_numpy(np.load(file)), records

    def _inner(self, tokens: Sequence[TokenRecord], padding: int) -> torch.Tensor:
        """(1 + all tokens, width), the first for padding."""
        inputs: list[torch.Tensor] = []
        layer = self._whole.model.layers[-KEPT_LAYERS]
        hook = layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
        rows = [torch.zeros(1, self._whole.config.hidden_size)]
        for record in tokens:
            ids, mask, _ = padded(MicroBatch([record], 1, len(record.ids)), padding, self._device)
            with torch.no_grad():
                self._whole.model(input_ids=ids, attention_mask=mask, use_cache=False)
            rows.append(inputs.pop()[0])
        hook.remove()
        return torch.cat(rows)

    def _small(self) -> nn.Module:
        """Shares frozen weights with the whole one."""
        config = self._whole.config.__class__.from_dict(self._whole.config.to_dict())
        config.num_hidden_layers = KEPT_LAYERS
        with torch.device("meta"):
            small = type(self._whole)(config)
        small.load_state_dict(self._state(), strict=False, assign=True)
        small.model.rotary_emb = self._whole.model.rotary_emb
        small.set_input_embeddings(nn.Embedding.from_pretrained(self._table))
        return small.eval()

    def _state(self) -> dict[str, torch.Tensor]:
        """Of the last layers, under the names that they have when alone; the head is the table of tokens."""
        below = self._whole.config.num_hidden_layers - KEPT_LAYERS
        found = {"lm_head.weight": self._whole.lm_head.weight.detach()}
        for name, weight in self._whole.state_dict().items():
            parts = name.split(".")
            if parts[1] == "layers" and int(parts[2]) >= below:
                parts[2] = str(int(parts[2]) - below)
            if parts[1] in ("layers", "norm"):
                found[".".join(parts)] = weight
        return found


def _loss(model: nn.Module, batch: MicroBatch, padding: int, device: torch.device) -> float:
    ids, mask, targets = padded(batch, padding, device)
    with torch.inference_mode():
        totals, counts = causal_lm_losses(*learnt_logits(model, ids, mask, targets))
    return float(totals.sum() / counts.sum())
