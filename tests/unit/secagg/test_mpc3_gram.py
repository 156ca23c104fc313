"""The opened Gram matrix is that of the plain sketches, exactly, and near that of the plain updates."""

from dataclasses import replace
from secrets import token_hex

import numpy as np
import pytest
from mpc3_round import THREE, Round, secrets_for, terms_for
from oneshot_round import SeededBytes, values_for

from shared.core.secagg.mpc3 import compiled, geometry, gram, opening, sketch, zeros
from shared.errors import Rejected


def opened(terms, values):
    run = Round.of(terms, values)
    run.upload(*terms.cohort)
    run.freeze()
    return run, run.gram()


def plain_sketches(terms, values, seed=0):
    """In Python's integers and numpy's indices, from the seed alone."""
    drawn = sketch.draw(secrets_for(terms, seed)[0].sketch_seed, terms.dimension, terms.sketch_size)
    columns = np.arange(terms.dimension)
    blocks, places = np.divmod(columns, terms.sketch_size)
    buckets = (places + drawn.rotations[blocks]) % terms.sketch_size
    out = np.zeros((len(values), terms.sketch_size), object)
    for i, row in enumerate(values):
        np.add.at(out[i], buckets, (row.astype(np.int64) * np.where(drawn.signs, -1, 1)).astype(object))
    return out


@pytest.mark.parametrize(
    ("clients", "dimension", "size"),
    [
        (2, 1, 64),
        (3, 63, 64),
        (3, 65, 64),
        (10, 1_000, 64),
        (33, 5_000, 512),
        (64, 20_000, 1024),
        (31, 100_000, 512),
    ],
)
@pytest.mark.parametrize("norm_bound", [None, 2**14])
def test_the_gram_matrix_is_exactly_that_of_the_plain_sketches(clients, dimension, size, norm_bound):
    terms = terms_for(clients, dimension, sketch_size=size, norm_bound=norm_bound)
    values = values_for(clients, clients, dimension)
    if norm_bound is not None:
        values = (values / np.linalg.norm(values, axis=1, keepdims=True) * norm_bound).astype(np.int32)
    run, matrix = opened(terms, values)
    assert not run.parties[0].flagged
    plain = plain_sketches(terms, values)
    assert (matrix == plain @ plain.T).all()


def test_extreme_updates_do_not_wrap():
    terms = terms_for(3, 20_000, sketch_size=64)
    values = np.full((3, 20_000), -(2**15), np.int32)
    values[1] = 2**15 - 1
    plain = plain_sketches(terms, values)
    assert (opened(terms, values)[1] == plain @ plain.T).all()


@pytest.mark.parametrize("bits", [44, 64])
def test_limbs_multiply_exactly_at_their_extremes(bits):
    """Words whose limbs are all as large as they get, 2 k = 2048 of them, against Python's integers."""
    extreme = [2**21, 2**21 - 1, 2**64 - 2**21, 2**43, 2**43 - 1, 2**63, 2**63 - 1, 2**64 - 1, 1, 0]
    low = sum(2 ** (at - 1) for at in (22, 43, 64)) if bits == 64 else 2**21 + 2**43
    words = np.random.default_rng(5).choice(np.array([*extreme, low, 2**64 - low], np.uint64), (6, 2048))
    words[0], words[1] = np.uint64(low), np.uint64(2**64 - low)
    limbs = np.stack(gram._limbs(words, bits))
    result = gram._product(limbs, limbs, bits)
    plain = words.astype(object) @ words.astype(object).T
    assert ((result.astype(object) - plain) % 2**bits == 0).all()


def test_distances_are_right_within_the_sketchs_error():
    """Over 30 draws: unbiased, and as precise as theory says."""
    seed = 20
    values = values_for(seed, 6, 4_000)
    plain = ((values[:, None].astype(float) - values[None]) ** 2).sum(axis=2)
    pairs = np.triu_indices(6, 1)
    errors = []
    for draw in range(30):
        drawn = sketch.draw(SeededBytes("draw", draw)(32), 4_000, 256)
        rows = np.stack(
            [sketch.apply(drawn, row.astype(np.int64).view(np.uint64)).view(np.int64) for row in values]
        )
        distances = ((rows[:, None].astype(float) - rows[None]) ** 2).sum(axis=2)
        errors.append(distances[pairs] / plain[pairs] - 1)
    assert abs(np.mean(errors)) < 0.02
    assert np.std(errors) == pytest.approx(np.sqrt(2 / 256), rel=0.2)


def test_an_empty_sketch_makes_no_gram_matrix_and_the_sum_all_the_same():
    values = values_for(1, 3, 100)
    run = Round.of(terms_for(3, 100, sketch_size=0), values)
    run.upload(*run.terms.cohort)
    run.freeze()
    with pytest.raises(Rejected, match="sketch_size"):
        run.gram()
    assert (run.sum().values == values.sum(axis=0)).all()


def test_only_the_survivors_are_in_it():
    values = values_for(7, 5, 500)
    terms = terms_for(5, 500)
    run = Round.of(terms, values)
    run.receive(2, "client-0001")
    run.upload("client-0004", "client-0000", "client-0003")
    run.freeze()
    plain = plain_sketches(terms, values[[0, 3, 4]])
    assert (run.gram() == plain @ plain.T).all()


def test_one_party_alone_opens_it():
    run, _ = opened(terms_for(3, 100, gram_opener=2), values_for(7, 3, 100))
    given = {i: geometry.share_gram(run.parties[i], run.held[i]) for i in THREE}
    for index in (0, 1):
        others = {i: given[i] for i in THREE if i != index}
        with pytest.raises(Rejected, match="party 2 alone"):
            geometry.open_gram(run.parties[index], run.held[index], others)


