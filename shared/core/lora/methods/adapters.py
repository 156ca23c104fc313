"""A method on a whole adapter: its tensors by PEFT's names, layer by layer; a classifier head is averaged."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.core.lora.methods.averaging import counts, divided
from shared.core.lora.methods.fedsb import as_lora
from shared.core.lora.methods.method import Factor, Factors, Method, Upload, leading
from shared.errors import Rejected

Tensors = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class AdapterUpload:
    """What a client did to an adapter.

    Attributes:
        changes: by name, to all that the round trains, in the client's rank.
        weight: above 0, public.
    """

    changes: Tensors
    weight: float = 1.0


@dataclass(frozen=True)
class CombinedAdapter:
    """What a round makes of an adapter.

    Attributes:
        tensors: the next round's, of the names that the round began with.
        into_base: layer -> (m, n) to be added to its W, times LoRA's scale. A layer is its tensors' name up
            to `.lora_`.
    """

    tensors: Tensors
    into_base: Tensors


def trains(method: Method, name: str, completed: int) -> bool:
    """Whether a round trains the tensor of that name, `completed` rounds after the job began."""
    factor, _ = _place(name)
    return factor is None or factor in method.trained(completed)


def aggregate(method: Method, before: Tensors, uploads: Sequence[AdapterUpload]) -> CombinedAdapter:
    """What a round makes of an adapter.

    Args:
        method: of the job.
        before: all tensors of the adapter, frozen ones too, in the federation's rank.
        uploads: of the round.

    Raises: Rejected for uploads that do not fit.
    """
    if not uploads or any(upload.changes.keys() != uploads[0].changes.keys() for upload in uploads):
        raise Rejected("a round without uploads, or uploads of different tensors")
    changed = uploads[0].changes.keys()
    if not changed <= before.keys():
        raise Rejected("an upload has tensors that the adapter has not")
    after, into_base = dict(before), {}
    for name in changed:
        if _place(name)[0] is None:
            after[name] = _averaged_head(name, before[name], uploads)
    for layer, names in _layers(before).items():
        if changed & set(names.values()):
            combined = method.aggregate(
                _factors(names, before),
                [Upload(_factors(names, upload.changes), upload.weight) for upload in uploads],
            )
            after.update({names[factor]: values for factor, values in combined.factors.items()})
            if combined.into_base is not None:
                into_base[layer] = combined.into_base
    return CombinedAdapter(after, into_base)


def _layers(names: Iterable[str]) -> dict[str, dict[Factor, str]]:
    found: dict[str, dict[Factor, str]] = {}
    for name in names:
        factor, layer = _place(name)
        if factor is not None:
            found.setdefault(layer, {})[factor] = name
    return found


def _factors(names: Mapping[Factor, str], tensors: Tensors) -> Factors:
    return {factor: tensors[name] for factor, name in names.items() if name in tensors}


def flat_counts(
    shapes: Sequence[tuple[str, Sequence[int]]], ranks: Sequence[int], weights: Sequence[float]
) -> NDArray[np.float64]:
    """(d,): by what the secure sum of padded, weighted, flattened changes is divided, see `averaging.counts`.

    Args:
        shapes: of the tensors that the round trains, in the order in which they are flattened.
        ranks: of each client whose update is in the sum.
        weights: of the same clients.
    """
    parts = []
    for name, shape in shapes:
        factor, _ = _place(name)
        whole = np.full(tuple(shape), float(sum(weights)))
        parts.append((whole if factor is None else counts(factor, tuple(shape), ranks, weights)).ravel())
    return np.concatenate(parts) if parts else np.zeros(0)


def plain_lora(tensors: Tensors) -> dict[str, NDArray[np.float32]]:
    """A Fed-SB adapter as one that PEFT reads: see `fedsb.as_lora`; a head stays as it is."""
    found = {name: values for name, values in tensors.items() if _place(name)[0] is None}
    for names in _layers(tensors).values():
        plain = as_lora(_factors(names, tensors))
        found.update({names[factor]: values for factor, values in plain.items()})
    return found


def cut(changes: Tensors, rank: int) -> Tensors:
    """Of padded changes, those to a client's first `rank` columns; a head stays whole."""
    return {name: cut_to(rank, name, values) for name, values in changes.items()}


def cut_to(rank: int, name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The part of a tensor that belongs to its first `rank` columns, as a view; all of a head."""
    factor, _ = _place(name)
    return values if factor is None else leading(factor, values, rank)


def pad_to(shape: Sequence[int], values: NDArray[np.float32]) -> NDArray[np.float32]:
    """`values` in the first rows and columns of `shape`, and zero elsewhere."""
    out = np.zeros(tuple(shape), np.float32)
    out[tuple(slice(extent) for extent in values.shape)] = values
    return out


def rank_of_tensor(name: str, shape: Sequence[int]) -> int:
    """r of a factor."""
    factor, _ = _place(name)
    return int(shape[1] if factor is Factor.B else shape[0])


def in_rank(rank: int, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a tensor has in another rank; a head's own."""
    match _place(name)[0]:
        case Factor.A:
            return (rank, shape[1])
        case Factor.B:
            return (shape[0], rank)
        case Factor.R:
            return (rank, rank)
    return shape


def _averaged_head(
    name: str, before: NDArray[np.float32], uploads: Sequence[AdapterUpload]
) -> NDArray[np.float32]:
    if any(upload.changes[name].shape != before.shape for upload in uploads):
        raise Rejected(f"a change to {name} of another shape than {before.shape}")
    total = np.zeros(before.shape)
    for upload in uploads:
        total += upload.weight * upload.changes[name].astype(np.float64)
    whole = np.full(before.shape, sum(upload.weight for upload in uploads))
    return (before + divided(total, whole)).astype(np.float32)


def _place(name: str) -> tuple[Factor | None, str]:
    """The factor that a tensor is, and its layer; no factor for a head."""
    for factor in Factor:
        layer, found, _ = name.partition(f".{factor}.")
        if found:
            return factor, layer
    return None, ""
