"""A server's optimisers: by hand, against plain loops, and cut off between any two rounds."""

import math

import numpy as np
import pytest

from shared.core.lora import flatten, from_safetensors, to_safetensors, unflatten
from shared.core.optimisers import OPTIMISERS, Mean, Options, State, advance, from_bytes, to_bytes
from shared.errors import Refused, Rejected
from shared.events.values import Layout, TensorSpec
from tests.plain_step import moved
from tests.unit.optimisers_at_work import OPTIONS, PUBLIC, mean_of, updates

each_optimiser = pytest.mark.parametrize("name", OPTIMISERS)
HAND = Options(rate=0.1, momentum=0.5, memory=0.75, floor=0.1)


def run(name, rows, options=OPTIONS, variance=0.0):
    """The adapter and the state after every round."""
    optimiser, adapter = OPTIMISERS[name], np.zeros(rows.shape[1], np.float32)
    state, path = optimiser.start(rows.shape[1], options), []
    for row in rows:
        adapter, state = advance(optimiser, adapter, state, mean_of(row, variance), options)
        path.append((adapter, state))
    return path


@pytest.mark.parametrize("name", ["fedavg", "fedprox"])
@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_fedavg_is_the_coordinators_own_step_to_the_bit(name, rate):
    layout = Layout(
        tensors=(
            TensorSpec(name="a", shape=(7, 3), trainable=True),
            TensorSpec(name="b", shape=(11,), trainable=True),
        )
    )
    shapes = [(tensor.name, tensor.shape) for tensor in layout.trainable]
    before, update = updates(2, layout.dimension, seed=11)
    theirs = moved(to_safetensors(unflatten(before, shapes)), update.astype("<f4").tobytes(), layout, rate)
    ours, _ = advance(OPTIMISERS[name], before, State(), Mean(update), Options(rate=rate))
    assert ours.tobytes() == flatten(from_safetensors(theirs), ["a", "b"]).tobytes()


def test_momentum_by_hand():
    # u: 1, then 0.5 + 2 = 2.5; x: 0.1, then 0.35.
    path = run("fedavgm", np.float32([[1.0], [2.0]]), HAND)
    assert [float(adapter[0]) for adapter, _ in path] == pytest.approx([0.1, 0.35])


def test_adam_by_hand():
    # m: 0.5, 1.25; v: 0.75 x 0.01 + 0.25 = 0.2575, then 0.75 x 0.2575 + 0.25 x 4 = 1.193125.
    path = run("fedadam", np.float32([[1.0], [2.0]]), HAND)
    assert [float(state.moments["second"][0]) for _, state in path] == pytest.approx([0.2575, 1.193125])
    first = 0.1 * 0.5 / (math.sqrt(0.2575) + 0.1)
    assert [float(adapter[0]) for adapter, _ in path] == pytest.approx(
        [first, first + 0.1 * 1.25 / (math.sqrt(1.193125) + 0.1)]
    )


def test_yogi_by_hand():
    # v: 0.01 + 0.25 x 4 = 1.01, then down by a quarter of 0.04: 1.0.
    path = run("fedyogi", np.float32([[2.0], [0.2]]), HAND)
    assert [float(state.moments["second"][0]) for _, state in path] == pytest.approx([1.01, 1.0])
    first = 0.1 * 1.0 / (math.sqrt(1.01) + 0.1)
    assert float(path[1][0][0]) == pytest.approx(first + 0.1 * (0.5 + 0.1) / 1.1)


def plain_adaptive(rows, yogi, options=OPTIONS):
    """Algorithm 2 of Reddi et al. 2021, a coordinate and a round at a time."""
    adapter = [0.0] * rows.shape[1]
    m, v = [0.0] * len(adapter), [options.floor**2] * len(adapter)
    for row in rows:
        for i, delta in enumerate(map(float, row)):
            m[i] = options.momentum * m[i] + (1 - options.momentum) * delta
            if yogi:
                sign = (v[i] > delta**2) - (v[i] < delta**2)
                v[i] = v[i] - (1 - options.memory) * delta**2 * sign
            else:
                v[i] = options.memory * v[i] + (1 - options.memory) * delta**2
            adapter[i] = float(
                np.float32(adapter[i] + options.rate * m[i] / (math.sqrt(v[i]) + options.floor))
            )
    return np.float32(adapter)


@pytest.mark.parametrize(("name", "yogi"), [("fedadam", False), ("fedyogi", True)])
def test_adam_and_yogi_are_the_papers_loop(name, yogi):
    rows = updates(30, 9, seed=12)
    np.testing.assert_allclose(run(name, rows)[-1][0], plain_adaptive(rows, yogi), rtol=2e-6)


