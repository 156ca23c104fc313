"""Mixed ranks by nested columns, whole adapters, and Fed-SB's frames."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core.lora import flatten, initial_tensor, unflatten
from shared.core.lora.methods import METHODS, Factor, Upload
from shared.core.lora.methods.adapters import AdapterUpload, aggregate, flat_counts, trains
from shared.core.lora.methods.averaging import padded
from shared.core.lora.methods.fedsb import as_lora, frames
from shared.core.lora.methods.products import product
from shared.errors import Refused, Rejected
from tests.unit.lora_rounds import RANK, begun, uploads

A, B, R = Factor.A, Factor.B, Factor.R
LAYER = "base_model.model.layers.0.q_proj"
HEAD = "base_model.model.classifier.weight"
NAMES = {A: f"{LAYER}.lora_A.weight", B: f"{LAYER}.lora_B.weight", R: f"{LAYER}.lora_R.weight"}


def test_two_ranks_by_hand():
    before = {A: np.eye(2, 3, dtype=np.float32), B: np.zeros((1, 2), np.float32)}
    short, long = Upload({B: np.float32([[2]])}, 1.0), Upload({B: np.float32([[4, 6]])}, 3.0)
    after = METHODS["ffa"].aggregate(before, [short, long]).factors[B]
    assert after.tolist() == [[(2 + 3 * 4) / 4, 6]]  # the second column is the mean of those that trained it
    alone = METHODS["ffa"].aggregate({**before, B: np.float32([[1, 1]])}, [short]).factors[B]
    assert alone.tolist() == [[3, 1]]  # and stays where nobody did


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    ranks=st.lists(st.integers(1, RANK), min_size=1, max_size=6),
    name=st.sampled_from(["ffa", "fedsb"]),
)
def test_each_column_is_the_mean_over_those_that_trained_it(seed, ranks, name):
    rng = np.random.default_rng(seed)
    before = begun(name, rng)
    uploaded = uploads(name, before, rng, ranks)
    (factor,) = uploaded[0].changes
    after = METHODS[name].aggregate(before, uploaded).factors[factor]
    for i, j in np.ndindex(after.shape):
        column = j if factor is B else max(i, j)
        those = [u for u, rank in zip(uploaded, ranks, strict=True) if rank > column]
        mean = (
            np.average([u.changes[factor][i, j] for u in those], weights=[u.weight for u in those])
            if those
            else 0
        )
        assert after[i, j] == pytest.approx(before[factor][i, j] + mean, abs=1e-5)


@pytest.mark.parametrize("name", ["ffa", "fedsb"])
def test_a_secure_sum_and_public_counts_give_the_same_adapter(name):
    print("seed 51")
    rng = np.random.default_rng(51)
    ranks, layer = (3, 1, 2, 2), begun(name, rng)
    before = {NAMES[f]: values for f, values in layer.items()} | {
        HEAD: rng.normal(size=(2, 4)).astype(np.float32)
    }
    sent = [
        AdapterUpload(
            {NAMES[f]: change for f, change in upload.changes.items()}
            | {HEAD: rng.normal(size=(2, 4)).astype(np.float32)},
            upload.weight,
        )
        for upload in uploads(name, layer, rng, ranks)
    ]
    trained = sorted(n for n in before if trains(METHODS[name], n, 0))
    assert (HEAD in trained) and len(trained) == 2
    shapes = [(n, before[n].shape) for n in trained]
    factor = next(f for f in Factor if NAMES[f] in trained)
    full = [
        {
            **dict(upload.changes),
            NAMES[factor]: padded(factor, upload.changes[NAMES[factor]], layer[factor].shape),
        }
        for upload in sent
    ]
    weights = [upload.weight for upload in sent]
    total = sum(
        w * flatten(tensors, trained).astype(np.float64) for w, tensors in zip(weights, full, strict=True)
    )
    mean = (total / flat_counts(shapes, ranks, weights)).astype(np.float32)
    expected = aggregate(METHODS[name], before, sent).tensors
    for n, change in unflatten(mean, shapes).items():
        np.testing.assert_allclose(before[n] + change, expected[n], atol=1e-5)


def test_a_whole_adapter_is_its_layers_one_by_one():
    print("seed 52")
    rng = np.random.default_rng(52)
    layers = {f"{LAYER}{i}": begun("fedex", rng) for i in range(3)}
    sent = {layer: uploads("fedex", factors, rng, (RANK,) * 3) for layer, factors in layers.items()}
    before = {f"{layer}.{f}.weight": v for layer, factors in layers.items() for f, v in factors.items()}
    weights = [upload.weight for upload in sent[f"{LAYER}0"]]
    combined = aggregate(
        METHODS["fedex"],
        before,
        [
            AdapterUpload(
                {f"{layer}.{f}.weight": c for layer in layers for f, c in sent[layer][k].changes.items()}, w
            )
            for k, w in enumerate(weights)
        ],
    )
    for layer, factors in layers.items():
        rows = [Upload(sent[layer][k].changes, w) for k, w in enumerate(weights)]
        alone = METHODS["fedex"].aggregate(factors, rows)
        assert np.array_equal(combined.into_base[layer], alone.into_base)
        for factor in (A, B):
            assert np.array_equal(combined.tensors[f"{layer}.{factor}.weight"], alone.factors[factor])


def test_adapters_that_do_not_fit_are_rejected():
    before = {HEAD: np.zeros(3, np.float32)}
    for wrong in (
        [],
        [AdapterUpload({"other": np.zeros(3, np.float32)})],
        [AdapterUpload({HEAD: np.zeros(4, np.float32)})],
        [AdapterUpload({HEAD: np.zeros(3, np.float32)}), AdapterUpload({})],
    ):
        with pytest.raises(Rejected):
            aggregate(METHODS["ffa"], before, wrong)


def test_rolora_trains_b_first_and_then_in_turns():
    rounds = [[f for f in (A, B) if trains(METHODS["rolora"], NAMES[f], k)] for k in range(4)]
    assert rounds == [[B], [A], [B], [A]]
    assert all(trains(METHODS["rolora"], HEAD, k) for k in range(4))


def test_fedsb_frames_are_the_singular_vectors_of_what_they_are_made_of():
    print("seed 53")
    w = np.random.default_rng(53).normal(size=(20, 12)).astype(np.float32)
    made = frames(w, 4)
    u, v = made[B].astype(np.float64), made[A].astype(np.float64)
    np.testing.assert_allclose(u.T @ u, np.eye(4), atol=1e-5)
    np.testing.assert_allclose(v @ v.T, np.eye(4), atol=1e-5)
    np.testing.assert_allclose(np.diag(u.T @ w @ v.T), np.linalg.svd(w, compute_uv=False)[:4], rtol=1e-4)
    assert not made[R].any() and not product(made).any()  # W is as it was before the first round
    with pytest.raises(Refused, match=r"lora\.rank"):
        frames(w, 13)


def test_fedsb_as_plain_lora_is_the_same_update():
    print("seed 54")
    layer = begun("fedsb", np.random.default_rng(54))
    plain = as_lora(layer)
    assert set(plain) == {A, B}
    np.testing.assert_allclose(product(plain), product(layer), atol=1e-5)


def test_fedsb_begins_with_orthonormal_frames_from_the_public_seed():
    a, b = (initial_tensor(3, NAMES[f], shape, "fedsb") for f, shape in ((A, (4, 32)), (B, (24, 4))))
    np.testing.assert_allclose(a @ a.T, np.eye(4), atol=1e-5)
    np.testing.assert_allclose(b.T @ b, np.eye(4), atol=1e-5)
    assert not initial_tensor(3, NAMES[R], (4, 4), "fedsb").any()
    with pytest.raises(ValueError, match="3 outputs"):
        initial_tensor(3, NAMES[B], (3, 4), "fedsb")
