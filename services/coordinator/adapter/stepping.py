"""What a round makes of the adapter: pure, on bytes, so that a step that is taken again is the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.core.compression import expand
from shared.core.lora import flatten, from_safetensors, to_safetensors, unflatten
from shared.core.lora.methods.adapters import flat_counts
from shared.core.optimisers import (
    OPTIMISERS,
    Mean,
    Options,
    Participation,
    State,
    advance,
    from_bytes,
    to_bytes,
)
from shared.errors import Rejected
from shared.events.values import Layout
from shared.job.plan import is_divided, mean_noise_variance
from shared.job.specification import JobSpecification
from shared.sessions.contents import Contents


@dataclass(frozen=True)
class Stand:
    """Where a job's training has got to.

    Attributes:
        adapter: safetensors of all trainable tensors.
        optimiser: its state, empty for none.
    """

    adapter: bytes
    optimiser: bytes = b""


@dataclass(frozen=True)
class Came:
    """Of a round.

    Attributes:
        update: float32 little-endian, as many values as were uploaded: the weighted mean.
        weights: of each client in it, 0 for those left out.
        ranks: of those whose rank is less than the layout's.
        records: declared counts.
        clients: of the job.
        steps: local ones, of each client.
        noise_multiplier: of each.
        buffered: of asynchronous rounds, each update's client and share of the mean.
    """

    update: bytes
    weights: Mapping[str, float]
    ranks: Mapping[str, int]
    records: Mapping[str, int]
    clients: int
    steps: int
    noise_multiplier: float
    buffered: Sequence[tuple[str, float]] = ()


def stepped(job: JobSpecification, layout: Layout, contents: Contents, came: Came, before: Stand) -> Stand:
    """The adapter and the optimiser's state after the round.

    Raises: Rejected when the update is not the round's, or the adapter would not be finite.
    """
    optimiser = OPTIMISERS[job.server.optimizer]
    options = options_of(job)
    names = [tensor.name for tensor in contents.tensors]
    tensors = from_safetensors(before.adapter)
    state = (
        from_bytes(before.optimiser, optimiser, contents.dimension)
        if before.optimiser
        else optimiser.start(contents.dimension, options)
    )
    variance = noise_variance(job, contents, came) if optimiser.noise else 0.0
    mean = Mean(_mean(contents, came), variance, _participation(job, came))
    moved, after = advance(optimiser, flatten(tensors, names), state, mean, options)
    everything = {**tensors, **unflatten(moved, contents.shapes)}
    kept = {tensor.name: everything[tensor.name] for tensor in layout.trainable}
    return Stand(to_safetensors(kept), to_bytes(after) if optimiser.moments else b"")


def options_of(job: JobSpecification) -> Options:
    """The optimiser's settings."""
    server = job.server
    return Options(server.learning_rate, server.momentum, server.memory, server.floor)


def control_of(job: JobSpecification, layout: Layout, optimiser: bytes) -> NDArray[np.float64]:
    """SCAFFOLD's common control variate, (d,): what clients correct their steps by."""
    kind = OPTIMISERS[job.server.optimizer]
    state = (
        from_bytes(optimiser, kind, layout.dimension)
        if optimiser
        else kind.start(layout.dimension, options_of(job))
    )
    return _control(state)


def noise_variance(job: JobSpecification, contents: Contents, came: Came) -> float | NDArray[np.float64]:
    """Of the noise in a coordinate of the mean update, in the adapter's units; one number, or (d,).

    That of `plan.mean_noise_variance`; a column that fewer clients train has the noise of those, divided by
    their weight, and all clients' where the session adds it; times d / k where random-k leaves the rest out,
    which is its expectation over seeds.
    """
    if came.buffered:
        own = ((part, [came.records.get(client, 1)]) for client, part in came.buffered)
        return sum(
            part**2 * mean_noise_variance(job, came.noise_multiplier, one, came.steps) for part, one in own
        )
    counted = {client: weight for client, weight in came.weights.items() if weight}
    records = [came.records.get(client, 1) for client in counted]
    variance = mean_noise_variance(job, came.noise_multiplier, records, came.steps)
    factor = 1.0 if contents.compression is None else contents.compression.factor
    ratio = _ratio(contents, came)
    if ratio is None or not variance:
        return variance * factor
    if is_divided(job):
        return variance * factor * ratio**2
    each = [mean_noise_variance(job, came.noise_multiplier, [count], came.steps) for count in records]
    noises = [weight**2 * own for weight, own in zip(counted.values(), each, strict=True)]
    whole = sum(counted.values())
    return flat_counts(contents.shapes, _ranks(contents, came), noises) * factor * (ratio / whole) ** 2


def _mean(contents: Contents, came: Came) -> NDArray[np.float32]:
    update = np.frombuffer(came.update, dtype="<f4")
    if update.size != contents.uploaded:
        raise Rejected(f"an update of length {update.size}, {contents.uploaded} expected")
    if contents.compression is not None:
        update = expand(contents.compression, update)
    ratio = _ratio(contents, came)
    return update if ratio is None else (update * ratio).astype(np.float32)


def _ratio(contents: Contents, came: Came) -> NDArray[np.float64] | None:
    """(d,): the whole weight over that of the clients that trained a coordinate; None where all did."""
    counted = {client: weight for client, weight in came.weights.items() if weight}
    if not any(client in came.ranks for client in counted):
        return None
    counts = flat_counts(contents.shapes, _ranks(contents, came), list(counted.values()))
    whole = np.full(contents.dimension, sum(counted.values()))
    ratio: NDArray[np.float64] = np.divide(whole, counts, out=np.zeros_like(whole), where=counts > 0)
    return ratio


def _ranks(contents: Contents, came: Came) -> list[int]:
    """Of those that count; any rank above the layout's stands for all columns."""
    full = max(max(shape) for _, shape in contents.shapes)
    return [came.ranks.get(client, full) for client, weight in came.weights.items() if weight]


def _participation(job: JobSpecification, came: Came) -> Participation:
    weights = tuple(weight for weight in came.weights.values() if weight)
    if not weights:
        return Participation()
    return Participation(
        steps=(float(came.steps),) * len(weights),
        weights=weights,
        clients=max(came.clients, len(weights)),
        rate=job.training.learning_rate,
    )


def _control(state: State) -> NDArray[np.float64]:
    return np.asarray(state.moments["control"], np.float64)
