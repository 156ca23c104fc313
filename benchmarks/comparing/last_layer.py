"""A classifier whose lower layers were run once: what they give is kept, and its last layer is a small model.

Nothing below the last layer is trained, nor are its queries and keys, and of its output the classifier reads
the first position alone. So a record is, for each head, the attended mean of the layer's input, and the rest
of the model is its own modules on that: PEFT adapts and the worker trains them like those of any model.
"""

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import torch
from attacking.attended import kept
from torch import nn

from services.client.data import Record, TokenRecord, tokenise
from services.client.models import default_cache
from services.client.training.adapted_model import AdaptedModel, adapt
from services.client.training.bases import load_base
from services.client.training.batching import MicroBatch, padded
from services.client.training.building import build
from shared.job.specification import JobSpecification

TARGETS = ("value", "attended.dense")
TOLERANCE, SAMPLE = 1e-4, 16


class RowNumbers:
    """Stands for a tokenizer: a record is one token, its row."""

    pad_token_id = 0


class LastLayer(nn.Module):
    """From a record's row to logits, as the whole model without adapter gives them."""

    def __init__(self, whole: nn.Module, attended: torch.Tensor, first: torch.Tensor) -> None:
        """Args: whole: transformers' model; attended: (n, heads, width); first: (n, width)."""
        super().__init__()
        layer = whole.bert.encoder.layer[-1]
        self.config = whole.config
        self.value, self.attended = layer.attention.self.value, layer.attention.output
        self.between, self.out = layer.intermediate, layer.output
        self.pooler, self.classifier = whole.bert.pooler, whole.classifier
        self._kept, self._first = attended, first

    def forward(self, input_ids: torch.Tensor, **_: object) -> SimpleNamespace:
        """`input_ids` (n, 1) are rows."""
        rows = input_ids[:, 0]
        values = self.value(self._kept[rows])
        heads = values.shape[1]
        blocks = values.unflatten(2, (heads, -1))
        context = blocks.diagonal(dim1=1, dim2=2).transpose(1, 2).flatten(1)
        attended = self.attended(context, self._first[rows])
        hidden = self.out(self.between(attended), attended)
        return SimpleNamespace(logits=self.classifier(self.pooler(hidden[:, None])))


class Kept:
    """All records of a data set, below the last layer; `adapted` wraps the layer for one job."""

    def __init__(self, job: JobSpecification, records: Sequence[Record]) -> None:
        """Args: job: with the length that records are cut to.

        Raises: AssertionError when the small model's logits are not the whole one's.
        """
        self._cache, self._device = default_cache(), torch.device("cpu")
        whole = build(job, self._cache, self._device, None)
        tokens = tokenise(records, whole.tokenizer, job)
        self._inner = kept(whole, tokens)
        self.labels = np.array([record.label for record in records])
        self.tokens = [TokenRecord((row,), (int(label),)) for row, label in enumerate(self.labels)]
        self._compare(job, tokens, whole.tokenizer.pad_token_id)

    def adapted(self, job: JobSpecification, rank: int) -> AdaptedModel:
        """A model of its own, with a fresh adapter in that rank."""
        return adapt(self._model(job), RowNumbers(), job, self._device, max_rank=rank)

    def accuracy(self, adapted: AdaptedModel, rows: Sequence[int]) -> float:
        """The share of `rows` whose class is found."""
        with torch.inference_mode():
            logits = adapted.model(input_ids=torch.tensor(rows)[:, None]).logits
        return float((logits.argmax(dim=1).numpy() == self.labels[list(rows)]).mean())

    def _model(self, job: JobSpecification) -> LastLayer:
        whole, _ = load_base(job, self._cache, self._device)
        return LastLayer(whole, *self._inner)

    def _compare(self, job: JobSpecification, tokens: Sequence[TokenRecord], padding: int) -> None:
        whole, _ = load_base(job, self._cache, self._device)
        small = LastLayer(whole.eval(), *self._inner)
        batch = MicroBatch(tokens[:SAMPLE], SAMPLE, max(len(record.ids) for record in tokens[:SAMPLE]))
        ids, mask, _ = padded(batch, padding, self._device)
        with torch.inference_mode():
            wanted = whole(input_ids=ids, attention_mask=mask).logits
            found = small(torch.arange(SAMPLE)[:, None]).logits
        off = float((found - wanted).abs().max() / wanted.abs().max())
        assert off < TOLERANCE, f"the last layer alone is off by {off:.1e}"
