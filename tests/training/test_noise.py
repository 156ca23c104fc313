"""The noise has the distribution that the accountant assumes, from a stream that never repeats."""

import numpy as np
from scipy import stats

from services.client.training.noise import KeyStream, noised
from services.client.training.sampling import poisson_sample


def keyed(number):
    """A stream under a known key: what the system's source would give is random."""
    return KeyStream(lambda count: bytes([number]) * count)


def test_the_variance_passes_an_exact_chi_squared_test():
    draws, sigma = 200_000, 3.0
    statistic = float(np.sum(keyed(1).gaussian(draws, sigma) ** 2)) / sigma**2
    assert 1e-4 < stats.chi2.sf(statistic, draws) < 1 - 1e-4


def test_halved_noise_fails_the_same_test():
    draws, sigma = 200_000, 3.0
    statistic = float(np.sum(keyed(1).gaussian(draws, sigma / 2) ** 2)) / sigma**2
    assert stats.chi2.cdf(statistic, draws) < 1e-12


def test_the_distribution_is_normal():
    assert stats.kstest(keyed(2).gaussian(100_000, 1.0), "norm").pvalue > 1e-4


def test_what_is_released_lies_on_a_grid_that_depends_on_sigma_alone():
    spacing = 2.0**-21  # the power of two at or below 1.5 * 2^-20, and 2^0 <= 1.5
    for total in (np.zeros(1000), np.full(1000, 1e-9), np.linspace(-1, 1, 1000)):
        released = noised(total, 1.5, keyed(3))
        assert np.array_equal(released, np.rint(released / spacing) * spacing)


def test_two_streams_and_two_draws_differ():
    stream = KeyStream()
    first, second = stream.gaussian(1000, 1.0), stream.gaussian(1000, 1.0)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, KeyStream().gaussian(1000, 1.0))


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
