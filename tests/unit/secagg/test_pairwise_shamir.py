"""A threshold of shares opens a secret, fewer say nothing, and wrong shares are passed over and named."""

import math
from secrets import token_bytes

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core.secagg.pairwise import shamir
from shared.errors import Rejected

SECRET = bytes(range(32))


def counting(size):
    return bytes(range(size))


def chosen(shares, points):
    return {point: shares[point - 1] for point in points}


def open_(shares, threshold, secret=SECRET):
    return shamir.reconstruct(shares, threshold, lambda opened: opened == secret)


def through(values, at):
    """Lagrange's formula as it is written in books."""
    others = {point: [other for other in values if other != point] for point in values}
    numerators = {point: math.prod(at - other for other in others[point]) for point in values}
    denominators = {point: math.prod(point - other for other in others[point]) for point in values}
    terms = (v * numerators[point] * pow(denominators[point], -1, shamir.P) for point, v in values.items())
    return sum(terms) % shamir.P


def test_the_field_is_a_field():
    """Miller and Rabin's test on twelve bases; a composite passes each with probability at most 1/4."""
    odd = (shamir.P - 1) // 8
    assert odd % 2 == 1
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):
        powers = [pow(base, odd * 2**i, shamir.P) for i in range(3)]
        assert powers[0] == 1 or shamir.P - 1 in powers


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), secret=st.binary(min_size=32, max_size=32), holders=st.integers(1, 12))
def test_any_threshold_of_shares_opens_every_secret(seed, secret, holders):
    random = np.random.default_rng(seed)
    threshold = int(random.integers(1, holders + 1))
    shares = shamir.share(secret, threshold, holders, token_bytes)
    points = (random.permutation(holders)[:threshold] + 1).tolist()
    assert open_(chosen(shares, points), threshold, secret) == shamir.Opened(secret, ())


def test_secrets_at_the_end_of_the_range_open():
    for secret in (bytes(32), b"\xff" * 32):
        assert open_(chosen(shamir.share(secret, 2, 3, token_bytes), (1, 3)), 2, secret).secret == secret


def test_known_shares():
    """Of f(x) = secret + c x with c from 48 known bytes, by hand."""
    slope = int.from_bytes(bytes(range(48)), "big")
    expected = [(int.from_bytes(SECRET, "big") + slope * x) % (2**256 + 297) for x in (1, 2, 3)]
    assert [int.from_bytes(s, "big") for s in shamir.share(SECRET, 2, 3, counting)] == expected


def test_fewer_shares_fit_every_secret():
    """With one share missing, each candidate secret has a polynomial through what is held."""
    held = chosen(shamir.share(SECRET, 3, 5, token_bytes), (2, 5))
    for candidate in (bytes(32), SECRET, b"\xff" * 32):
        values = {0: int.from_bytes(candidate, "big")} | {
            p: int.from_bytes(s, "big") for p, s in held.items()
        }
        missing = through(values, 4).to_bytes(33, "big")
        assert open_(held | {4: missing}, 3, candidate).secret == candidate
    with pytest.raises(Rejected, match="2 shares do not open a secret: 3 do"):
        open_(held, 3)


@pytest.mark.parametrize("liar", range(1, 6))
def test_one_wrong_share_beyond_the_threshold_is_passed_over_and_named_where_it_stood_in_the_way(liar):
    shares = chosen(shamir.share(SECRET, 4, 5, token_bytes), range(1, 6))
    shares[liar] = bytes(33)
    assert open_(shares, 4) == shamir.Opened(SECRET, (liar,) if liar < 5 else ())


def test_all_wrong_shares_are_named_once_one_stood_in_the_way():
    shares = chosen(shamir.share(SECRET, 3, 9, token_bytes), range(1, 10))
    wrong = shares | {2: bytes(33), 8: bytes(33)}
    assert open_(wrong, 3) == shamir.Opened(SECRET, (2, 8))


def test_a_wrong_share_without_a_spare_one_is_noticed():
    shares = chosen(shamir.share(SECRET, 4, 5, token_bytes), range(1, 5))
    shares[2] = bytes(33)
    with pytest.raises(Rejected, match="fits its commitment"):
        open_(shares, 4)


@pytest.mark.parametrize("bad", [b"", bytes(32), (2**256 + 297).to_bytes(33, "big"), b"\xff" * 99])
def test_what_is_no_element_is_a_wrong_share(bad):
    shares = chosen(shamir.share(SECRET, 2, 4, token_bytes), (1, 2, 3, 4))
    assert not shamir.is_element(bad)
    assert open_(shares | {2: bad}, 2) == shamir.Opened(SECRET, (2,))


def test_every_share_is_an_element():
    assert all(map(shamir.is_element, shamir.share(b"\xff" * 32, 2, 9, token_bytes)))
    assert shamir.is_element((shamir.P - 1).to_bytes(33, "big"))


@pytest.mark.parametrize(("secret", "threshold"), [(bytes(31), 2), (SECRET, 0), (SECRET, 4)])
def test_impossible_sharings_are_refused(secret, threshold):
    with pytest.raises(Rejected):
        shamir.share(secret, threshold, 3, token_bytes)