def test_momentum_is_a_plain_loop():
    rows, velocity, adapter = updates(30, 9, seed=13), np.zeros(9), np.zeros(9)
    for row in rows:
        velocity = OPTIONS.momentum * velocity + row
        adapter += OPTIONS.rate * velocity
    np.testing.assert_allclose(run("fedavgm", rows)[-1][0], adapter, rtol=1e-5, atol=1e-6)


@each_optimiser
def test_a_server_killed_after_any_round_goes_on_as_if_it_had_not_been(name):
    rows, optimiser = updates(6, 5, seed=14), OPTIMISERS[name]
    whole = run(name, rows, variance=0.004)
    adapter, state = np.zeros(5, np.float32), optimiser.start(5, OPTIONS)
    for row, (expected, kept) in zip(rows, whole, strict=True):
        state = from_bytes(to_bytes(state), optimiser, 5)
        adapter, state = advance(optimiser, adapter, state, mean_of(row, 0.004), OPTIONS)
        assert adapter.tobytes() == expected.tobytes() and to_bytes(state) == to_bytes(kept)


@each_optimiser
def test_a_step_changes_none_of_what_it_was_given(name):
    (row,) = updates(1, 5, seed=15)
    optimiser, adapter = OPTIMISERS[name], np.ones(5, np.float32)
    state = optimiser.start(5, OPTIONS)
    before = to_bytes(state)
    twice = [advance(optimiser, adapter, state, mean_of(row), OPTIONS) for _ in range(2)]
    assert to_bytes(state) == before and (adapter == 1).all()
    assert twice[0][0].tobytes() == twice[1][0].tobytes()
    assert twice[0][0].dtype == np.float32 and not np.array_equal(twice[0][0], adapter)


@each_optimiser
def test_coordinates_do_not_mix(name):
    rows = updates(5, 8, seed=16)
    together, apart = run(name, rows)[-1][0], run(name, rows[:, 3:5])[-1][0]
    assert together[3:5].tobytes() == apart.tobytes()


@each_optimiser
def test_the_state_is_what_the_table_says(name):
    assert set(OPTIMISERS[name].start(3, OPTIONS).moments) == set(OPTIMISERS[name].moments)


def test_bytes_of_another_optimiser_or_length_are_rejected():
    adam = OPTIMISERS["fedadam"]
    content = to_bytes(adam.start(4, OPTIONS))
    with pytest.raises(Rejected, match="velocity"):
        from_bytes(content, OPTIMISERS["fedavgm"], 4)
    with pytest.raises(Rejected, match=r"\(5,\)"):
        from_bytes(content, adam, 5)
    with pytest.raises(Rejected, match="not an optimiser"):
        from_bytes(b"nothing", adam, 4)
    with pytest.raises(Rejected, match="finite"):
        from_bytes(to_bytes(State({"first": np.zeros(4), "second": np.full(4, np.nan)})), adam, 4)


def test_what_cannot_be_stepped_with_is_rejected():
    adam, one = OPTIMISERS["fedadam"], np.ones(3, np.float32)
    state = adam.start(3, OPTIONS)
    with pytest.raises(Rejected, match="shape"):
        advance(adam, one, state, mean_of(np.ones(4)), OPTIONS)
    with pytest.raises(Rejected, match="state of"):
        advance(adam, one, State(), mean_of(one), OPTIONS)
    with pytest.raises(Rejected, match="length"):
        advance(adam, one, adam.start(4, OPTIONS), mean_of(one), OPTIONS)
    with pytest.raises(Rejected, match="not finite"):
        advance(adam, one, state, mean_of(one * np.inf), OPTIONS)
    with pytest.raises(Rejected, match="variance"):
        advance(adam, one, state, mean_of(one, -1.0), OPTIONS)
    with pytest.raises(Rejected, match="would not be finite"):
        advance(OPTIMISERS["fedavg"], one * 3e38, State(), mean_of(one * 3e38), Options(rate=10))


@pytest.mark.parametrize("wrong", [{"rate": 0}, {"floor": 0}, {"momentum": 1}, {"memory": -0.1}])
def test_settings_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(Refused) as refused:
        Options(**wrong)
    field = next(iter(wrong)).replace("rate", "learning_rate")
    assert refused.value.field == f"server.{field}"


def test_nobody_and_nothing_done_is_rejected():
    for wrong in ({"steps": ()}, {"steps": (0.0,)}, {"weights": (1.0, 1.0)}, {"clients": 0}, {"rate": 0.0}):
        with pytest.raises(Rejected):
            type(PUBLIC)(**wrong)
