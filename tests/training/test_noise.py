"""The noise has the distribution that the accountant assumes, from a stream that never repeats."""

import math
import os

import numpy as np
import pytest
from scipy import stats

from services.client.training.sampling import poisson_sample
from shared.core.noise import DiscreteGaussian, Gaussian, KeyStream, Skellam, noised


def keyed(number):
    """A stream under a known key: what the system's source would give is random."""
    return KeyStream(lambda count: bytes([number]) * count)


MECHANISMS = {
    "gaussian": (Gaussian, np.float64),
    "discrete gaussian": (DiscreteGaussian, np.int64),
    "skellam": (lambda sigma: Skellam(sigma * abs(sigma)), np.int64),
}
# First draws at sigma 0.7 under keyed(7): those of integers by scipy's pmf too, at the same words.
KNOWN = {
    "gaussian": [1.4516, -0.9902, -0.0849, 0.0114, -0.2337, 1.8308, -0.0896, 0.885],
    "discrete gaussian": [-1, 0, -1, 1, 1, -1, 1, 0],
    "skellam": [-1, 0, -1, 2, 1, -1, 1, 0],
}
every_mechanism = pytest.mark.parametrize("name", MECHANISMS)


def made(name, sigma):
    """The mechanism and a vector of zeros of its type."""
    make, dtype = MECHANISMS[name]
    return make(sigma), lambda size: np.zeros(size, dtype)


def tail_of_the_variance(noise, sigma):
    """The chance that N(0, sigma^2) noise has a greater sum of squares; at sigma 1000 all mechanisms are that."""
    return stats.chi2.sf(float(np.sum(noise.astype(np.float64) ** 2)) / sigma**2, len(noise))


@every_mechanism
def test_the_variance_passes_an_exact_chi_squared_test(name):
    mechanism, zeros = made(name, 1000.0)
    assert mechanism.standard_deviation == pytest.approx(1000.0, rel=1e-12)
    assert 1e-4 < tail_of_the_variance(mechanism.add(zeros(200_000), keyed(1)), 1000.0) < 1 - 1e-4


@every_mechanism
def test_halved_noise_fails_the_same_test(name):
    mechanism, zeros = made(name, 1000.0)
    assert tail_of_the_variance(mechanism.add(zeros(200_000), keyed(1)) / 2, 1000.0) > 1 - 1e-12
    halved, zeros = made(name, 500.0)
    assert tail_of_the_variance(halved.add(zeros(200_000), keyed(1)), 1000.0) > 1 - 1e-12


@every_mechanism
def test_noise_is_added_to_the_vector_and_leaves_it_alone(name):
    mechanism, zeros = made(name, 8.0)
    total = zeros(1000)
    total += np.arange(1000, dtype=total.dtype)
    before = total.copy()
    released = mechanism.add(total, keyed(2))
    assert released.dtype == total.dtype
    assert np.array_equal(released - total, mechanism.add(zeros(1000), keyed(2)))
    assert np.array_equal(total, before)
    assert mechanism.add(zeros(0), keyed(2)).shape == (0,)


@every_mechanism
def test_a_key_gives_its_noise_again_and_another_key_gives_other_noise(name):
    mechanism, zeros = made(name, 1000.0)
    stream = keyed(7)
    first, second = mechanism.add(zeros(1000), stream), mechanism.add(zeros(1000), stream)
    assert np.array_equal(first, mechanism.add(zeros(1000), keyed(7)))
    for other in (
        second,
        mechanism.add(zeros(1000), keyed(8)),
        mechanism.add(zeros(1000), KeyStream(os.urandom)),
    ):
        assert np.mean(other == first) < 0.05


@every_mechanism
def test_known_draws(name):
    mechanism, zeros = made(name, 0.7)
    first_of_sixteen = mechanism.add(zeros(16), keyed(7))[:8]
    assert list(first_of_sixteen) == pytest.approx(KNOWN[name], abs=1e-4 if name == "gaussian" else 0)


@every_mechanism
@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf])
def test_a_sigma_that_is_not_positive_and_finite_is_refused(name, sigma):
    with pytest.raises(ValueError, match="give a positive, finite"):
        MECHANISMS[name][0](sigma)


def test_the_stream_is_aes_256_in_counter_mode():
    """NIST SP 800-38A, F.5.5: the first output blocks."""
    parts = [
        bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4"),
        bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"),
    ]
    words = KeyStream(lambda count: next(part for part in parts if len(part) == count)).words(4)
    assert words.tobytes().hex() == "0bdf7df1591716335e9a8b15c860c5025a6e699d536119065433863c8f657b94"


def test_the_distribution_is_normal():
    assert stats.kstest(keyed(2).gaussian(100_000, 1.0), "norm").pvalue > 1e-4


def test_what_is_released_lies_on_a_grid_that_depends_on_sigma_alone():
    spacing = 2.0**-21  # the power of two at or below 1.5 * 2^-20, and 2^0 <= 1.5
    for total in (np.zeros(1000), np.full(1000, 1e-9), np.linspace(-1, 1, 1000)):
        released = noised(total, 1.5, keyed(3))
        assert np.array_equal(released, np.rint(released / spacing) * spacing)


def test_two_streams_and_two_draws_differ():
    stream = KeyStream(os.urandom)
    first, second = stream.gaussian(1000, 1.0), stream.gaussian(1000, 1.0)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, KeyStream(os.urandom).gaussian(1000, 1.0))


def test_uniform_draws_are_never_zero():
    drawn = keyed(4).uniform(1_000_000)
    assert drawn.min() > 0
    assert drawn.max() <= 1


def test_each_record_is_sampled_at_the_rate():
    stream, records, steps, rate = keyed(5), 200, 2000, 0.1
    counts = np.zeros(records)
    sizes = []
    for _ in range(steps):
        chosen = poisson_sample(records, rate, stream)
        counts[chosen] += 1
        sizes.append(len(chosen))
    assert stats.binomtest(int(counts.sum()), records * steps, rate).pvalue > 1e-4
    deviations = (counts - steps * rate) / np.sqrt(steps * rate * (1 - rate))
    assert np.abs(deviations).max() < 5
    assert np.var(sizes) > 0.5 * records * rate * (1 - rate)  # sizes vary: it is not a fixed batch


def test_a_rate_of_one_takes_every_record():
    assert list(poisson_sample(5, 1.0, keyed(6))) == [0, 1, 2, 3, 4]
