"""The coordinator's step: FedAvg to the bit, factors in turns, columns over those that trained them."""

import os
from dataclasses import replace

import numpy as np
import pytest

from services.coordinator.adapter import initial as adapter
from services.coordinator.adapter.stepping import Came, Stand, control_of, noise_variance, stepped
from shared.core.compression import compress
from shared.core.lora import flatten, from_safetensors
from shared.core.lora.methods.adapters import flat_counts
from shared.errors import Rejected
from shared.events.values import Layout, TensorSpec
from shared.sessions.contents import Contents
from tests.plain_step import moved
from tests.unit.test_refusals_aggregation import job

SEED = int(os.environ.get("TEST_SEED", "7"))
A, B = "m.q_proj.lora_A.weight", "m.q_proj.lora_B.weight"
RANK = 4
LAYOUT = Layout(
    tensors=(
        TensorSpec(name=A, shape=(RANK, 6), trainable=True),
        TensorSpec(name=B, shape=(5, RANK), trainable=True),
    )
)
FFA = Layout(tensors=(LAYOUT.tensors[0].model_copy(update={"trainable": False}), LAYOUT.tensors[1]))
SGD = {"optimizer": "sgd", "learning_rate": 0.1}


@pytest.fixture
def numbers() -> np.random.Generator:
    print("seed", SEED)
    return np.random.default_rng(SEED)


def came(update: np.ndarray, **changes: object) -> Came:
    weights = {"anna": 0.5, "bob": 0.5}
    basics = Came(update.astype("<f4").tobytes(), weights, {}, {"anna": 50, "bob": 50}, 2, 8, 1.0)
    return replace(basics, **changes)


def step(specification, layout, values, before, *, completed=0, **changes):
    contents = Contents.of(specification, layout, completed, f"j-r{completed}")
    return stepped(specification, layout, contents, came(values, **changes), before)


@pytest.mark.parametrize(("method", "layout"), [("ffa", FFA), ("fedit", LAYOUT)])
@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_fedavg_is_the_plain_step_to_the_bit(numbers, method, layout, rate):
    specification = job(lora={"method": method}, server={"learning_rate": rate})
    before = adapter.initial(specification, layout)
    values = numbers.normal(size=layout.dimension)
    after = step(specification, layout, values, Stand(before))
    assert after == Stand(moved(before, values.astype("<f4").tobytes(), layout, rate))


def test_rolora_moves_one_factor_a_round_in_turns(numbers):
    specification = job(lora={"method": "rolora"})
    stand = Stand(adapter.initial(specification, LAYOUT))
    for completed, trained in enumerate((B, A, B)):
        contents = Contents.of(specification, LAYOUT, completed, "r")
        assert [tensor.name for tensor in contents.tensors] == [trained]
        after = step(
            specification, LAYOUT, numbers.normal(size=contents.dimension), stand, completed=completed
        )
        before, now = from_safetensors(stand.adapter), from_safetensors(after.adapter)
        changed = {name for name in before if (before[name] != now[name]).any()}
        assert changed == {trained}
        stand = after


def test_a_column_moves_by_the_mean_over_those_that_trained_it(numbers):
    specification = job(lora={"method": "ffa", "mixed_ranks": True})
    small, large = (numbers.normal(size=(5, RANK)).astype(np.float32) for _ in range(2))
    small[:, 2:] = 0
    after = step(
        specification,
        FFA,
        ((small + large) / 2).ravel(),
        Stand(adapter.initial(specification, FFA)),
        ranks={"anna": 2},
    )
    expected = np.concatenate([(small[:, :2] + large[:, :2]) / 2, large[:, 2:]], axis=1)
    np.testing.assert_allclose(from_safetensors(after.adapter)[B], expected, rtol=1e-6)
    assert flat_counts([(B, (5, RANK))], [2, RANK], [1, 1]).reshape(5, RANK)[0].tolist() == [2, 2, 1, 1]


