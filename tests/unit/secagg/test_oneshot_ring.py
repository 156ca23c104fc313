"""The ring's product is the schoolbook's; the compiled loops equal the numpy ones; vectors are known."""

import hashlib
import secrets
from bisect import bisect_right

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core.secagg import key_stream
from shared.core.secagg.oneshot import beacon, compiled, noise, ring

KNOWN_FIRST = [432524605, 1244457594, 246074833, 104537235]
KNOWN_SHA256 = "d5c982623f6b58cb7b219e03a17cfc4f96eb24de6b7a03f71f9f68560647d896"
KNOWN_TABLE = [817687349638589161, 2413176862773649841, 3894753060992962691]
KNOWN_TABLE_SHA256 = "93f358e8247ad872b554c04f4b7e62c3d07b81b86cdfac24f990295d6f882980"
KNOWN_A = [285787720, 779559643, 1409067590, 2014478289]
KNOWN_A_SHA256 = "94f7b93f503f923f35c54c5e7d07d686b6cd029c012318653167d81b1bae2c21"
seeds = st.integers(0, 2**32 - 1)


def uniform(seed, *shape):
    return np.random.default_rng(seed).integers(0, ring.Q, shape, dtype=np.uint32)


def schoolbook(left, right):
    out = [0] * ring.N
    for i, a in ((i, int(a)) for i, a in enumerate(left) if a):
        for j, b in ((j, int(b)) for j, b in enumerate(right) if b):
            sign = -1 if i + j >= ring.N else 1
            out[(i + j) % ring.N] += sign * a * b
    return [value % ring.Q for value in out]


def test_the_modulus_is_the_largest_ntt_prime_below_2_to_the_31():
    def is_prime(number):
        return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))

    assert is_prime(ring.Q)
    assert not any(is_prime(c) for c in range(ring.Q + 2 * ring.N, 2**31, 2 * ring.N))
    assert pow(ring.PSI, ring.N, ring.Q) == ring.Q - 1


def test_the_transform_of_x_is_the_odd_powers_of_the_root():
    """Known in closed form: X at psi^(2 bitreverse(j) + 1)."""
    x = np.zeros((ring.N, 1), np.uint32)
    x[1] = 1
    reversed_bits = [int(f"{j:011b}"[::-1], 2) for j in range(ring.N)]
    expected = [pow(ring.PSI, 2 * r + 1, ring.Q) for r in reversed_bits]
    assert ring.forward(x)[:, 0].tolist() == expected


def test_a_known_transform():
    values = np.arange(ring.N, dtype=np.uint32)[:, None]
    transformed = ring.forward(values)
    assert transformed[:4, 0].tolist() == KNOWN_FIRST
    assert hashlib.sha256(transformed.astype("<u4").tobytes()).hexdigest() == KNOWN_SHA256


@settings(max_examples=20)
@given(seed=seeds, lanes=st.integers(1, 5))
def test_the_inverse_undoes_the_transform(seed, lanes):
    values = uniform(seed, 2, ring.N, lanes)
    assert (ring.inverse(ring.forward(values)) == values).all()


@settings(max_examples=20, deadline=None)
@given(seed=seeds, terms=st.integers(1, 24))
def test_the_product_is_the_schoolbook_product(seed, terms):
    rng = np.random.default_rng(seed)
    left, right = np.zeros((2, ring.N, 1), np.uint32)
    left[rng.integers(0, ring.N, terms), 0] = uniform(seed, terms)
    right[rng.integers(0, ring.N, terms), 0] = uniform(seed + 1, terms)
    assert ring.multiply(left, right)[:, 0].tolist() == schoolbook(left[:, 0], right[:, 0])


