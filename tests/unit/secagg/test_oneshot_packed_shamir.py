"""Any quorum opens a sum, fewer learn nothing, and wrong shares are noticed as far as there is redundancy."""

from secrets import token_bytes

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core.secagg.oneshot import interpolation, packed_shamir
from shared.core.secagg.oneshot.interpolation import P, basis, error_positions
from shared.core.secagg.oneshot.packed_shamir import Scheme, reconstruct, scheme_for, share
from shared.errors import Refused, Rejected

KEYS = bytes(range(64))
KNOWN_SHARES = [
    [163684037, 1438902853, 1177235082],
    [462652388, 1167334157, 791983890],
    [631532748, 88837412, 1913545476],
    [190424639, 2060501906, 2114799933],
    [158397446, 1657431986, 1316753751],
]
seeds = st.integers(0, 2**32 - 1)
schemes = st.sampled_from(
    [Scheme(3, 0, 1), Scheme(3, 1, 0), Scheme(4, 1, 1), Scheme(7, 2, 1), Scheme(16, 5, 2), scheme_for(64)]
)


def secrets_for(seed, count):
    return np.random.default_rng(seed).integers(-500, 500, count)


def rows(shares, holders):
    return {holder: shares[holder] for holder in holders}


def chosen(seed, scheme, count):
    return np.random.default_rng(seed).permutation(scheme.holders)[:count].tolist()


@settings(max_examples=60, deadline=None)
@given(seed=seeds, scheme=schemes, count=st.integers(1, 60))
def test_any_quorum_opens_the_secrets(seed, scheme, count):
    secrets = secrets_for(seed, count)
    shares = share(secrets, scheme, KEYS)
    assert shares.shape == (scheme.holders, scheme.blocks(count))
    opened = reconstruct(rows(shares, chosen(seed, scheme, scheme.quorum)), count, scheme)
    assert (opened.secrets == secrets).all()
    assert opened.liars == ()


@settings(max_examples=40, deadline=None)
@given(seed=seeds, scheme=schemes, terms=st.integers(1, 6))
def test_the_sum_of_shares_opens_the_sum_of_secrets(seed, scheme, terms):
    secrets = [secrets_for(seed + term, 33) for term in range(terms)]
    total = np.zeros((scheme.holders, scheme.blocks(33)), np.uint32)
    for term, values in enumerate(secrets):
        total = packed_shamir.add(total, share(values, scheme, bytes([term]) * 64))
    opened = reconstruct(rows(total, chosen(seed, scheme, scheme.quorum)), 33, scheme)
    assert (opened.secrets == np.sum(secrets, axis=0)).all()


@given(scheme=schemes)
def test_fewer_than_a_quorum_are_rejected(scheme):
    shares = share(secrets_for(1, 30), scheme, KEYS)
    with pytest.raises(Rejected, match="do not open a sum"):
        reconstruct(rows(shares, range(scheme.quorum - 1)), 30, scheme)


@pytest.mark.parametrize("bad", [{99: slice(None)}, {0: slice(0, 1)}])
def test_unknown_holders_and_shares_of_another_length_are_rejected(bad):
    scheme = Scheme(4, 1, 1)
    shares = share(secrets_for(1, 30), scheme, KEYS)
    with pytest.raises(Rejected):
        reconstruct({**rows(shares, range(4)), **{k: shares[0][cut] for k, cut in bad.items()}}, 30, scheme)


def test_a_share_out_of_the_field_is_rejected():
    scheme = Scheme(4, 1, 1)
    shares = share(secrets_for(1, 30), scheme, KEYS)
    shares[2, 0] = P
    with pytest.raises(Rejected, match="holder 2"):
        reconstruct(rows(shares, range(4)), 30, scheme)


