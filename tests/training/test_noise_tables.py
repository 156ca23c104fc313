"""Integer noise has the exact distribution it is accounted by, to the last unit of 2^-128."""

import math
from bisect import bisect_right
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from shared.core.noise import DiscreteGaussian, KeyStream, Skellam, discrete_gaussian, skellam
from shared.core.noise.inverse_transform import ONE, symmetric_table

KEYS = [11, 12]
TABLES = {
    "discrete gaussian": discrete_gaussian.table,
    "skellam": lambda sigma: skellam.table(sigma**2),
}
every_table = pytest.mark.parametrize("name", TABLES)


def keyed(number):
    """A stream under a known key."""
    return KeyStream(lambda count: bytes([number]) * count)


class Scripted(KeyStream):
    """The given words, one list a request."""

    def __init__(self, *requests):
        self.requests = list(requests)

    def words(self, count):
        request = self.requests.pop(0)
        assert len(request) == count
        return np.array(request, np.uint64)


def boundaries(table):
    """2n + 1 integers: P(X <= k) out of 2^128, the last one 2^128."""
    pairs = zip(table.upper.tolist(), table.lower.tolist(), strict=True)
    return [*((upper << 64) + lower for upper, lower in pairs), ONE]


def weights(table):
    """2n + 1 integers: P(X = k) out of 2^128."""
    cumulated = boundaries(table)
    return [after - before for before, after in zip([0, *cumulated], cumulated, strict=False)]


def pmf(name, sigma, largest):
    """(2n + 1,) from scipy and numpy, to double precision."""
    k = np.arange(-largest, largest + 1)
    if name == "skellam":
        return stats.skellam.pmf(k, sigma**2 / 2, sigma**2 / 2)
    gaussian = np.exp(-((k / sigma) ** 2) / 2)
    return gaussian / gaussian.sum()


@every_table
@pytest.mark.parametrize("sigma", [0.3, 1.0, 7.5, 400.0])
def test_a_table_is_symmetric_and_sums_to_one(name, sigma):
    exact = weights(TABLES[name](sigma))
    assert sum(exact) == ONE
    assert min(exact) >= 0
    assert exact[0] > 0
    assert exact == exact[::-1]  # so its mean is 0


@every_table
@pytest.mark.parametrize("sigma", [0.3, 1.0, 7.5, 400.0])
def test_a_table_agrees_with_double_precision_probabilities(name, sigma):
    table = TABLES[name](sigma)
    exact = np.array([weight / ONE for weight in weights(table)])
    assert np.abs(exact - pmf(name, sigma, table.largest)).max() < 1e-12


def tail_errors(table, half):
    """How far each P(X >= k), k = 1, ..., n, is from its exact value, in units of 2^-128."""
    total = 2 * sum(half) - half[0]
    tails = boundaries(table)[: table.largest][::-1]
    return [abs(sum(half[k:]) / total * ONE - tail) for k, tail in enumerate(tails, start=1)]


ROUNDING = Decimal("0.501")  # half a unit, and the mass that was cut at 2^-140


@pytest.mark.parametrize("mu", [0.25, 1.0, 50.0])
def test_skellam_tails_are_right_to_half_a_unit(mu):
    """By the power series of I_k, and e^mu, at 150 digits."""
    table = skellam.table(mu)
    half = []
    with localcontext() as context:
        context.prec = 150
        for k in range(2 * table.largest + 20):
            term = Decimal(mu / 2) ** k / math.factorial(k)
            series = term
            for m in range(1, 300):
                term *= Decimal(mu / 2) ** 2 / (m * (m + k))
                series += term
            half.append(series)
        assert abs((2 * sum(half) - half[0]) / Decimal(mu).exp() - 1) < Decimal("1e-45")
        assert max(tail_errors(table, half)) <= ROUNDING


@pytest.mark.parametrize("sigma", [0.3, 1.0, 7.5])
def test_discrete_gaussian_tails_are_right_to_half_a_unit(sigma):
    table = discrete_gaussian.table(sigma)
    with localcontext() as context:
        context.prec = 150
        half = [(-Decimal(k * k) / (2 * Decimal(sigma) ** 2)).exp() for k in range(2 * table.largest + 20)]
        assert max(tail_errors(table, half)) <= ROUNDING


@every_table
@pytest.mark.parametrize("sigma", [0.5, 3.0, 1000.0])
def test_the_variance_is_that_of_the_distribution(name, sigma):
    table = TABLES[name](sigma)
    k = range(-table.largest, table.largest + 1)
    moment = Fraction(sum(j * j * weight for j, weight in zip(k, weights(table), strict=True)), ONE)
    assert table.variance == pytest.approx(float(moment), rel=1e-15)
    if name == "skellam":
        assert abs(moment - Fraction(sigma) ** 2) < Fraction(len(k) ** 3, ONE)
    else:
        mechanism = DiscreteGaussian(sigma)
        assert mechanism.standard_deviation <= sigma
        assert mechanism.standard_deviation**2 == pytest.approx(
            np.sum(np.arange(-table.largest, table.largest + 1) ** 2 * pmf(name, sigma, table.largest)),
            rel=1e-12,
        )


@pytest.mark.parametrize(("clients", "mu"), [(2, 4.0), (7, 0.3), (16, 90.0)])
def test_skellam_noise_of_n_clients_sums_to_skellam_noise(clients, mu):
    share = np.array([weight / ONE for weight in weights(skellam.table(mu))])
    summed = np.ones(1)
    for _ in range(clients):
        summed = np.convolve(summed, share)
    whole = np.array([weight / ONE for weight in weights(skellam.table(clients * mu))])
    outside = (len(summed) - len(whole)) // 2
    assert np.abs(summed[outside:-outside] - whole).max() < 1e-12
    assert summed[:outside].sum() < 1e-12


