"""Whole jobs with every LoRA method, optimisers that remember, random-k and mixed ranks: what the coordinator
makes of uploads is what the plain formula says, whoever is restarted in between."""

import numpy as np
import pytest

from services.coordinator.adapter.initial import initial
from shared.core.lora import flatten, from_safetensors
from shared.core.lora.methods import METHODS
from shared.events import JobEnded, RoundCompleted
from shared.events.values import Layout, TensorSpec
from tests.integration.scripted_federation import federation, mean_of, padded_to, specification, update_of

THREE = ("alpha", "beta", "gamma")
RANK, OUTPUTS, INPUTS = 4, 5, 6
A, B, R = (f"m.q_proj.lora_{factor}.weight" for factor in "ABR")
SHAPES = {A: (RANK, INPUTS), B: (OUTPUTS, RANK)}
SCALE = 0.5


def layout_for(method):
    tensors = [
        TensorSpec(name=name, shape=shape, trainable=method != "ffa" or name == B)
        for name, shape in SHAPES.items()
    ]
    if method == "fedsb":
        tensors = [tensor.model_copy(update={"trainable": False}) for tensor in tensors]
        tensors.append(TensorSpec(name=R, shape=(RANK, RANK), trainable=True))
    return Layout(tensors=tuple(sorted(tensors, key=lambda tensor: tensor.name)))


def small(client, number, dimension):
    return SCALE * update_of(client, number, dimension)


async def run(folder, job, *, restart=(), **options):
    """The last adapter, the rounds, and what each client was told."""
    layout = layout_for(job.lora.method)
    every = {"layout": layout, "sends": small}
    async with federation(
        folder, THREE, **{name: {**every, **options.get(name, {})} for name in THREE}
    ) as fed:
        await fed.submit(job)
        if restart:
            await fed.until(RoundCompleted)
            for name in restart:
                await fed.restart(name)
        (ended,) = await fed.until(JobEnded)
        assert ended.outcome == "completed", ended.reason
        rounds = fed.of(RoundCompleted)
        adapter = from_safetensors(await fed.blobs.get(ended.adapter))
        told = {name: fed.clients[name].started for name in THREE}
        bases = [from_safetensors(await fed.blobs.get(one.base)) for one in told["alpha"] if one.base]
    return adapter, sorted(rounds, key=lambda one: one.number), told, bases


@pytest.mark.parametrize("method", METHODS)
async def test_every_method_completes_and_moves_what_it_trains(tmp_path, method):
    job = specification(lora={"method": method, "rank": RANK})
    before = from_safetensors(initial(job, layout_for(method)))
    adapter, rounds, told, bases = await run(tmp_path, job)
    assert [one.local_steps for one in rounds] == [2, 2]
    assert all(one.uploaded_bytes > 0 for one in rounds)
    moved = {name for name in adapter if (adapter[name] != before[name]).any()}
    expected = {"ffa": {B}, "fedsb": {R}}.get(method, {A, B})
    assert method == "flora" or moved == expected
    assert bool(bases) == METHODS[method].changes_base
    assert [one.completed for one in told["alpha"]] == [0, 1]


async def test_flora_sends_the_mean_of_the_clients_products_as_a_change_of_the_base(tmp_path):
    job = specification(lora={"method": "flora", "rank": RANK}, rounds={"count": 2})
    start = from_safetensors(initial(job, layout_for("flora")))
    _, _, _, bases = await run(tmp_path, job)
    [change] = bases  # what the second round began with
    [layer] = change
    products = []
    for client in THREE:
        update = small(client, 1, RANK * (INPUTS + OUTPUTS))
        a = start[A] + update[: RANK * INPUTS].reshape(RANK, INPUTS)
        products.append(update[RANK * INPUTS :].reshape(OUTPUTS, RANK) @ a)
    np.testing.assert_allclose(change[layer], np.mean(products, axis=0), rtol=1e-4, atol=1e-5)


async def test_a_column_that_one_client_lacks_is_the_mean_of_the_others(tmp_path):
    job = specification(lora={"method": "ffa", "rank": RANK, "mixed_ranks": True}, rounds={"count": 1})
    adapter, *_ = await run(tmp_path, job, gamma={"rank": 1})
    changes = {client: small(client, 1, RANK * OUTPUTS).reshape(OUTPUTS, RANK) for client in THREE}
    changes["gamma"] = padded_to(1, B, changes["gamma"])
    counts = np.array([3, 2, 2, 2])
    np.testing.assert_allclose(adapter[B], sum(changes.values()) / counts, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("restart", [(), ("coordinator",), ("secure_aggregation", "robust_aggregator")])
async def test_an_optimiser_that_remembers_goes_on_after_a_restart(tmp_path, restart):
    server = {"optimizer": "fedavgm", "momentum": 0.5, "learning_rate": 1.0}
    job = specification(lora={"method": "ffa", "rank": RANK}, server=server, rounds={"count": 3})
    adapter, *_ = await run(tmp_path, job, restart=restart)
    position = momentum = np.zeros(RANK * OUTPUTS)
    for number in (1, 2, 3):
        momentum = 0.5 * momentum + SCALE * mean_of(THREE, number, RANK * OUTPUTS)
        position = position + momentum
    np.testing.assert_allclose(flatten(adapter, [B]), position, rtol=1e-4, atol=1e-4)


async def test_random_k_moves_the_same_few_coordinates_for_all(tmp_path):
    job = specification(
        lora={"method": "ffa", "rank": RANK},
        compression={"kind": "random-k", "keep": 0.2},
        rounds={"count": 1},
    )
    adapter, (one,), *_ = await run(tmp_path, job)
    flat, mean = flatten(adapter, [B]), SCALE * mean_of(THREE, 1, RANK * OUTPUTS)
    sent = np.flatnonzero(flat)
    assert len(sent) == 4
    np.testing.assert_allclose(flat[sent], 5 * mean[sent], rtol=1e-3, atol=1e-3)
    whole, (all_of_it,), *_ = await run(
        tmp_path / "whole", specification(lora={"method": "ffa", "rank": RANK}, rounds={"count": 1})
    )
    assert one.uploaded_bytes < all_of_it.uploaded_bytes
    assert np.count_nonzero(flatten(whole, [B])) == 20


async def test_steps_become_fewer_as_updates_become_shorter_and_all_are_taken(tmp_path):
    def shrinking(client, number, dimension):
        return update_of(client, 1, dimension) * 0.24 ** (number - 1)

    job = specification(
        lora={"method": "ffa", "rank": RANK},
        training={"local_steps": 8, "adaptive_steps": True},
        rounds={"count": 4},
    )
    options = {name: {"sends": shrinking} for name in THREE}
    _, rounds, told, _ = await run(tmp_path, job, **options)
    steps = [one.local_steps for one in rounds]
    assert steps[:3] == [8, 8, 4]  # less than a quarter of the norm a step
    assert sum(steps) == 32
    assert len(steps) > 4
    assert [one.reservation.mechanism.steps for one in told["beta"]] == steps
