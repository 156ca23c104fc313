"""The norm check flags what is far too long and nothing that is within the bound, and shows one bit a client."""

from dataclasses import replace
from secrets import token_hex

import numpy as np
import pytest
from mpc3_round import THREE, Round, raw_shares, terms_for
from oneshot_round import values_for

from shared.core.secagg.mpc3 import compiled, norm_check, opening, party
from shared.core.secagg.mpc3.terms import bound_bits
from shared.errors import Rejected, Stale

BOUND = 2**20


def checked(terms, values, hostile, seed=0):
    """`hostile`: any integers, by client."""
    run = Round.of(terms, values, seed)
    for name, row in hostile.items():
        run.payloads[name] = raw_shares(terms, name, row, seed)
    run.upload(*terms.cohort)
    run.freeze()
    return run


def hostile_rows(dimension):
    """Each would pass a bound on the Gram matrix alone, or on projections by signs alone, or is plainly long."""
    rows = {}
    for name, places in {
        "2^22, whose square is 0 modulo 2^44": {7: 2**22 * 2**4},
        "2^32, whose square is 0 modulo 2^64": {7: 2**32},
        "2^63, its own negative": {7: -(2**63)},
        "two of 2^63, which signs alone cancel": {7: -(2**63), 71: -(2**63)},
        "two of 2^62": {0: 2**62, 64: 2**62},
        "the last coordinate": {dimension - 1: 2**40},
        "many of 2^40": dict.fromkeys(range(64), 2**40),
        "a hundred times the bound, spread": dict.fromkeys(range(dimension), 100 * BOUND // 50),
    }.items():
        row = np.zeros(dimension, np.int64)
        for place, value in places.items():
            row[place] = value
        rows[name] = row
    return rows


@pytest.mark.parametrize("name", list(hostile_rows(2_501)))
def test_hostile_updates_are_flagged_and_left_out(name):
    seed = token_hex(16)
    print("seed", seed)
    values = values_for(1, 5, 2_501) >> 3
    terms = terms_for(5, 2_501, norm_bound=BOUND)
    run = checked(terms, values, {"client-0003": hostile_rows(2_501)[name]}, seed)
    assert all(p.flagged == {"client-0003"} for p in run.parties)
    assert party.members(run.parties[0]) == ("client-0000", "client-0001", "client-0002", "client-0004")
    assert run.gram().shape == (4, 4)
    assert (run.sum().values == values[[0, 1, 2, 4]].sum(axis=0)).all()


def test_updates_at_the_bound_are_not_flagged_however_they_are_spread():
    seed = token_hex(16)
    print("seed", seed)
    dimension = 1_000
    rows = np.zeros((40, dimension), np.int64)
    for i in range(40):
        used = 1 + i * 25
        rows[i, :used] = int(BOUND / np.sqrt(used)) * (1 if i % 2 else -1)
    terms = terms_for(40, dimension, norm_bound=BOUND)
    names = sorted(terms.cohort)
    run = checked(terms, np.zeros((40, dimension), np.int32), dict(zip(names, rows, strict=True)), seed)
    assert run.parties[0].flagged == frozenset()


def test_a_flagged_client_cannot_be_selected():
    terms = terms_for(4, 500, norm_bound=BOUND)
    run = checked(terms, values_for(1, 4, 500), {"client-0000": [2**50] * 500})
    selection = opening.everyone(run.parties[0])
    assert selection.weights == (0, 1, 1, 1)
    with pytest.raises(Rejected, match="flagged"):
        opening.choose(run.parties[0], run.held[0], replace(selection, weights=(1, 1, 1, 1)))


@pytest.mark.parametrize("norm_bound", [1, 2**17, 2**40 - 1])
def test_the_comparison_is_exact_at_its_edges(norm_bound):
    """Chosen projections, shared by hand, in place of real ones."""
    edge = 2 ** bound_bits(norm_bound)
    assert edge / 2 < 6 * norm_bound <= edge
    inside = [0, 1, -1, edge - 1, -edge]
    outside = [edge, -edge - 1, 2**62, -(2**63), 2**63 - 1, edge + 1]
    terms = terms_for(len(inside + outside), 10, norm_bound=norm_bound)
    run = Round.of(terms, np.zeros((len(terms.cohort), 10), np.int32))
    run.upload(*terms.cohort)
    shares = np.random.default_rng(2).integers(
        0, 2**64, (3, len(terms.cohort), compiled.ROWS), dtype=np.uint64
    )
    values = np.zeros(shares[0].shape, np.int64)
    for client, value in enumerate(inside + outside):
        values[client, client * 3] = value
    shares[2] = values.view(np.uint64) - shares[0] - shares[1]
    for i in THREE:
        run.held[i].projections[:] = np.stack((shares[i], shares[(i + 1) % 3]), axis=1)
    run.freeze()
    assert run.parties[0].flagged == set(sorted(terms.cohort)[len(inside) :])


def test_projections_are_what_they_say():
    rng = np.random.default_rng(4)
    for count in (1, 3, 4, 1_001):
        groups = -(-count // compiled.GROUP)
        words = rng.integers(0, 2**64, count, dtype=np.uint64)
        choices = rng.integers(0, 256, groups * compiled.GROUP_BYTES, dtype=np.uint8)
        out = np.zeros(compiled.ROWS, np.uint64)
        compiled.project(words, choices, out)
        nibbles = np.stack((choices & 15, choices >> 4), axis=1).reshape(groups, -1)
        bits = (nibbles[:, :, None] >> np.arange(4)) & 1  # group, row (signs: row 40), coordinate
        kept = bits[:, :40].transpose(1, 0, 2).reshape(40, -1)[:, :count]
        signs = np.where(bits[:, 40].reshape(-1)[:count], -1, 1)
        plain = (kept.astype(object) * signs.astype(object)) @ words.astype(object)
        assert (out == np.array([int(value) % 2**64 for value in plain], np.uint64)).all()


def test_projections_of_shares_add_up_to_one_of_the_update_and_depend_on_the_upload():
    """The same values under other seeds are projected otherwise: nobody knows a projection before it commits."""
    terms = terms_for(2, 20_000, norm_bound=BOUND)
    values = values_for(5, 1, 20_000).repeat(2, axis=0)
    run = Round.of(terms, values)
    run.upload(*terms.cohort)
    sums = run.held[0].projections[:, 0] + run.held[1].projections[:, 0] + run.held[2].projections[:, 0]
    assert (run.held[0].projections[:, 1] == run.held[1].projections[:, 0]).all()
    projected = sums.view(np.int64)
    assert np.abs(projected).max() < 6 * np.linalg.norm(values[0].astype(float))
    assert (projected[0] != projected[1]).all()


def test_no_message_of_the_comparison_repeats_or_leans():
    """XOR shares of zero hide every layer: 1280 words of updates of zeros have about half their bits set."""
    terms = terms_for(32, 64, norm_bound=BOUND)
    run = Round.of(terms, np.zeros((32, 64), np.int32), seed=token_hex(16))
    run.upload(*terms.cohort)
    for held in run.held:
        held.projections[:] = 0  # without the shares of zero all messages would be constant
    run.freeze()
    for layer in run.sent["layers"][:-1]:
        for content in layer:
            bits = np.unpackbits(np.frombuffer(content[34:], np.uint8))
            assert abs(bits.mean() - 0.5) < 6 * 0.5 / np.sqrt(len(bits))
    assert run.parties[0].flagged == frozenset()


def test_a_party_that_opens_other_bits_is_noticed():
    bits = np.zeros((2, 3), np.uint64)
    run = Round.of(terms_for(3, 20, norm_bound=BOUND), values_for(1, 3, 20))
    run.upload(*run.terms.cohort)
    run.settle()
    first, second = norm_check.verdict(bits)
    lie = b"\1" + second[1:]
    with pytest.raises(Rejected, match="different bits"):
        norm_check.conclude(run.parties[0], bits, first, lie)
    run.parties[0] = replace(run.parties[0], frozen=True)
    with pytest.raises(Rejected, match="bytes"):
        norm_check.conclude(run.parties[0], bits, first[:-8], second[:-8])
    done = norm_check.conclude(run.parties[0], bits, first, second)
    with pytest.raises(Stale):
        norm_check.conclude(done, bits, first, second)


def test_a_message_of_another_step_or_length_is_rejected():
    run = checked(terms_for(3, 20, norm_bound=BOUND), values_for(1, 3, 20), {})
    good = run.sent["layers"][0][1]
    for bad in (good[:-8], good[:-1], bytes(34) + good[34:], run.sent["layers"][1][1], b""):
        steps = norm_check.compare(run.parties[0], run.held[0])
        next(steps)
        with pytest.raises(Rejected):
            steps.send(bad)


def test_there_is_no_check_without_a_bound_or_before_the_freeze():
    run = Round.of(terms_for(3, 20), values_for(1, 3, 20))
    run.upload(*run.terms.cohort)
    with pytest.raises(Rejected, match="not frozen"):
        next(norm_check.compare(run.parties[0], run.held[0]))
    run.freeze()
    with pytest.raises(Rejected, match="norm bound"):
        next(norm_check.compare(run.parties[0], run.held[0]))