def test_x_to_the_n_is_minus_one():
    half = np.zeros((ring.N, 1), np.uint32)
    half[ring.N // 2] = 1
    product = ring.multiply(half, half)[:, 0]
    assert product[0] == ring.Q - 1
    assert not product[1:].any()


def test_centring_undoes_residues_up_to_half_the_modulus():
    edge = ring.Q // 2
    values = np.array([0, 1, -1, edge, -edge], np.int64)
    assert ring.centred(ring.residues(values)).tolist() == values.tolist()


@settings(max_examples=10, deadline=None)
@given(seed=seeds, groups=st.integers(1, 2))
def test_the_compiled_mask_equals_the_numpy_product(seed, groups):
    rng = np.random.default_rng(seed)
    transforms = uniform(seed, groups, ring.N, beacon.LANES)
    secret = rng.integers(-(2**20), 2**20, ring.N)
    expected = ring.multiply(ring.inverse(transforms), ring.residues(secret)[:, None])
    assert (compiled.mask(transforms, secret) == expected.reshape(-1)).all()
    pieces = [piece.copy() for piece in compiled.masks(transforms, secret)]
    assert (np.concatenate(pieces) == expected.reshape(-1)).all()


def test_words_in_pieces_are_the_same_words():
    key = bytes(range(32))
    pieces = [piece.copy() for piece in key_stream.pieces(key, 100_000, 30_000)]
    assert [len(piece) for piece in pieces] == [30_000, 30_000, 30_000, 10_000]
    assert (np.concatenate(pieces) == key_stream.words(key, 100_000)).all()


def test_the_compiled_mask_holds_at_the_edges_of_the_range():
    transforms = np.full((1, ring.N, beacon.LANES), ring.Q - 1, np.uint32)
    secret = np.full(ring.N, ring.Q // 2)
    expected = ring.multiply(ring.inverse(transforms), ring.residues(secret)[:, None])
    assert (compiled.mask(transforms, secret) == expected.reshape(-1)).all()


@settings(max_examples=50, deadline=None)
@given(seed=seeds, size=st.integers(1, 300), scale=st.sampled_from([16, 32, 1024]))
def test_the_compiled_encryption_equals_the_numpy_one(seed, size, scale):
    rng = np.random.default_rng(seed)
    masked, words = uniform(seed, size), rng.integers(0, 2**64, size, dtype=np.uint64)
    values = rng.integers(-(2**15), 2**15, size, dtype=np.int32)
    plain = noise.from_words(words) + scale * values.astype(np.int64)
    expected = (masked + plain) % ring.Q
    compiled.conceal(masked, words, values, scale)
    assert (masked == expected).all()


@given(seed=seeds, size=st.integers(1, 50))
def test_the_compiled_sum_and_opening_equal_the_numpy_ones(seed, size):
    left, right = uniform(seed, size), uniform(seed + 1, size)
    for edge in (0, 1, ring.Q // 2, ring.Q // 2 + 1, ring.Q - 1):
        left[0] = edge
        difference = ((left.astype(np.int64) - right) % ring.Q).astype(np.uint32)
        assert (compiled.reveal(left, right, 0.5) == ring.centred(difference) * 0.5).all()
        total = left.copy()
        compiled.add(total, right)
        assert (total == (left.astype(np.uint64) + right) % ring.Q).all()


def test_the_noise_table_is_known():
    assert noise.TABLE[:3].tolist() == KNOWN_TABLE
    assert hashlib.sha256(noise.TABLE.astype("<i8").tobytes()).hexdigest() == KNOWN_TABLE_SHA256


def test_the_noise_has_the_mass_of_a_discrete_gaussian():
    support = np.arange(-noise.LARGEST, noise.LARGEST + 1)
    expected = np.exp(-(support.astype(float) ** 2) / (2 * noise.SIGMA**2))
    expected /= expected.sum()
    cumulated = np.append(noise.TABLE.astype(float), 2.0**63) / 2.0**63
    half = np.diff(cumulated, prepend=0)
    mass = np.concatenate([half[:0:-1] / 2, half[:1], half[1:] / 2])
    assert np.abs(mass - expected).max() < 1e-15
    assert noise.standard_deviation() == pytest.approx(4.5, abs=1e-9)


def test_the_sampler_counts_the_boundaries_at_or_below_a_draw():
    table = noise.TABLE.tolist()
    assert table == sorted(table)
    for boundary in table:
        below, at = bisect_right(table, boundary - 1), bisect_right(table, boundary)
        words = np.array([2 * (boundary - 1), 2 * boundary, 2 * boundary + 1], np.uint64)
        assert noise.from_words(words).tolist() == [below, at, -at]


def test_the_noise_drawn_fits_its_distribution():
    """Chi-squared over the values within 3 sigma."""
    key = secrets.token_bytes(32)
    print("key", key.hex())
    drawn = noise.from_words(key_stream.words(key, 100_000))
    support = np.arange(-13, 14)
    expected = np.exp(-(support.astype(float) ** 2) / (2 * noise.SIGMA**2)) / (
        noise.SIGMA * np.sqrt(2 * np.pi)
    )
    counts = np.array([(drawn == value).sum() for value in support])
    rest = np.array([len(drawn) - counts.sum()])
    expected = np.append(expected, 1 - expected.sum()) * len(drawn)
    statistic = float(((np.concatenate([counts, rest]) - expected) ** 2 / expected).sum())
    print("chi-squared", statistic)
    assert statistic < 85  # 27 degrees of freedom: 1 in 10 million


def test_the_public_polynomials_are_known():
    values = beacon.expand(b"seed", (b"job", b"round"), 1)
    assert values[0, 0, :4].tolist() == KNOWN_A
    assert hashlib.sha256(values.astype("<u4").tobytes()).hexdigest() == KNOWN_A_SHA256


def test_a_longer_expansion_begins_with_the_shorter_and_another_context_shares_nothing():
    one = beacon.expand(b"seed", (b"job", b"round"), 1)
    assert (beacon.expand(b"seed", (b"job", b"round"), 2)[:1] == one).all()
    for other in (
        beacon.expand(b"seed", (b"jobr", b"ound"), 1),
        beacon.expand(b"seee", (b"job", b"round"), 1),
    ):
        assert (other == one).mean() < 1e-3


def test_the_public_polynomials_are_uniform_below_the_modulus():
    values = beacon.expand(b"uniform", (), 8).reshape(-1)
    assert int(values.max()) < ring.Q
    counts = np.histogram(values, bins=256, range=(0, ring.Q))[0]
    expected = len(values) / 256
    assert ((counts - expected) ** 2 / expected).sum() < 390  # 255 degrees of freedom: 1 in 10 million


def test_rejected_words_are_replaced_and_the_rest_stay_where_they_were():
    keys = bytes(range(64))
    modulus = 2**30 + 1  # rejects half
    values = key_stream.below(modulus, 1000, keys)
    raw = (key_stream.words(keys[:32], 500).view("<u4")) & (2**31 - 1)
    spare = (key_stream.words(keys[32:], 2000).view("<u4")) & (2**31 - 1)
    replacements = iter(word for word in spare.tolist() if word < modulus)
    assert values.tolist() == [word if word < modulus else next(replacements) for word in raw.tolist()]