@settings(max_examples=60, deadline=None)
@given(seed=seeds, scheme=schemes)
def test_the_shares_that_privacy_allows_fit_any_other_secrets(seed, scheme):
    """One polynomial a block goes through them and through whatever secrets one likes, so they exclude nothing."""
    seen = tuple(chosen(seed, scheme, scheme.privacy))
    shares = share(secrets_for(seed, 40), scheme, KEYS)
    others = secrets_for(seed + 1, scheme.blocks(40) * scheme.pack)
    known = np.concatenate([(others % P).astype(np.uint64).reshape(-1, scheme.pack).T, shares[list(seen)]])
    unseen = tuple(holder for holder in range(scheme.holders) if holder not in seen)
    points = scheme.secret_points + tuple(holder + 1 for holder in seen)
    forged = interpolation.product(basis(points, tuple(holder + 1 for holder in unseen)), known)
    everything = rows(shares, seen) | dict(zip(unseen, forged.astype(np.uint32), strict=True))
    opened = reconstruct(everything, 40, scheme)
    assert (opened.secrets == others[:40]).all()
    assert opened.liars == ()


def test_the_shares_that_privacy_allows_look_uniform():
    scheme = Scheme(16, 5, 2)
    key = token_bytes(64)
    print("key", key.hex())
    shares = share(np.zeros(200_000, np.int64), scheme, key)[: scheme.privacy]
    counts = np.histogram(shares, bins=256, range=(0, P))[0]
    expected = shares.size / 256
    assert ((counts - expected) ** 2 / expected).sum() < 390  # 255 degrees of freedom: 1 in 10 million
    table = np.histogram2d(shares[0], shares[1], bins=16, range=[[0, P], [0, P]])[0]
    expected = shares.shape[1] / 256
    assert ((table - expected) ** 2 / expected).sum() < 390


