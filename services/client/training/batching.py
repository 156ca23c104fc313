"""Records as padded micro-batches: they bound memory and change no result."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from services.client.data.tokens import IGNORED, TokenRecord


@dataclass(frozen=True)
class MicroBatch:
    """Some records, to be padded to (rows, length); rows beyond the records learn nothing."""

    records: Sequence[TokenRecord]
    rows: int
    length: int
    fixed_shape: bool = False


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How records are put together.

    Attributes:
        tokens: padded, in one micro-batch; more are not faster. One record may be longer.
        room: tokens that memory holds.
        gradient: what a record's own gradient takes of `room`, in tokens.
        fixed_shape: a record is padded to a length that depends on it alone, in a batch of a size that
            depends on that length alone. Then which others are beside it changes no kernel, and so not
            one bit of its gradient (docs/adr/0009): needed where rounding is coarse.
    """

    tokens: int = 1024
    room: int = sys.maxsize
    gradient: int = 0
    fixed_shape: bool = False

    def split(self, records: Sequence[TokenRecord]) -> Iterator[MicroBatch]:
        """Records of similar length together."""
        batch: list[TokenRecord] = []
        length = 0
        for record in sorted(records, key=lambda r: len(r.ids)):
            longer = self._length(record)
            if batch and self._full(len(batch), length, longer):
                yield self._batch(batch, length)
                batch = []
            batch.append(record)
            length = longer
        if batch:
            yield self._batch(batch, length)

    def _full(self, count: int, length: int, longer: int) -> bool:
        if self.fixed_shape and longer != length:
            return True
        return count + 1 > self._most(longer)

    def _most(self, length: int) -> int:
        """Records of this length in one micro-batch."""
        return max(1, min(self.tokens // length, self.room // (length + self.gradient)))

    def _length(self, record: TokenRecord) -> int:
        return bucket(len(record.ids)) if self.fixed_shape else len(record.ids)

    def _batch(self, records: list[TokenRecord], length: int) -> MicroBatch:
        rows = self._most(length) if self.fixed_shape else len(records)
        return MicroBatch(records, rows, length, self.fixed_shape)


def together(records: Sequence[TokenRecord]) -> MicroBatch:
    """All in one micro-batch, padded to the longest."""
    return MicroBatch(records, len(records), max(len(record.ids) for record in records))


def bucket(length: int) -> int:
    """The next of 16, 24, 32, 48, 64, 96, ...: at most a third is padding."""
    size = 16
    while size < length:
        if size + size // 2 >= length:
            return size + size // 2
        size *= 2
    return size


def padded(
    batch: MicroBatch, padding: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Right-padded ids and mask, (rows, length); targets, (rows, 1) of a
    classifier and (rows, length) of a language model, IGNORED where nothing is learnt."""
    spare_rows = batch.rows - len(batch.records)

    def rows(sequences: Sequence[Sequence[int]], width: int, filler: int, spare: int) -> torch.Tensor:
        full = [[*sequence, *[filler] * (width - len(sequence))] for sequence in sequences]
        full += [[spare] * width] * spare_rows
        return torch.tensor(full, dtype=torch.long, device=device)

    ids = [record.ids for record in batch.records]
    targets = [record.targets for record in batch.records]
    classes = max(map(len, targets)) == 1
    return (
        rows(ids, batch.length, padding, padding),
        rows([[1] * len(sequence) for sequence in ids], batch.length, 0, 1),
        rows(targets, 1 if classes else batch.length, IGNORED, IGNORED),
    )