def test_it_is_not_shared_before_the_freeze_or_the_norm_check():
    run = Round.of(terms_for(3, 100, norm_bound=2**14), values_for(7, 3, 100))
    run.upload(*run.terms.cohort)
    run.settle()
    with pytest.raises(Rejected, match="not frozen"):
        geometry.share_gram(run.parties[1], run.held[1])
    with pytest.raises(Rejected, match="norm check comes first"):
        geometry.share_gram(replace(run.parties[1], frozen=True), run.held[1])


def test_shares_of_other_clients_lengths_or_rings_are_rejected():
    run, _ = opened(terms_for(3, 100, norm_bound=2**14), values_for(7, 3, 100) >> 8)
    first, second = (geometry.share_gram(run.parties[i], run.held[i]) for i in (1, 2))
    for bad in (
        replace(second, context=bytes(32)), replace(second, words=second.words[:-1]), replace(second, party=1),
        replace(second, words=second.words | np.uint64(2**44)),
    ):  # fmt: skip
        with pytest.raises(Rejected):
            geometry.open_gram(run.parties[0], run.held[0], {1: first, 2: bad})
    with pytest.raises(Rejected):
        geometry.open_gram(run.parties[0], run.held[0], {1: first})
    content = first.to_bytes()
    assert geometry.gram_share_from_bytes(content, 3).to_bytes() == content
    for bad in (content[:-1], content[:20], b"", b"\3" + content[1:]):
        with pytest.raises(Rejected):
            geometry.gram_share_from_bytes(bad, 3)


@pytest.mark.parametrize("norm_bound", [None, 2**14])
def test_what_the_opener_gets_from_each_party_looks_uniform(norm_bound):
    """150 updates of zeros: without a share of zero, the summands would still be random, so also repeated rows."""
    seed = token_hex(16)
    print("seed", seed)
    terms = terms_for(150, 64, norm_bound=norm_bound)
    run = Round.of(terms, np.zeros((150, 64), np.int32), seed=seed)
    run.upload(*terms.cohort)
    run.freeze()
    bits = terms.gram_bits
    words = [geometry.share_gram(run.parties[i], run.held[i]).words for i in (1, 2)]
    repeated = replace(run.held[1], gram=replace(run.held[1].gram, products=np.zeros((150, 150), np.uint64)))
    words.append(geometry.share_gram(run.parties[1], repeated).words)
    for vector in words:
        for shift in (0, bits - 8):
            counts = np.bincount(((vector >> np.uint64(shift)) & np.uint64(255)).astype(int), minlength=256)
            expected = len(vector) / 256
            assert ((counts - expected) ** 2 / expected).sum() < 400
        assert int(vector.max()) < 2**bits


def test_shares_of_zero_add_up_to_zero_and_are_another_stream_for_each_use():
    each = secrets_for(terms_for(2, 2))
    keys = [s.key_for(b"purpose", b"context") for s in each]
    assert not sum(zeros.additive(k, 500) for k in keys).any()
    assert not np.bitwise_xor.reduce([zeros.exclusive(k, 500) for k in keys]).any()
    assert (
        len({each[0].key_for(b"purpose", c) for c in (b"1", b"2")} | {each[0].key_for(b"other", b"1")}) == 3
    )


def test_a_party_that_lies_about_its_summand_is_not_noticed():
    """The limit that the docs name: only the sum's shares have a second copy."""
    run, honest = opened(terms_for(3, 100), values_for(7, 3, 100))
    run.held[2].gram.products[0, 0] += np.uint64(1)
    assert run.gram()[0, 0] == honest[0, 0] + 1
    assert (run.sum().values == values_for(7, 3, 100).sum(axis=0)).all()


def test_absorbing_in_pieces_is_the_sketch_of_the_whole():
    drawn = sketch.draw(b"s" * 32, 40_000, 128)
    words = np.random.default_rng(3).integers(0, 2**64, 40_000, dtype=np.uint64)
    out, total = np.zeros(128, np.uint64), np.zeros(40_000, np.uint64)
    for start in range(0, 40_000, 16_384):
        part = slice(start, start + 16_384)
        rotations = drawn.rotations[start // 128 : -(-min(start + 16_384, 40_000) // 128)]
        compiled.absorb(words[part], drawn.signs[part], rotations, total[part], out)
    assert (out == sketch.apply(drawn, words)).all()
    assert (total == words).all()


def test_signs_and_rotations_are_balanced():
    seed = token_hex(16)
    print("seed", seed)
    drawn = sketch.draw(SeededBytes(seed)(32), 1_000_000, 64)
    assert abs(int((drawn.signs == 0).sum()) - 500_000) < 6 * 500
    assert set(np.unique(drawn.signs)) == {0, -1}
    counts = np.bincount(drawn.rotations, minlength=64)
    expected = len(drawn.rotations) / 64
    assert ((counts - expected) ** 2 / expected).sum() < 140  # 63 degrees of freedom: 1 in 10 million


def test_a_selection_from_the_gram_matrix_opens_the_sum_of_the_selected():
    """Four honest updates around one point and one far away: the nearest four are the honest ones."""
    values = (values_for(3, 1, 2_000) // 8 + values_for(4, 5, 2_000) // 64).astype(np.int32)
    values[2] = -values[2] * 3
    run, matrix = opened(terms_for(5, 2_000, sketch_size=512), values)
    norms = np.diag(matrix).astype(float)
    distances = norms[:, None] + norms[None] - 2.0 * matrix
    scores = np.sort(distances, axis=1)[:, 1:4].sum(axis=1)
    weights = (scores < np.median(scores) * 3).astype(int)
    assert weights.tolist() == [1, 1, 0, 1, 1]
    assert (run.sum(weights).values == weights @ values).all()
    assert isinstance(opening.everyone(run.parties[0]).weights, tuple)