def test_one_answer_short_of_a_quorum_tells_small_secrets():
    """Why two survivor sets must not both get more than `privacy` answers: here 7 of 8 open all 4 secrets."""
    scheme = Scheme(8, 1, 0)
    assert (scheme.privacy, scheme.pack, scheme.quorum) == (4, 4, 8)
    secrets = np.array([17, -40, 3, 25])
    shares = share(secrets, scheme, KEYS)
    points = (*(holder + 1 for holder in range(7)), -1)
    spread = basis(points, scheme.secret_points[1:])
    known = np.concatenate([shares[:7, 0], [0]]).astype(np.uint64)
    fixed = interpolation.product(spread, known[:, None])[:, 0].astype(np.int64)
    small = []
    for guess in range(-100, 101):
        rest = (fixed + guess * spread[:, -1].astype(np.int64)) % P
        rest = np.where(rest > P // 2, rest - P, rest)
        if np.abs(rest).max() <= 100:
            small.append([guess, *rest.tolist()])
    assert small == [secrets.tolist()]


@pytest.mark.parametrize("holders", range(3, 65))
def test_two_survivor_sets_never_both_get_more_answers_than_say_nothing(holders):
    for colluding in range(holders):
        for lost in range(holders):
            try:
                scheme = Scheme(holders, colluding, lost)
            except Refused:
                assert holders - lost <= (holders + colluding) / 2
                continue
            assert scheme.quorum > (holders + colluding) / 2
            assert 2 * (scheme.privacy + 1) > holders + colluding
            assert scheme.pack >= 1
            assert colluding <= scheme.privacy


@pytest.mark.parametrize(
    ("holders", "expected"),
    [(3, (0, 1, 1, 2, 1)), (4, (1, 1, 2, 3, 1)), (7, (2, 1, 4, 6, 2)), (64, (21, 11, 42, 53, 11))],
)
def test_the_default_sizes(holders, expected):
    scheme = scheme_for(holders)
    assert (scheme.colluding, scheme.lost, scheme.privacy, scheme.quorum, scheme.pack) == expected


@pytest.mark.parametrize("holders", range(3, 65))
def test_every_committee_of_3_to_64_opens_without_those_it_may_lose(holders):
    scheme = scheme_for(holders)
    assert scheme.lost >= 1
    shares = share(secrets_for(holders, 50), scheme, KEYS)
    opened = reconstruct(rows(shares, range(scheme.lost, holders)), 50, scheme)
    assert (opened.secrets == secrets_for(holders, 50)).all()


@pytest.mark.parametrize(
    ("scheme", "field"),
    [((1, 0, 0), "holders"), ((65, 0, 0), "holders"), ((4, 4, 0), "colluding"), ((4, -1, 0), "colluding"), ((4, 1, 2), "lost"), ((4, 1, -1), "lost")],
)  # fmt: skip
def test_a_committee_that_cannot_be_safe_is_refused_by_name(scheme, field):
    with pytest.raises(Refused) as refused:
        Scheme(*scheme)
    assert refused.value.field == f"aggregation.committee.{field}"
    assert "give" in refused.value.remedy or "name" in refused.value.remedy


@settings(max_examples=30, deadline=None)
@given(seed=seeds, spare=st.integers(0, 6), liars=st.integers(0, 7))
def test_liars_are_located_up_to_half_the_redundancy_and_noticed_up_to_all_of_it(seed, spare, liars):
    scheme = Scheme(16, 2, 6)
    secrets = secrets_for(seed, 40)
    shares = share(secrets, scheme, KEYS)
    answering = chosen(seed, scheme, scheme.quorum + spare)
    lying = answering[:liars]
    rng = np.random.default_rng(seed)
    for holder in lying:
        block = rng.integers(0, shares.shape[1])
        shares[holder, block] = (int(shares[holder, block]) + rng.integers(1, P)) % P
    if liars <= spare // 2:
        opened = reconstruct(rows(shares, answering), 40, scheme)
        assert (opened.secrets == secrets).all()
        assert opened.liars == tuple(sorted(lying))
    elif liars <= spare:
        with pytest.raises(Rejected, match="contradict"):
            reconstruct(rows(shares, answering), 40, scheme)


def test_a_quorum_alone_cannot_notice_a_liar():
    scheme = Scheme(4, 1, 1)
    shares = share(secrets_for(1, 40), scheme, KEYS)
    shares[0, 0] ^= 1
    opened = reconstruct(rows(shares, range(3)), 40, scheme)
    assert opened.liars == ()
    assert (opened.secrets != secrets_for(1, 40)).any()


def test_known_shares():
    scheme = Scheme(5, 1, 0)
    shares = share(np.array([1, -1, 4, 0, 2]), scheme, KEYS)
    assert shares.tolist() == KNOWN_SHARES


@given(seed=seeds, size=st.integers(1, 64))
def test_the_matrix_product_is_exact(seed, size):
    rng = np.random.default_rng(seed)
    left, right = (
        rng.integers(0, P, (3, size), dtype=np.uint64),
        rng.integers(0, P, (size, 2), dtype=np.uint64),
    )
    right[:, 0] = P - 1
    left[0] = P - 1
    expected = [
        [sum(int(a) * int(b) for a, b in zip(row, column, strict=True)) % P for column in right.T]
        for row in left
    ]
    assert interpolation.product(left, right).tolist() == expected


@given(seed=seeds, degree=st.integers(0, 20))
def test_interpolation_equals_evaluation(seed, degree):
    rng = np.random.default_rng(seed)
    coefficients = rng.integers(0, P, degree + 1).tolist()
    at = tuple(range(-7, 0)) + (40, 63)

    def value(x):
        return sum(c * pow(x, k, P) for k, c in enumerate(coefficients)) % P

    points = tuple((rng.permutation(30)[: degree + 1] + 1).tolist())
    known = np.array([[value(x)] for x in points], np.uint64)
    assert interpolation.product(basis(points, at), known)[:, 0].tolist() == [value(x) for x in at]


def test_a_word_without_errors_has_none():
    assert error_positions([1, 2, 3, 4], [5, 5, 5, 5], 1) == ()