def test_random_k_moves_what_was_sent_by_d_over_k(numbers):
    specification = job(compression={"kind": "random-k", "keep": 0.25})
    values = numbers.normal(size=FFA.dimension).astype(np.float32)
    contents = Contents.of(specification, FFA, 0, "j-r0")
    assert contents.uploaded == 5 < contents.dimension == 20
    sent = compress(contents.compression, values)
    after = step(specification, FFA, sent, Stand(adapter.initial(specification, FFA)))
    flat = flatten(from_safetensors(after.adapter), [B])
    assert np.count_nonzero(flat) == 5
    np.testing.assert_allclose(flat[flat != 0], 4 * sent, rtol=1e-6)
    other = Contents.of(specification, FFA, 1, "j-r1")
    assert (compress(other.compression, values) != sent).any()


def test_an_optimiser_goes_on_from_its_state(numbers):
    specification = job(server={"optimizer": "fedavgm", "momentum": 0.5})
    values = numbers.normal(size=FFA.dimension)
    first = step(specification, FFA, values, Stand(adapter.initial(specification, FFA)))
    second = step(specification, FFA, values, first, completed=1)
    one, two = (flatten(from_safetensors(stand.adapter), [B]) for stand in (first, second))
    np.testing.assert_allclose(two - one, 1.5 * values, rtol=1e-5)
    again = step(specification, FFA, values, Stand(second.adapter), completed=1)
    assert again.adapter != second.adapter


def test_scaffolds_control_variate_is_what_clients_are_sent(numbers):
    specification = job(server={"optimizer": "scaffold"}, training={**SGD, "local_steps": 8})
    assert not control_of(specification, FFA, b"").any()
    values = numbers.normal(size=FFA.dimension)
    after = step(specification, FFA, values, Stand(adapter.initial(specification, FFA)))
    control = control_of(specification, FFA, after.optimiser)
    np.testing.assert_allclose(control, -values / (8 * 0.1), rtol=1e-6)


def test_the_noise_of_a_mean_is_what_its_parts_add_up_to(numbers):
    specification = job(training={**SGD, "local_steps": 4}, privacy={"sampling_rate": 0.1, "clip_norm": 2.0})
    contents = Contents.of(specification, FFA, 0, "r")
    found = noise_variance(specification, contents, came(np.zeros(20), steps=4, noise_multiplier=3.0))
    one = 4 * (0.1 * 2.0 * 3.0 / (0.1 * 50)) ** 2
    assert found == pytest.approx(one / 2)
    compressed = job(
        training=specification.training.model_dump(),
        privacy=specification.privacy.model_dump(),
        compression={"kind": "random-k", "keep": 0.25},
    )
    contents = Contents.of(compressed, FFA, 0, "r")
    some = noise_variance(compressed, contents, came(np.zeros(5), steps=4, noise_multiplier=3.0))
    assert some == pytest.approx(4 * found)
    assert noise_variance(job(), contents, came(np.zeros(5))) == 0


def test_what_is_not_the_rounds_update_moves_nothing(numbers):
    stand = Stand(adapter.initial(job(), FFA))
    for wrong in (np.zeros(19), np.full(20, np.nan), np.full(20, 1e38) * 10):
        with pytest.raises(Rejected), np.errstate(over="ignore"):
            step(job(server={"learning_rate": 10}), FFA, wrong, stand)


def test_a_job_starts_from_the_tensors_that_it_was_given(numbers):
    given = adapter.initial(job(seed=5), LAYOUT)
    assert adapter.initial(job(), LAYOUT, given) == given != adapter.initial(job(), LAYOUT)
    with pytest.raises(Rejected, match="starts with shape"):
        adapter.initial(
            job(),
            LAYOUT.model_copy(update={"tensors": (LAYOUT.tensors[0].model_copy(update={"shape": (2, 6)}),)}),
            given,
        )


def test_the_noise_of_a_column_is_that_of_the_clients_that_trained_it():
    specification = job(
        lora={"method": "ffa", "mixed_ranks": True}, training={**SGD, "local_steps": 4}, aggregation={}
    )
    contents = Contents.of(specification, FFA, 0, "r")
    equal = noise_variance(specification, contents, came(np.zeros(20), steps=4, noise_multiplier=3.0))
    found = noise_variance(
        specification, contents, came(np.zeros(20), ranks={"anna": 2}, steps=4, noise_multiplier=3.0)
    )
    np.testing.assert_allclose(found.reshape(5, RANK)[0], [equal, equal, 2 * equal, 2 * equal])
