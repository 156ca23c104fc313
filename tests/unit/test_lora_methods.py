"""What the table says of each LoRA method holds: exactness, linearity, ranks, uploads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core.lora.methods import METHODS, Exact, Factor, Ranks, Upload, refuse_under_secure_sums
from shared.errors import Refused, Rejected
from tests.unit.lora_rounds import RANK, M, N, begun, client_product, mean_of_products, result, uploads

each_method = pytest.mark.parametrize("name", METHODS)
A, B, R = Factor.A, Factor.B, Factor.R
TOLERANCE = 2e-5  # float32 factors of about 1, products of up to 9 terms


def one_round(name, seed, ranks=(RANK,) * 4, completed=0):
    rng = np.random.default_rng(seed)
    before = begun(name, rng)
    uploaded = uploads(name, before, rng, ranks, completed)
    return before, uploaded, METHODS[name].aggregate(before, uploaded)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.exact is Exact.YES])
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), clients=st.integers(1, 6), completed=st.integers(0, 3))
def test_an_exact_method_moves_w_by_the_mean_of_products(name, seed, clients, completed):
    before, uploaded, combined = one_round(name, seed, (RANK,) * clients, completed)
    np.testing.assert_allclose(result(combined), mean_of_products(before, uploaded), atol=TOLERANCE * 10)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_fedit_misses_the_mean_of_products_by_the_covariance_of_b_and_a(seed):
    before, uploaded, combined = one_round("fedit", seed)
    weights = np.array([upload.weight for upload in uploaded])
    weights /= weights.sum()
    b = np.array([before[B] + upload.changes[B] for upload in uploaded], np.float64)
    a = np.array([before[A] + upload.changes[A] for upload in uploaded], np.float64)
    centred_b, centred_a = b - np.tensordot(weights, b, 1), a - np.tensordot(weights, a, 1)
    covariance = np.einsum("k,kmr,krn->mn", weights, centred_b, centred_a)
    bias = mean_of_products(before, uploaded) - result(combined)
    np.testing.assert_allclose(bias, covariance, atol=TOLERANCE * 10)
    assert np.abs(bias).max() > 0.1


def test_the_mean_of_products_is_not_the_product_of_means_by_hand():
    before = {B: np.zeros((1, 1), np.float32), A: np.zeros((1, 1), np.float32)}
    one = [Upload({B: np.float32([[b]]), A: np.float32([[a]])}) for b, a in ((1, 1), (3, 5))]
    assert float(result(METHODS["fedit"].aggregate(before, one))[0, 0]) == 2 * 3
    fedex = METHODS["fedex"].aggregate(before, one)
    assert float(fedex.into_base[0, 0]) == 8 - 6
    assert float(result(METHODS["flora"].aggregate(before, one))[0, 0]) == 8
    flex = METHODS["flexlora"].aggregate(before, one)
    assert float(result(flex)[0, 0]) == pytest.approx(8)


def test_one_sgd_step_each_is_one_step_on_the_pooled_data_for_fedit():
    print("seed 41")
    rng = np.random.default_rng(41)
    before = begun("fedit", rng)
    b, a = before[B].astype(np.float64), before[A].astype(np.float64)
    targets = rng.normal(size=(5, M, N))

    def gradients(target):  # of ||B A - target||^2 / 2
        error = b @ a - target
        return {B: error @ a.T, A: b.T @ error}

    uploaded = [
        Upload({f: (-0.1 * g).astype(np.float32) for f, g in gradients(target).items()}) for target in targets
    ]
    pooled = gradients(targets.mean(axis=0))
    after = METHODS["fedit"].aggregate(before, uploaded).factors
    for factor in (A, B):
        np.testing.assert_allclose(after[factor], before[factor] - 0.1 * pooled[factor], atol=TOLERANCE)


def test_flexlora_is_the_best_approximation_of_its_rank():
    before, uploaded, combined = one_round("flexlora", 42, (RANK, 2, 1, RANK))
    mean = mean_of_products(before, uploaded)
    values = np.linalg.svd(mean, compute_uv=False)
    assert values[RANK] > 0.01  # something is cut off
    error = np.linalg.norm(mean - result(combined))
    assert error == pytest.approx(np.sqrt((values[RANK:] ** 2).sum()), rel=1e-4)  # Eckart-Young
    for rank in (1, 2):  # and so is what a client of less rank goes on with
        shorter = combined.factors[B][:, :rank].astype(np.float64) @ combined.factors[A][:rank]
        best = np.sqrt((values[rank:] ** 2).sum())
        assert np.linalg.norm(mean - shorter) == pytest.approx(best, rel=1e-4)


def test_flexlora_loses_nothing_that_fits_and_keeps_rows_to_learn_with():
    before, uploaded, combined = one_round("flexlora", 43, (2,))
    np.testing.assert_allclose(result(combined), mean_of_products(before, uploaded), atol=TOLERANCE * 10)
    assert not combined.factors[B][:, 2].any() and combined.factors[A][2].any()
    kept = combined.factors[A][:2].astype(np.float64)
    np.testing.assert_allclose(kept @ kept.T, np.eye(2), atol=1e-5)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.linear])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), completed=st.integers(0, 1))
def test_a_linear_method_needs_only_the_weighted_sum(name, seed, completed):
    before, uploaded, combined = one_round(name, seed, completed=completed)
    whole = sum(upload.weight for upload in uploaded)
    total = {
        factor: (sum(u.weight * u.changes[factor].astype(np.float64) for u in uploaded) / whole).astype(
            np.float32
        )
        for factor in uploaded[0].changes
    }
    from_sum = METHODS[name].aggregate(before, [Upload(total)])
    for factor, values in combined.factors.items():
        np.testing.assert_allclose(values, from_sum.factors[factor], atol=TOLERANCE)
    assert combined.into_base is None


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.linear])
def test_what_is_not_linear_differs_from_the_same_method_on_the_sum(name):
    before, uploaded, combined = one_round(name, 44)
    whole = sum(upload.weight for upload in uploaded)
    total = {
        factor: (sum(u.weight * u.changes[factor].astype(np.float64) for u in uploaded) / whole).astype(
            np.float32
        )
        for factor in uploaded[0].changes
    }
    assert np.abs(result(METHODS[name].aggregate(before, [Upload(total)])) - result(combined)).max() > 0.1
    with pytest.raises(Refused, match=r"lora\.method: .*multiplies each client's factors"):
        refuse_under_secure_sums(name, METHODS[name])


def test_linear_methods_are_not_refused_under_secure_sums():
    linear = {name for name, method in METHODS.items() if method.linear}
    assert linear == {"ffa", "fedit", "rolora", "fedsb"}
    for name in linear:
        refuse_under_secure_sums(name, METHODS[name])


@each_method
def test_the_order_of_uploads_does_not_matter(name):
    before, uploaded, combined = one_round(name, 45)
    other = METHODS[name].aggregate(before, uploaded[::-1])
    np.testing.assert_allclose(result(other), result(combined), atol=TOLERANCE * 10)


@each_method
def test_a_round_that_changes_nothing_changes_nothing(name):
    before, uploaded, _ = one_round(name, 46)
    idle = [Upload({f: np.zeros_like(c) for f, c in u.changes.items()}, u.weight) for u in uploaded]
    expected = client_product(before, idle[0])
    np.testing.assert_allclose(result(METHODS[name].aggregate(before, idle)), expected, atol=TOLERANCE)


@each_method
def test_nothing_is_changed_in_place_and_float32_comes_out(name):
    before, uploaded, _ = one_round(name, 47)
    copies = {factor: values.copy() for factor, values in before.items()}
    combined = METHODS[name].aggregate(before, uploaded)
    assert all(np.array_equal(before[f], copies[f]) for f in before)
    assert set(combined.factors) == set(before)
    assert all(combined.factors[f].dtype == np.float32 for f in before)
    assert all(combined.factors[f].shape == before[f].shape for f in before)


@each_method
def test_only_methods_that_say_so_change_w_and_only_they_take_mixed_ranks(name):
    method, ranks = METHODS[name], (RANK, 1, 2)
    assert (one_round(name, 48)[2].into_base is not None) == method.changes_base
    if method.ranks is Ranks.EQUAL:
        with pytest.raises(Rejected, match="expected of every client"):
            one_round(name, 48, ranks)
    else:
        before, _, combined = one_round(name, 48, ranks)
        assert combined.factors[B].shape == before[B].shape


def test_uploads_of_a_768_by_3072_layer_in_rank_8():
    m, n, r = 768, 3072, 8
    sizes = {name: [method.uploaded(m, n, r, k) for k in (0, 1)] for name, method in METHODS.items()}
    both = r * (m + n)
    assert sizes["ffa"] == [r * m] * 2
    assert sizes["rolora"] == [r * m, r * n]
    assert sizes["fedsb"] == [r * r] * 2
    assert sizes["fedit"] == sizes["flora"] == sizes["fedex"] == sizes["flexlora"] == [both] * 2


@each_method
def test_uploads_that_do_not_fit_are_rejected(name):
    before, uploaded, _ = one_round(name, 49)
    method, good = METHODS[name], uploaded[0]
    factor = next(iter(good.changes))
    grown = np.zeros([side + 1 for side in good.changes[factor].shape], np.float32)
    broken = np.full_like(good.changes[factor], np.nan)
    for wrong in (
        [],
        [Upload(good.changes, 0.0)],
        [Upload({})],
        [good, Upload({f: c for f, c in before.items() if f not in good.changes} or {R: grown})],
        [Upload({**good.changes, factor: grown})],
        [Upload({**good.changes, factor: broken})],
    ):
        with pytest.raises(Rejected):
            method.aggregate(before, wrong)


def test_flora_rejects_a_b_that_would_go_into_w_again():
    before, uploaded, _ = one_round("flora", 50)
    with pytest.raises(Rejected, match="zero"):
        METHODS["flora"].aggregate({**before, B: before[B] + 1}, uploaded)