def test_discrete_gaussian_noise_is_not_closed_under_sums():
    """So the test above can fail."""
    share = np.array([weight / ONE for weight in weights(discrete_gaussian.table(0.5))])
    summed = np.convolve(share, share)
    whole = np.array([weight / ONE for weight in weights(discrete_gaussian.table(math.sqrt(0.5)))])
    assert abs(summed.max() - whole.max()) > 1e-3


def goodness_of_fit(drawn, expected, largest):
    """The p-value of a chi-squared test on cells of some 50 expected draws, those of under 5 left out."""
    counts = np.bincount(drawn + largest, minlength=2 * largest + 1)
    cells = np.floor(np.cumsum(expected) * len(drawn) / 50).astype(int)
    starts = np.flatnonzero(np.diff(cells, prepend=-1))
    observed, hoped = np.add.reduceat(counts, starts), np.add.reduceat(expected, starts) * len(drawn)
    observed, hoped = observed[hoped >= 5], hoped[hoped >= 5]
    return stats.chisquare(observed, hoped * observed.sum() / hoped.sum()).pvalue


@every_table
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("sigma", [0.6, 2.0, 50.0, 1000.0])
def test_draws_fit_the_exact_probabilities(name, sigma, key):
    table = TABLES[name](sigma)
    drawn = table.draw(200_000, keyed(key))
    p = goodness_of_fit(drawn, pmf(name, sigma, table.largest), table.largest)
    assert p > 1e-4, f"key {key}: p = {p}"


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("sigma", [0.6, 2.0])
def test_draws_of_one_distribution_do_not_fit_the_other(sigma, key):
    """So the test above can fail."""
    table = skellam.table(sigma**2)
    drawn = table.draw(200_000, keyed(key))
    assert goodness_of_fit(drawn, pmf("discrete gaussian", sigma, table.largest), table.largest) < 1e-6


@every_table
@pytest.mark.parametrize("key", KEYS)
def test_draws_are_those_of_an_exact_search(name, key):
    table = TABLES[name](3.0)
    exact = [
        bisect_right(boundaries(table), (word << 64) + 1) - table.largest
        for word in keyed(key).words(5000).tolist()
    ]
    assert table.draw(5000, keyed(key)).tolist() == exact


@every_table
def test_a_word_equal_to_a_boundary_is_resolved_by_a_second_one(name):
    table = TABLES[name](1.0)
    cumulated = boundaries(table)
    assert sum(boundary >> 64 == 0 for boundary in cumulated) > 1  # several boundaries share an upper word
    drawn = [
        boundary + step
        for boundary in cumulated[:-1]
        for step in (-1, 0, 1)
        if (boundary + step) >> 64 == boundary >> 64
    ]
    firsts, seconds = [number >> 64 for number in drawn], [number % 2**64 for number in drawn]
    plain = 2**63 + 12345  # equal to no boundary's: takes no second word
    resolved = table.draw(len(drawn) + 1, Scripted([plain, *firsts], seconds))
    expected = [bisect_right(cumulated, number) - table.largest for number in (plain << 64, *drawn)]
    assert resolved.tolist() == expected
    assert set(expected) == set(range(-table.largest, table.largest + 1))


def test_a_boundary_itself_is_the_first_number_of_the_next_integer():
    table = symmetric_table([Decimal(2), Decimal(1)])  # 1/4, 1/2, 1/4
    assert boundaries(table) == [ONE // 4, 3 * ONE // 4, ONE]
    quarter, most = 2**62, 2**64 - 1
    firsts = [0, quarter - 1, quarter, quarter, 3 * quarter - 1, 3 * quarter, most]
    assert table.draw(7, Scripted(firsts, [0, 1, 0])).tolist() == [-1, -1, 0, 0, 0, 1, 1]


def test_each_tail_is_rounded_to_the_nearest_unit_and_empty_ones_are_left_out():
    tiny = Decimal(1) / ONE
    exact = weights(symmetric_table([Decimal(1), 3 * tiny, Decimal("1.4") * tiny, Decimal("0.4") * tiny]))
    assert exact == [2, 3, ONE - 10, 3, 2]  # tails of 4.8, 1.8 and 0.4 units


@pytest.mark.parametrize("make", [DiscreteGaussian, lambda sigma: Skellam(sigma**2)])
@pytest.mark.parametrize("sigma", [37_700.0, 1e20, 1e150])
def test_a_table_that_would_be_too_large_is_refused(make, sigma):
    with pytest.raises(ValueError, match="scale vector and noise down"):
        make(sigma)


@pytest.mark.parametrize("make", [DiscreteGaussian, lambda sigma: Skellam(sigma**2)])
@pytest.mark.parametrize("sigma", [1e-20, 1e-160])
def test_noise_that_would_always_be_zero_is_refused(make, sigma):
    with pytest.raises(ValueError, match="scale vector and noise up"):
        make(sigma)


@every_table
def test_the_largest_noise_of_a_table_is_far_out(name):
    assert TABLES[name](1000.0).largest > 13 * 1000  # mass beyond: about 2^-129


@pytest.mark.parametrize("mechanism", [DiscreteGaussian(2.0), Skellam(4.0)])
def test_floats_and_other_integers_are_refused(mechanism):
    for dtype in (np.float64, np.float32, np.int32, np.uint64):
        with pytest.raises(ValueError, match="round it to int64"):
            mechanism.add(np.zeros(3, dtype), keyed(1))


@every_table
def test_a_table_is_built_once_and_cannot_be_changed(name):
    table = TABLES[name](5.0)
    assert TABLES[name](5.0) is table
    for words in (table.upper, table.lower):
        with pytest.raises(ValueError, match="read-only"):
            words[0] = 0
